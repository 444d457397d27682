// Pages of a memfd: mapped here, so that they can be reached as the program's memory is.
#include <fcntl.h>
#include <linux/magic.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/vfs.h>
#include <unistd.h>

#include <cerrno>
#include <string>

#include "pages.h"

namespace vfio::soft::iommufd {
namespace {

// The largest alignment that matters to the choice of an IOVA, or to a page table.
constexpr uint64_t kLargest = uint64_t{2} << 20;

// Of all files only these can be pinned: memfd, tmpfs, hugetlbfs.
bool inMemory(int fd) {
  struct stat file = {};
  struct statfs system = {};
  if (fstat(fd, &file) != 0 || !S_ISREG(file.st_mode) || fstatfs(fd, &system) != 0) return false;
  const auto type = static_cast<uint32_t>(system.f_type);
  return type == TMPFS_MAGIC || type == HUGETLBFS_MAGIC;
}

void* mapAt(void* place, uint64_t bytes, int protection, int fd, uint64_t start) {
  return mmap(place, bytes, protection, MAP_SHARED | MAP_FIXED, fd, static_cast<off_t>(start));
}

// Does the error mean that the process lacks something? Then it says nothing about the file.
bool isLack(int error) { return error == ENOMEM || error == EMFILE || error == ENFILE || error == EAGAIN; }

// Maps the file as aligned as its offset is; null if that fails. `lacking` is then set if only a resource of
// the process was missing.
void* mapAligned(int fd, uint64_t start, uint64_t bytes, bool writable, int& lacking) {
  if (start > INT64_MAX || bytes > INT64_MAX - start) return nullptr;
  void* const room =
      mmap(nullptr, bytes + kLargest, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (room == MAP_FAILED) {
    lacking = -errno;
    return nullptr;
  }
  const auto from = reinterpret_cast<uint64_t>(room);
  const uint64_t skipped = (start - from) & (kLargest - 1);
  char* const place = static_cast<char*>(room) + skipped;
  void* mapped = mapAt(place, bytes, writable ? PROT_READ | PROT_WRITE : PROT_READ, fd, start);
  if (mapped == MAP_FAILED && writable && errno == EACCES) {
    // The kernel doesn't check how the descriptor was opened.
    const std::string path = "/proc/self/fd/" + std::to_string(fd);
    const auto again = static_cast<int>(syscall(SYS_openat, AT_FDCWD, path.c_str(), O_RDWR | O_CLOEXEC, 0));
    if (again >= 0) {
      mapped = mapAt(place, bytes, PROT_READ | PROT_WRITE, again, start);
      const int error = errno;
      syscall(SYS_close, again);
      errno = error;
    }
  }
  if (mapped == MAP_FAILED) {
    if (isLack(errno)) lacking = -errno;
    munmap(room, bytes + kLargest);
    return nullptr;
  }
  if (skipped != 0) munmap(room, skipped);
  munmap(place + bytes, kLargest - skipped);
  return mapped;
}

}  // namespace

int Pages::makeFile(int fd, uint64_t start, uint64_t length, bool writable, mm::Payer payer, Pages*& out) {
  if (length != 0 && start + (length - 1) < start) return -EOVERFLOW;
  const uint64_t page = mm::pageSize();
  // Without memory behind it the address only says how the file is aligned.
  if (const int error = make(start % kLargest, length, writable, payer, out); error != 0) return error;
  out->file_ = 1;
  if (!inMemory(fd)) return 0;
  int lacking = 0;
  void* const mapped = mapAligned(fd, start & ~(page - 1), out->count_ * page, writable, lacking);
  if (mapped == nullptr) {
    if (lacking != 0) out->unref();
    return lacking;
  }
  out->user_ = reinterpret_cast<uint64_t>(mapped);
  out->mapped_ = 1;
  return 0;
}

Pages::~Pages() {
  if (mapped_ != 0) munmap(reinterpret_cast<void*>(user_), count_ * mm::pageSize());
}

}  // namespace vfio::soft::iommufd
