#include "storage.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <system_error>
#include <utility>
#include <vector>

namespace vfio::soft::devices::nvme {

namespace {

constexpr uint64_t defaultSize = 64 << 20;
constexpr size_t kStep = 1 << 20;  // how much of the data is in a buffer at a time

// Precedes its bytes in a state.
struct Extent {
  uint64_t at, size;
};

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

void Storage::save(StateWriter& writer) const {
  std::vector<uint8_t> bytes(kStep);
  off_t hole = 0;
  for (off_t from = 0; (from = lseek(fd_, from, SEEK_DATA)) >= 0; from = hole) {
    hole = lseek(fd_, from, SEEK_HOLE);
    for (off_t at = from; at < hole; at += static_cast<off_t>(kStep)) {
      const std::span part(bytes.data(), std::min(kStep, static_cast<size_t>(hole - at)));
      if (!read(static_cast<uint64_t>(at), part)) throw std::system_error(errno, std::generic_category());
      writer.put(Extent{static_cast<uint64_t>(at), part.size()});
      writer.putBytes(part);
    }
  }
}

// New memory takes the place of the old one once all of it is there.
bool Storage::load(StateReader& reader) {
  Storage loaded({.size = size_});
  Extent extent{};
  while (!reader.finished()) {
    if (!reader.get(extent) || extent.size == 0 || extent.at > size_ || extent.size > size_ - extent.at)
      return false;
    const auto bytes = reader.view(extent.size);
    if (bytes.empty() || !loaded.write(extent.at, bytes)) return false;
  }
  std::swap(fd_, loaded.fd_);
  return true;
}

// What was written before can be written again, however full it is.
bool Storage::hasRoom(uint64_t at, uint64_t size) const {
  if (!limited_ || used() + size <= kMost) return true;
  const off_t hole = lseek(fd_, static_cast<off_t>(at), SEEK_HOLE);
  return hole >= 0 && static_cast<uint64_t>(hole) >= at + size;
}

}  // namespace vfio::soft::devices::nvme
