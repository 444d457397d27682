// An open file of a host: a descriptor that this package owns, and the ledger of the open file behind it.
//
// Nobody else knows the descriptor number that calls use. A program that asks for the descriptor gets another
// number for the same open file. The program should not close that number, but it may, and then the number
// may belong to any other file. So neither a call nor the close can reach a file that is not this one.
//
// Life: shared by the object in JavaScript, by the address spaces and objects created from it, and by each
// call that is running on it. The descriptor is closed when the last of them releases it.
#pragma once

#include <atomic>
#include <memory>
#include <utility>

#include "../backend.h"

namespace vfio::ledger {

class KernelFile;

class OpenFile {
 public:
  // Takes over `fd`, unless it throws. `adopted`: the file was opened elsewhere, so another descriptor of
  // this process may refer to the same open file.
  OpenFile(std::shared_ptr<Backend> backend, int fd, bool adopted);
  ~OpenFile();
  OpenFile(const OpenFile&) = delete;
  OpenFile& operator=(const OpenFile&) = delete;

  // The number for the program, or -errno. It is the first number of the file, by which the host knows the
  // file. Calls use a duplicate from then on. Only the thread that owns the object may call this.
  [[nodiscard]] int tell();

  [[nodiscard]] int ioctl(unsigned long request, void* argument) const {
    return backend->ioctl(fd, request, reinterpret_cast<uintptr_t>(argument));
  }

  const std::shared_ptr<Backend> backend;
  std::atomic<int> fd;                       // calls on the thread pool read it
  const std::shared_ptr<KernelFile> kernel;  // the open file; the same for all descriptors that refer to it

 private:
  int told_ = -1;
};

}  // namespace vfio::ledger
