#include "storage.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <system_error>

namespace vfio::soft::devices::nvme {

namespace {

constexpr uint64_t defaultSize = 64 << 20;

// The size that an open file has or gets. 0, with errno: it can't have any.
uint64_t settleSize(int fd, const NvmeOptions& options) {
  struct stat status {};
  if (fstat(fd, &status) != 0) return 0;
  if (!S_ISREG(status.st_mode)) {
    errno = EINVAL;
    return 0;
  }
  const auto there = static_cast<uint64_t>(status.st_size);
  const uint64_t size = options.size.value_or(there == 0 ? defaultSize : there - there % options.blockSize);
  if (size == 0) errno = EINVAL;
  if (size > there && ftruncate(fd, static_cast<off_t>(size)) != 0) return 0;
  return size;
}

}  // namespace

Storage::Storage(const NvmeOptions& options) : limited_(options.file.empty()) {
  fd_ = limited_ ? memfd_create("vfio-nvme", MFD_CLOEXEC)
                 : open(options.file.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0600);
  if (fd_ >= 0) size_ = settleSize(fd_, options);
  if (size_ != 0) return;
  const int error = errno;
  if (fd_ >= 0) close(fd_);
  throw std::system_error(error, std::generic_category(), limited_ ? "memfd_create" : options.file);
}

Storage::~Storage() { close(fd_); }

uint64_t Storage::used() const {
  constexpr uint64_t unit = 512;  // of st_blocks
  struct stat status {};
  return fstat(fd_, &status) == 0 ? static_cast<uint64_t>(status.st_blocks) * unit : 0;
}

// A file that was cut meanwhile reads as zero.
bool Storage::read(uint64_t at, std::span<uint8_t> into) const {
  while (!into.empty()) {
    const ssize_t moved = pread(fd_, into.data(), into.size(), static_cast<off_t>(at));
    if (moved < 0) return false;
    if (moved == 0) break;
    at += static_cast<uint64_t>(moved);
    into = into.subspan(static_cast<size_t>(moved));
  }
  for (uint8_t& byte : into) byte = 0;
  return true;
}

bool Storage::write(uint64_t at, std::span<const uint8_t> from) {
  if (!hasRoom(at, from.size())) return false;
  while (!from.empty()) {
    const ssize_t moved = pwrite(fd_, from.data(), from.size(), static_cast<off_t>(at));
    if (moved <= 0) return false;
    at += static_cast<uint64_t>(moved);
    from = from.subspan(static_cast<size_t>(moved));
  }
  return true;
}

bool Storage::clear(uint64_t at, uint64_t size) {
  return size == 0 || fallocate(fd_, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, static_cast<off_t>(at),
                                static_cast<off_t>(size)) == 0;
}

// What was written before can be written again, however full it is.
bool Storage::hasRoom(uint64_t at, uint64_t size) const {
  if (!limited_ || used() + size <= kMost) return true;
  const off_t hole = lseek(fd_, static_cast<off_t>(at), SEEK_HOLE);
  return hole >= 0 && static_cast<uint64_t>(hole) >= at + size;
}

}  // namespace vfio::soft::devices::nvme
