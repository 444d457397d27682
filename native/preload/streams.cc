// Streams of the C library: it reads and writes their descriptors without asking, so a stream on a file of
// the host is one that calls back.
#include <fcntl.h>
#include <stdio.h>
#include <unistd.h>

#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <map>
#include <mutex>
#include <optional>

#include "descriptors.h"
#include "files.h"
#include "real.h"
#include "software.h"

using namespace vfio::preload;

namespace {

// Descriptors of such streams, for fileno.
struct Streams {
  std::mutex lock;
  std::map<FILE*, int> descriptors;
};
Streams& streams() {
  static auto* const made = new Streams;
  return *made;
}

int number(void* cookie) { return static_cast<int>(reinterpret_cast<intptr_t>(cookie)); }

ssize_t readStream(void* cookie, char* buffer, size_t size) {
  return static_cast<ssize_t>(result(readHost(number(cookie), buffer, size)));
}
ssize_t writeStream(void* cookie, const char* buffer, size_t size) {
  const int64_t moved = result(writeHost(number(cookie), buffer, size));
  return moved < 0 ? 0 : static_cast<ssize_t>(moved);  // 0 is what tells of an error here
}
int seekStream(void* cookie, off64_t* offset, int whence) {
  const int64_t moved = result(host().lseek(number(cookie), *offset, whence));
  if (moved < 0) return -1;
  *offset = moved;
  return 0;
}
int closeStream(void* cookie) { return static_cast<int>(result(closeHost(number(cookie)))); }

FILE* streamOn(int fd, const char* mode) {
  FILE* stream = fopencookie(reinterpret_cast<void*>(static_cast<intptr_t>(fd)), mode,
                             {readStream, writeStream, seekStream, closeStream});
  if (!stream) return nullptr;
  auto& all = streams();
  const std::lock_guard hold(all.lock);
  all.descriptors[stream] = fd;  // of the reserve at worst
  return stream;
}

}  // namespace

std::mutex& vfio::preload::streamsLock() { return streams().lock; }

namespace {

// The flags of open that a mode of fopen means; nothing: it is none.
std::optional<int> flagsOf(const char* mode) {
  if (!mode) return std::nullopt;
  int flags;
  switch (*mode) {
    case 'r':
      flags = O_RDONLY;
      break;
    case 'w':
      flags = O_WRONLY | O_TRUNC;
      break;
    case 'a':
      flags = O_WRONLY | O_APPEND;
      break;
    default:
      return std::nullopt;
  }
  if (std::strchr(mode, '+')) flags = (flags & ~O_ACCMODE) | O_RDWR;
  if (std::strchr(mode, 'e')) flags |= O_CLOEXEC;
  if (std::strchr(mode, 'x')) flags |= O_CREAT | O_EXCL;
  return flags;
}

template <typename Real>
FILE* openStream(const char* path, const char* mode, const Real& real) {
  const auto flags = flagsOf(mode);
  const auto opening = flags ? openOnHost(AT_FDCWD, path, *flags) : std::nullopt;
  if (!opening) return real(path, mode);
  if (opening->fd >= 0) {
    FILE* stream = streamOn(opening->fd, mode);
    if (!stream) {
      const int error = errno;
      closeHost(opening->fd);
      errno = error;
    }
    return stream;
  }
  if (opening->error == 0) return real(opening->path.c_str(), mode);
  errno = opening->error;
  return nullptr;
}

}  // namespace

EXPORTED FILE* fopen(const char* path, const char* mode) {
  return guarded(nullptr, [&] { return openStream(path, mode, REAL(fopen)); });
}
EXPORTED FILE* fopen64(const char* path, const char* mode) {
  return guarded(nullptr, [&] { return openStream(path, mode, REAL(fopen64)); });
}

namespace {

// A stream that exists can't be turned into one that calls back: live files are refused.
template <typename Real>
FILE* openAgain(const char* path, const char* mode, FILE* stream, const Real& real) {
  const auto flags = flagsOf(mode);
  const auto opening = flags ? openOnHost(AT_FDCWD, path, *flags) : std::nullopt;
  if (!opening) return real(path, mode, stream);
  if (opening->fd >= 0) closeHost(opening->fd);
  if (opening->fd < 0 && opening->error == 0) return real(opening->path.c_str(), mode, stream);
  fclose(stream);
  errno = opening->fd >= 0 ? EOPNOTSUPP : opening->error;
  return nullptr;
}

}  // namespace

EXPORTED FILE* freopen(const char* path, const char* mode, FILE* stream) {
  return guarded(nullptr, [&] { return openAgain(path, mode, stream, REAL(freopen)); });
}
EXPORTED FILE* freopen64(const char* path, const char* mode, FILE* stream) {
  return guarded(nullptr, [&] { return openAgain(path, mode, stream, REAL(freopen64)); });
}

EXPORTED FILE* fdopen(int fd, const char* mode) noexcept {
  if (!isHosts(fd)) return REAL(fdopen)(fd, mode);
  return guarded(nullptr, [&] { return streamOn(fd, mode); });
}

EXPORTED int fclose(FILE* stream) {
  if (existingHost()) {
    auto& all = streams();
    const std::lock_guard hold(all.lock);
    all.descriptors.erase(stream);
  }
  return REAL(fclose)(stream);
}

EXPORTED int fileno(FILE* stream) noexcept {
  if (existingHost()) {
    auto& all = streams();
    const std::lock_guard hold(all.lock);
    const auto found = all.descriptors.find(stream);
    if (found != all.descriptors.end()) return found->second;
  }
  return REAL(fileno)(stream);
}
