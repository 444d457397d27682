#include "open_file.h"

#include <utility>

#include "kernel_file.h"

namespace vfio::ledger {

OpenFile::OpenFile(std::shared_ptr<Backend> backend, int fd, bool adopted)
    : backend(std::move(backend)), fd(fd), kernel(KernelFile::of(*this, adopted)) {}

OpenFile::~OpenFile() {
  kernel->closing(*this);
  // If the host cannot tell whether both are the same file, one leaked descriptor is better than closing
  // another file.
  if (told_ >= 0 && backend->same(told_, fd).value_or(false)) backend->close(told_);
  backend->close(fd);
}

int OpenFile::tell() {
  if (told_ >= 0) return told_;
  const int copy = backend->dup(fd);
  if (copy < 0) return copy;
  return told_ = fd.exchange(copy);
}

}  // namespace vfio::ledger
