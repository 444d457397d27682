// Calls on names: what they are, where they lead, what is in a directory. All go to the mirror, and what
// comes back is as the program named it.
#include <dirent.h>
#include <fcntl.h>
#include <glob.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <climits>
#include <cstdlib>
#include <cstring>
#include <optional>
#include <string>

#include "../soft/files/status.h"
#include "descriptors.h"
#include "files.h"
#include "mirror.h"
#include "real.h"
#include "software.h"

using namespace vfio::preload;

namespace {

// The path to give to the C library instead; the program's own where the host has no part in it.
class Translated {
 public:
  explicit Translated(const char* path, int directory = AT_FDCWD) : path_(path) {
    if (const auto found = hostPath(directory, path)) {
      place_ = mirrored(*found);
      path_ = place_.c_str();
    }
  }
  operator const char*() const { return path_; }  // NOLINT(google-explicit-constructor)

 private:
  std::string place_;
  const char* path_;
};

// A file's status as the kernel tells it: the mirror has plain files where there are devices.
template <typename Stat>
void correct(Stat& status, const vfio::soft::files::Status& known) {
  status.st_mode = known.mode;
  status.st_rdev = known.device;
  if (!S_ISDIR(known.mode)) status.st_size = static_cast<off_t>(known.size);
}

template <typename Stat, typename Real>
int statusAt(int directory, const char* path, Stat* status, int flags, const Real& real) {
  return guarded(-1, [&] {
    const auto where = hostPath(directory, path);
    if (!where) return real(directory, path, status, flags);
    vfio::soft::files::Status known;
    if (const int failed = host().status(where->c_str(), (flags & AT_SYMLINK_NOFOLLOW) == 0, known))
      return static_cast<int>(result(failed));
    if (real(AT_FDCWD, mirrored(*where).c_str(), status, flags) != 0) return -1;
    correct(*status, known);
    return 0;
  });
}

template <typename Stat, typename Real>
int statusOfDescriptor(int fd, Stat* status, const Real& real) {
  struct stat known {};
  if (real(fd, status) != 0) return -1;
  if (statusOf(fd, known)) {
    status->st_mode = known.st_mode;
    status->st_size = known.st_size;
    status->st_rdev = known.st_rdev;
  }
  return 0;
}

int copyOut(const std::string& from, char* to, size_t room) {
  if (from.size() >= room) {
    errno = ERANGE;
    return -1;
  }
  std::memcpy(to, from.c_str(), from.size() + 1);
  return 0;
}

char* currentDirectory(char* buffer, size_t size) {
  if (!buffer) {
    char* made = REAL(getcwd)(nullptr, 0);
    if (!made) return nullptr;
    const std::string shown = programPath(made);
    std::memcpy(made, shown.c_str(), shown.size() + 1);  // never longer
    return made;
  }
  std::array<char, PATH_MAX> whole;
  if (!REAL(getcwd)(whole.data(), whole.size())) return nullptr;
  return copyOut(programPath(whole.data()), buffer, size) == 0 ? buffer : nullptr;
}

char* resolved(const char* path, char* into) {
  const Translated place(path);
  char* found = REAL(realpath)(place, into);
  if (!found) return nullptr;
  const std::string shown = programPath(found);
  std::memcpy(found, shown.c_str(), shown.size() + 1);  // never longer
  return found;
}

ssize_t linkAt(int directory, const char* path, char* buffer, size_t size) {
  const Translated place(path, directory);
  const auto length = REAL(readlinkat)(directory, place, buffer, size);
  // Links of the mirror are relative; /proc/self/fd has some that are not.
  if (length <= 0 || buffer[0] != '/') return length;
  const std::string whole(buffer, static_cast<size_t>(length));
  const std::string shown = programPath(whole);
  if (shown == whole) return length;
  std::memcpy(buffer, shown.data(), shown.size());
  return static_cast<ssize_t>(shown.size());
}

}  // namespace

// ---------------------------------------------------------------- stat

EXPORTED int fstatat(int directory, const char* path, struct stat* status, int flags) noexcept {
  if (path && !*path && (flags & AT_EMPTY_PATH) != 0)
    return statusOfDescriptor(directory, status,
                              [&](int fd, struct stat* to) { return REAL(fstatat)(fd, "", to, flags); });
  return statusAt(directory, path, status, flags, REAL(fstatat));
}
EXPORTED int fstatat64(int directory, const char* path, struct stat64* status, int flags) noexcept {
  if (path && !*path && (flags & AT_EMPTY_PATH) != 0)
    return statusOfDescriptor(directory, status,
                              [&](int fd, struct stat64* to) { return REAL(fstatat64)(fd, "", to, flags); });
  return statusAt(directory, path, status, flags, REAL(fstatat64));
}
EXPORTED int stat(const char* path, struct stat* status) noexcept {
  return fstatat(AT_FDCWD, path, status, 0);
}
EXPORTED int stat64(const char* path, struct stat64* status) noexcept {
  return fstatat64(AT_FDCWD, path, status, 0);
}
EXPORTED int lstat(const char* path, struct stat* status) noexcept {
  return fstatat(AT_FDCWD, path, status, AT_SYMLINK_NOFOLLOW);
}
EXPORTED int lstat64(const char* path, struct stat64* status) noexcept {
  return fstatat64(AT_FDCWD, path, status, AT_SYMLINK_NOFOLLOW);
}
EXPORTED int fstat(int fd, struct stat* status) noexcept {
  return statusOfDescriptor(fd, status, REAL(fstat));
}
EXPORTED int fstat64(int fd, struct stat64* status) noexcept {
  return statusOfDescriptor(fd, status, REAL(fstat64));
}

// The names that programs built before glibc 2.33 call.
EXPORTED int __xstat(int, const char* path, struct stat* status) { return stat(path, status); }
EXPORTED int __xstat64(int, const char* path, struct stat64* status) { return stat64(path, status); }
EXPORTED int __lxstat(int, const char* path, struct stat* status) { return lstat(path, status); }
EXPORTED int __lxstat64(int, const char* path, struct stat64* status) { return lstat64(path, status); }
EXPORTED int __fxstat(int, int fd, struct stat* status) { return fstat(fd, status); }
EXPORTED int __fxstat64(int, int fd, struct stat64* status) { return fstat64(fd, status); }
EXPORTED int __fxstatat(int, int directory, const char* path, struct stat* status, int flags) {
  return fstatat(directory, path, status, flags);
}
EXPORTED int __fxstatat64(int, int directory, const char* path, struct stat64* status, int flags) {
  return fstatat64(directory, path, status, flags);
}

namespace {

int extended(int directory, const char* path, int flags, unsigned mask, struct statx* status) {
  const bool byDescriptor = !path || (!*path && (flags & AT_EMPTY_PATH) != 0);
  const auto where = byDescriptor ? std::nullopt : hostPath(directory, path);
  std::optional<vfio::soft::files::Status> known;
  if (where) {
    known.emplace();
    if (const int failed = host().status(where->c_str(), (flags & AT_SYMLINK_NOFOLLOW) == 0, *known))
      return static_cast<int>(result(failed));
  }
  const std::string place = where ? mirrored(*where) : "";
  if (REAL(statx)(directory, where ? place.c_str() : path, flags, mask, status) != 0) return -1;
  struct stat plain {};
  if (byDescriptor && statusOf(directory, plain)) {
    known = {.mode = plain.st_mode, .size = static_cast<uint64_t>(plain.st_size), .device = plain.st_rdev};
  }
  if (known) {
    status->stx_mode = static_cast<uint16_t>(known->mode);
    status->stx_rdev_major = major(known->device);
    status->stx_rdev_minor = minor(known->device);
    if (!S_ISDIR(known->mode)) status->stx_size = known->size;
  }
  return 0;
}

}  // namespace

EXPORTED int statx(int directory, const char* path, int flags, unsigned mask, struct statx* status) noexcept {
  return guarded(-1, [&] { return extended(directory, path, flags, mask, status); });
}

// ---------------------------------------------------------------- permissions

EXPORTED int access(const char* path, int mode) noexcept {
  return guarded(-1, [&] { return REAL(access)(Translated(path), mode); });
}
EXPORTED int euidaccess(const char* path, int mode) noexcept {
  return guarded(-1, [&] { return REAL(euidaccess)(Translated(path), mode); });
}
EXPORTED int eaccess(const char* path, int mode) noexcept {
  return guarded(-1, [&] { return REAL(eaccess)(Translated(path), mode); });
}
EXPORTED int faccessat(int directory, const char* path, int mode, int flags) noexcept {
  return guarded(-1, [&] { return REAL(faccessat)(directory, Translated(path, directory), mode, flags); });
}

// ---------------------------------------------------------------- links and directories

EXPORTED ssize_t readlink(const char* path, char* buffer, size_t size) noexcept {
  return guarded(-1, [&] { return linkAt(AT_FDCWD, path, buffer, size); });
}
EXPORTED ssize_t readlinkat(int directory, const char* path, char* buffer, size_t size) noexcept {
  return guarded(-1, [&] { return linkAt(directory, path, buffer, size); });
}
EXPORTED ssize_t __readlink_chk(const char* path, char* buffer, size_t size, size_t room) {
  if (size > room) __builtin_trap();
  return guarded(-1, [&] { return linkAt(AT_FDCWD, path, buffer, size); });
}
EXPORTED ssize_t __readlinkat_chk(int directory, const char* path, char* buffer, size_t size, size_t room) {
  if (size > room) __builtin_trap();
  return guarded(-1, [&] { return linkAt(directory, path, buffer, size); });
}
EXPORTED char* realpath(const char* path, char* into) noexcept {
  return guarded(nullptr, [&] { return resolved(path, into); });
}
EXPORTED char* __realpath_chk(const char* path, char* into, size_t room) {
  if (into && room < PATH_MAX) __builtin_trap();
  return guarded(nullptr, [&] { return resolved(path, into); });
}
EXPORTED char* canonicalize_file_name(const char* path) noexcept {
  return guarded(nullptr, [&] { return resolved(path, nullptr); });
}

EXPORTED int chdir(const char* path) noexcept {
  return guarded(-1, [&] { return REAL(chdir)(Translated(path)); });
}
EXPORTED char* getcwd(char* buffer, size_t size) noexcept {
  return guarded(nullptr, [&] { return currentDirectory(buffer, size); });
}
EXPORTED char* __getcwd_chk(char* buffer, size_t size, size_t room) {
  if (size > room) __builtin_trap();
  return guarded(nullptr, [&] { return currentDirectory(buffer, size); });
}
EXPORTED char* get_current_dir_name() noexcept {
  return guarded(nullptr, [&] { return currentDirectory(nullptr, 0); });
}

EXPORTED DIR* opendir(const char* path) {
  return guarded(nullptr, [&] { return REAL(opendir)(Translated(path)); });
}

using Filter = int (*)(const dirent*);
using Order = int (*)(const dirent**, const dirent**);
using Filter64 = int (*)(const dirent64*);
using Order64 = int (*)(const dirent64**, const dirent64**);
EXPORTED int scandir(const char* path, dirent*** list, Filter filter, Order order) {
  return guarded(-1, [&] { return REAL(scandir)(Translated(path), list, filter, order); });
}
EXPORTED int scandir64(const char* path, dirent64*** list, Filter64 filter, Order64 order) {
  return guarded(-1, [&] { return REAL(scandir64)(Translated(path), list, filter, order); });
}
EXPORTED int scandirat(int directory, const char* path, dirent*** list, Filter filter, Order order) {
  return guarded(
      -1, [&] { return REAL(scandirat)(directory, Translated(path, directory), list, filter, order); });
}
EXPORTED int scandirat64(int directory, const char* path, dirent64*** list, Filter64 filter, Order64 order) {
  return guarded(
      -1, [&] { return REAL(scandirat64)(directory, Translated(path, directory), list, filter, order); });
}

namespace {

template <typename Glob, typename Real>
int find(const char* pattern, int flags, int (*failed)(const char*, int), Glob* found, const Real& real) {
  const size_t before = (flags & GLOB_APPEND) != 0 ? found->gl_pathc : 0;
  const int answer = real(Translated(pattern), flags, failed, found);
  const size_t reserved = (flags & GLOB_DOOFFS) != 0 ? found->gl_offs : 0;
  for (size_t i = before; answer == 0 && i < found->gl_pathc; ++i) {
    char* path = found->gl_pathv[reserved + i];
    const std::string shown = programPath(path);
    std::memcpy(path, shown.c_str(), shown.size() + 1);  // never longer
  }
  return answer;
}

}  // namespace

EXPORTED int glob(const char* pattern, int flags, int (*failed)(const char*, int), glob_t* found) noexcept {
  return guarded(GLOB_NOSPACE, [&] { return find(pattern, flags, failed, found, REAL(glob)); });
}
EXPORTED int glob64(const char* pattern, int flags, int (*failed)(const char*, int),
                    glob64_t* found) noexcept {
  return guarded(GLOB_NOSPACE, [&] { return find(pattern, flags, failed, found, REAL(glob64)); });
}

// ---------------------------------------------------------------- the end

EXPORTED void _exit(int status) {
  removeMirror();
  REAL(_exit)(status);
  __builtin_unreachable();
}
EXPORTED void _Exit(int status) noexcept { _exit(status); }

namespace {

__attribute__((destructor)) void atEnd() { removeMirror(); }

}  // namespace
