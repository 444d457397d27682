// An open file of a host: a descriptor of this package's own, and what the ledger knows of the open file
// behind it.
//
// Life: shared by the object in JavaScript, by the address spaces and objects made of it, and by each call
// under way on it. The descriptor is closed when the last of them lets go.
#pragma once

#include <memory>
#include <utility>

#include "../backend.h"

namespace vfio::ledger {

class KernelFile;

class OpenFile {
 public:
  // Takes over `fd`, also when it throws. `adopted`: the open file was made elsewhere, so that another
  // descriptor of this process may lead to it.
  OpenFile(std::shared_ptr<Backend> backend, int fd, bool adopted);
  ~OpenFile();
  OpenFile(const OpenFile&) = delete;
  OpenFile& operator=(const OpenFile&) = delete;

  [[nodiscard]] int ioctl(unsigned long request, void* argument) const {
    return backend->ioctl(fd, request, reinterpret_cast<uintptr_t>(argument));
  }

  const std::shared_ptr<Backend> backend;
  const int fd;
  const std::shared_ptr<KernelFile> kernel;  // the open file; the same for each descriptor that leads to it
};

}  // namespace vfio::ledger
