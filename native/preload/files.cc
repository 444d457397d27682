// Calls on paths and descriptors: open, close, dup, ioctl, reading and writing.
//
// Headers are told not to redirect or check anything: both spellings of a function are defined here.
#include "files.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>

#include <array>
#include <atomic>
#include <cerrno>
#include <climits>
#include <cstdarg>
#include <map>
#include <memory>
#include <mutex>

#include "../soft/files/status.h"
#include "../soft/mm/memory.h"
#include "descriptors.h"
#include "mirror.h"
#include "real.h"
#include "software.h"

namespace vfio::preload {

namespace {

// What a path's status was when it was opened, by path: there are few, and they are kept.
struct Statuses {
  std::mutex lock;
  std::map<std::string, std::unique_ptr<soft::files::Status>> byPath;
};

std::array<std::atomic<const soft::files::Status*>, Descriptors::most> opened;

Statuses& statuses() {
  static auto* const made = new Statuses;
  return *made;
}

void remember(int fd, const std::string& path, const soft::files::Status& status) {
  if (fd < 0 || static_cast<size_t>(fd) >= opened.size()) return;
  auto& all = statuses();
  const std::lock_guard hold(all.lock);
  auto& kept = all.byPath[path];
  if (!kept) kept = std::make_unique<soft::files::Status>(status);
  opened[static_cast<size_t>(fd)].store(kept.get(), std::memory_order_relaxed);
}

// The number was given to something of the program's: what was known of it is history.
int fresh(int fd) {
  if (fd >= 0 && descriptors.owner(fd) != Owner::program) descriptors.set(fd, Owner::program);
  return fd;
}

// A copy of a descriptor, which the kernel has made.
int copied(int from, int to) {
  if (to < 0 || to == from) return to;
  const bool ours = isHosts(from);
  if (ours && static_cast<size_t>(to) < opened.size()) {
    opened[static_cast<size_t>(to)].store(opened[static_cast<size_t>(from)].load());
  }
  if (atHome() || ours) descriptors.set(to, ours ? Owner::host : Owner::program);
  return to;
}

int openAny(int directory, const char* path, int flags, mode_t mode) {
  return guarded(-1, [&] {
    if (const auto opening = openOnHost(directory, path, flags)) {
      if (opening->fd >= 0) return opening->fd;
      if (opening->error != 0) {
        errno = opening->error;
        return -1;
      }
      return fresh(REAL(open)(opening->path.c_str(), flags & ~(O_CREAT | O_TRUNC), mode));
    }
    return fresh(REAL(openat)(directory, path, flags, mode));
  });
}

mode_t modeOf(int flags, va_list list) {
  const bool given = (flags & O_CREAT) != 0 || (flags & O_TMPFILE) == O_TMPFILE;
  return given ? static_cast<mode_t>(va_arg(list, unsigned)) : 0;
}

// One call per piece, as the kernel does for files that have no better way.
template <typename Move>
ssize_t each(const iovec* pieces, int count, const Move& move) {
  if (count < 0 || count > IOV_MAX) return static_cast<ssize_t>(result(-EINVAL));
  int64_t total = 0;
  for (int i = 0; i < count; ++i) {
    iovec piece{};
    if (soft::mm::Memory::copyIn(&piece, reinterpret_cast<uint64_t>(pieces + i), sizeof piece) != 0)
      return static_cast<ssize_t>(result(-EFAULT));
    if (piece.iov_len == 0) continue;
    const int64_t moved = move(piece.iov_base, piece.iov_len, total);
    if (moved < 0) return static_cast<ssize_t>(total > 0 ? total : result(moved));
    total += moved;
    if (static_cast<size_t>(moved) < piece.iov_len) break;
  }
  return static_cast<ssize_t>(total);
}

ssize_t readAt(int fd, void* buffer, size_t size, int64_t offset) {
  return static_cast<ssize_t>(
      result(offset < 0 ? -EINVAL : host().pread(fd, buffer, size, static_cast<uint64_t>(offset))));
}

ssize_t writeAt(int fd, const void* buffer, size_t size, int64_t offset) {
  const int64_t moved = offset < 0 ? -EINVAL : host().pwrite(fd, buffer, size, static_cast<uint64_t>(offset));
  namesChanged();
  return static_cast<ssize_t>(result(moved));
}

}  // namespace

std::mutex& statusesLock() { return statuses().lock; }

bool isHosts(int fd) { return descriptors.owner(fd) == Owner::host && atHome(); }

std::optional<Opening> openOnHost(int directory, const char* path, int flags) {
  const auto where = hostPath(directory, path);
  if (!where) return std::nullopt;
  soft::files::Status status;
  Opening opening;
  if (const int failed = host().status(where->c_str(), (flags & O_NOFOLLOW) == 0, status)) {
    opening.error = failed == -ENOENT && (flags & O_CREAT) != 0 ? EACCES : -failed;
    return opening;
  }
  const bool reads = (flags & O_ACCMODE) == O_RDONLY;
  if ((flags & O_PATH) != 0 || (S_ISDIR(status.mode) && reads && (flags & O_CREAT) == 0)) {
    opening.path = mirrored(*where);
    return opening;
  }
  // Text that is read is a plain file; what is live is the host's.
  const bool text =
      S_ISREG(status.mode) && reads && (status.mode & 0444) != 0 && !where->ends_with("/config");
  if (text && (flags & (O_EXCL | O_DIRECTORY)) == 0 && mirroredText(*where, opening.path)) return opening;
  opening.fd = host().open(where->c_str(), flags);
  if (opening.fd < 0) opening.error = -opening.fd;
  remember(opening.fd, *where, status);
  return opening;
}

int64_t readHost(int fd, void* buffer, size_t size) { return host().read(fd, buffer, size); }

int64_t writeHost(int fd, const void* buffer, size_t size) {
  const int64_t moved = host().write(fd, buffer, size);
  namesChanged();
  return moved;
}

// What is known of the number is forgotten before it is closed (its owner in __wrap_close): from then on it
// may be another thread's.
int closeHost(int fd) {
  if (static_cast<size_t>(fd) < opened.size()) opened[static_cast<size_t>(fd)].store(nullptr);
  const int failed = host().close(fd);
  if (failed != -EBADF) return failed;
  // Not the host's any more: it was closed where this library does not see it, and the number given away.
  descriptors.set(fd, Owner::program);
  return REAL(close)(fd) == 0 ? 0 : -errno;
}

bool statusOf(int fd, struct stat& status) {
  if (!isHosts(fd) || REAL(fstat)(fd, &status) != 0) return false;
  const auto* known = opened[static_cast<size_t>(fd)].load(std::memory_order_relaxed);
  if (!known) return false;
  status.st_mode = known->mode;
  status.st_size = static_cast<off_t>(known->size);
  status.st_rdev = known->device;
  return true;
}

}  // namespace vfio::preload

using namespace vfio::preload;

// ---------------------------------------------------------------- open

#define VFIO_OPEN(name)                                 \
  EXPORTED int name(const char* path, int flags, ...) { \
    va_list list;                                       \
    va_start(list, flags);                              \
    const mode_t mode = modeOf(flags, list);            \
    va_end(list);                                       \
    return openAny(AT_FDCWD, path, flags, mode);        \
  }
VFIO_OPEN(open)
VFIO_OPEN(open64)

#define VFIO_OPENAT(name)                                              \
  EXPORTED int name(int directory, const char* path, int flags, ...) { \
    va_list list;                                                      \
    va_start(list, flags);                                             \
    const mode_t mode = modeOf(flags, list);                           \
    va_end(list);                                                      \
    return openAny(directory, path, flags, mode);                      \
  }
VFIO_OPENAT(openat)
VFIO_OPENAT(openat64)

// What _FORTIFY_SOURCE makes of the short forms.
EXPORTED int __open_2(const char* path, int flags) { return openAny(AT_FDCWD, path, flags, 0); }
EXPORTED int __open64_2(const char* path, int flags) { return openAny(AT_FDCWD, path, flags, 0); }
EXPORTED int __openat_2(int directory, const char* path, int flags) {
  return openAny(directory, path, flags, 0);
}
EXPORTED int __openat64_2(int directory, const char* path, int flags) {
  return openAny(directory, path, flags, 0);
}
EXPORTED int creat(const char* path, mode_t mode) {
  return openAny(AT_FDCWD, path, O_WRONLY | O_CREAT | O_TRUNC, mode);
}
EXPORTED int creat64(const char* path, mode_t mode) {
  return openAny(AT_FDCWD, path, O_WRONLY | O_CREAT | O_TRUNC, mode);
}

// ---------------------------------------------------------------- close and dup

EXPORTED int close(int fd) {
  if (isHosts(fd)) return static_cast<int>(result(closeHost(fd)));
  if (descriptors.owner(fd) == Owner::internal && atHome()) {
    errno = EBADF;
    return -1;
  }
  return REAL(close)(fd);
}

// The host's own descriptors are none of the program's: they stay.
EXPORTED int close_range(unsigned first, unsigned last, int flags) {
  constexpr unsigned closeOnExec = 1U << 2;
  if (!existingHost() || !atHome() || (flags & static_cast<int>(closeOnExec)) != 0 || first > last)
    return REAL(close_range)(first, last, flags);
  unsigned start = first;
  for (unsigned fd = first; fd <= last && fd < Descriptors::most; ++fd) {
    const auto owner = descriptors.owner(static_cast<int>(fd));
    if (owner == Owner::program) continue;
    if (fd > start && REAL(close_range)(start, fd - 1, flags) != 0) return -1;
    if (owner == Owner::host) closeHost(static_cast<int>(fd));
    start = fd + 1;
  }
  return start <= last ? REAL(close_range)(start, last, flags) : 0;
}

EXPORTED void closefrom(int first) {
  if (close_range(static_cast<unsigned>(first < 0 ? 0 : first), ~0U, 0) != 0) REAL(closefrom)(first);
}

EXPORTED int dup(int fd) { return copied(fd, REAL(dup)(fd)); }

namespace {

// Before a number is given to a copy of another: what it led to is closed. False: it is the host's own.
bool makeRoom(int from, int to) {
  if (from == to || !atHome()) return true;
  if (descriptors.owner(to) == Owner::internal) {
    errno = EBUSY;
    return false;
  }
  if (isHosts(to) && REAL(fcntl)(from, F_GETFD) >= 0) closeHost(to);
  return true;
}

}  // namespace

EXPORTED int dup2(int from, int to) { return makeRoom(from, to) ? copied(from, REAL(dup2)(from, to)) : -1; }

EXPORTED int dup3(int from, int to, int flags) {
  return makeRoom(from, to) ? copied(from, REAL(dup3)(from, to, flags)) : -1;
}

namespace {

int control(int fd, int command, void* argument) {
  const int answer = REAL(fcntl)(fd, command, argument);
  if (command == F_DUPFD || command == F_DUPFD_CLOEXEC) return copied(fd, answer);
  return answer;
}

}  // namespace

#define VFIO_FCNTL(name)                        \
  EXPORTED int name(int fd, int command, ...) { \
    va_list list;                               \
    va_start(list, command);                    \
    void* const argument = va_arg(list, void*); \
    va_end(list);                               \
    return control(fd, command, argument);      \
  }
VFIO_FCNTL(fcntl)
VFIO_FCNTL(fcntl64)

// ---------------------------------------------------------------- calls on descriptors

EXPORTED int ioctl(int fd, unsigned long request, ...) {
  va_list list;
  va_start(list, request);
  void* const argument = va_arg(list, void*);
  va_end(list);
  if (!isHosts(fd)) return REAL(ioctl)(fd, request, argument);
  return static_cast<int>(result(host().ioctl(fd, request, reinterpret_cast<uintptr_t>(argument))));
}

EXPORTED ssize_t read(int fd, void* buffer, size_t size) {
  return isHosts(fd) ? static_cast<ssize_t>(result(readHost(fd, buffer, size)))
                     : REAL(read)(fd, buffer, size);
}
EXPORTED ssize_t write(int fd, const void* buffer, size_t size) {
  return isHosts(fd) ? static_cast<ssize_t>(result(writeHost(fd, buffer, size)))
                     : REAL(write)(fd, buffer, size);
}
EXPORTED ssize_t pread(int fd, void* buffer, size_t size, off_t offset) {
  return isHosts(fd) ? readAt(fd, buffer, size, offset) : REAL(pread)(fd, buffer, size, offset);
}
EXPORTED ssize_t pread64(int fd, void* buffer, size_t size, off64_t offset) {
  return isHosts(fd) ? readAt(fd, buffer, size, offset) : REAL(pread64)(fd, buffer, size, offset);
}
EXPORTED ssize_t pwrite(int fd, const void* buffer, size_t size, off_t offset) {
  return isHosts(fd) ? writeAt(fd, buffer, size, offset) : REAL(pwrite)(fd, buffer, size, offset);
}
EXPORTED ssize_t pwrite64(int fd, const void* buffer, size_t size, off64_t offset) {
  return isHosts(fd) ? writeAt(fd, buffer, size, offset) : REAL(pwrite64)(fd, buffer, size, offset);
}
EXPORTED ssize_t readv(int fd, const iovec* pieces, int count) {
  if (!isHosts(fd)) return REAL(readv)(fd, pieces, count);
  return each(pieces, count, [fd](void* to, size_t size, int64_t) { return readHost(fd, to, size); });
}
EXPORTED ssize_t writev(int fd, const iovec* pieces, int count) {
  if (!isHosts(fd)) return REAL(writev)(fd, pieces, count);
  return each(pieces, count,
              [fd](const void* from, size_t size, int64_t) { return writeHost(fd, from, size); });
}
#define VFIO_PREADV(name, type)                                                               \
  EXPORTED ssize_t name(int fd, const iovec* pieces, int count, type offset) {                \
    if (!isHosts(fd)) return REAL(name)(fd, pieces, count, offset);                           \
    return each(pieces, count, [fd, offset](void* to, size_t size, int64_t done) -> int64_t { \
      const ssize_t moved = readAt(fd, to, size, offset + done);                              \
      return moved < 0 ? -errno : moved;                                                      \
    });                                                                                       \
  }
VFIO_PREADV(preadv, off_t)
VFIO_PREADV(preadv64, off64_t)
#define VFIO_PWRITEV(name, type)                                                                      \
  EXPORTED ssize_t name(int fd, const iovec* pieces, int count, type offset) {                        \
    if (!isHosts(fd)) return REAL(name)(fd, pieces, count, offset);                                   \
    return each(pieces, count, [fd, offset](const void* from, size_t size, int64_t done) -> int64_t { \
      const ssize_t moved = writeAt(fd, from, size, offset + done);                                   \
      return moved < 0 ? -errno : moved;                                                              \
    });                                                                                               \
  }
VFIO_PWRITEV(pwritev, off_t)
VFIO_PWRITEV(pwritev64, off64_t)

EXPORTED off_t lseek(int fd, off_t offset, int whence) noexcept {
  return isHosts(fd) ? static_cast<off_t>(result(host().lseek(fd, offset, whence)))
                     : REAL(lseek)(fd, offset, whence);
}
EXPORTED off64_t lseek64(int fd, off64_t offset, int whence) noexcept {
  return isHosts(fd) ? static_cast<off64_t>(result(host().lseek(fd, offset, whence)))
                     : REAL(lseek64)(fd, offset, whence);
}

// _FORTIFY_SOURCE again: the size of the buffer is known, and a larger read is the end of the program.
EXPORTED ssize_t __read_chk(int fd, void* buffer, size_t size, size_t room) {
  if (size > room) __builtin_trap();
  return read(fd, buffer, size);
}
EXPORTED ssize_t __pread_chk(int fd, void* buffer, size_t size, off_t offset, size_t room) {
  if (size > room) __builtin_trap();
  return pread(fd, buffer, size, offset);
}
EXPORTED ssize_t __pread64_chk(int fd, void* buffer, size_t size, off64_t offset, size_t room) {
  if (size > room) __builtin_trap();
  return pread64(fd, buffer, size, offset);
}
