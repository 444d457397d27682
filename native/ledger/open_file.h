// An open file of a host: a descriptor of this package's own, and what the ledger knows of the open file
// behind it.
//
// The number that calls use is known to nobody else. A program that asks for the descriptor is told another
// one for the same open file: it may close it, though it shouldn't, and then the number may be any other
// file's. So neither a call nor the closing can reach a file that is not this one.
//
// Life: shared by the object in JavaScript, by the address spaces and objects made of it, and by each call
// under way on it. The descriptor is closed when the last of them lets go.
#pragma once

#include <atomic>
#include <memory>
#include <utility>

#include "../backend.h"

namespace vfio::ledger {

class KernelFile;

class OpenFile {
 public:
  // Takes over `fd`, unless it throws. `adopted`: the open file was made elsewhere, so that another
  // descriptor of this process may lead to it.
  OpenFile(std::shared_ptr<Backend> backend, int fd, bool adopted);
  ~OpenFile();
  OpenFile(const OpenFile&) = delete;
  OpenFile& operator=(const OpenFile&) = delete;

  // The number for the program, or -errno: the first one that there was, which is what a host knows the file
  // by. Calls have a duplicate from then on. For the thread that the object belongs to.
  [[nodiscard]] int tell();

  [[nodiscard]] int ioctl(unsigned long request, void* argument) const {
    return backend->ioctl(fd, request, reinterpret_cast<uintptr_t>(argument));
  }

  const std::shared_ptr<Backend> backend;
  std::atomic<int> fd;                       // calls on the thread pool read it
  const std::shared_ptr<KernelFile> kernel;  // the open file; the same for each descriptor that leads to it

 private:
  int told_ = -1;
};

}  // namespace vfio::ledger
