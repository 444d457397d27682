// What the software host itself calls of the C library. The library is linked with --wrap, so that its own
// calls come here and not to the functions that programs see: they never meet a file of the host. Here its
// descriptors are entered into the table.
#include <dirent.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <sys/eventfd.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>

#include <cerrno>
#include <cstdarg>

#include "descriptors.h"
#include "real.h"

namespace {

using vfio::preload::descriptors;
using vfio::preload::Owner;

// The host's own descriptors keep out of the numbers that programs expect to get, or close one by one.
int moveUp(int fd) {
  if (fd < 0) return fd;
  rlimit limit{};
  getrlimit(RLIMIT_NOFILE, &limit);
  const rlim_t ceiling =
      limit.rlim_cur < vfio::preload::Descriptors::most ? limit.rlim_cur : vfio::preload::Descriptors::most;
  const int moved = REAL(fcntl)(fd, F_DUPFD_CLOEXEC, static_cast<int>(ceiling / 2));
  if (moved >= 0) {
    REAL(close)(fd);
    fd = moved;
  }
  descriptors.set(fd, Owner::internal);
  return fd;
}

}  // namespace

extern "C" {

int __wrap_close(int fd) {
  descriptors.set(fd, Owner::program);
  return REAL(close)(fd);
}

// One end is the program's descriptor, the other the host's.
int __wrap_socketpair(int domain, int type, int protocol, int* ends) {
  if (REAL(socketpair)(domain, type, protocol, ends) != 0) return -1;
  if (ends[0] >= static_cast<int>(vfio::preload::Descriptors::most)) {
    REAL(close)(ends[0]);
    REAL(close)(ends[1]);
    errno = EMFILE;
    return -1;
  }
  ends[1] = moveUp(ends[1]);
  descriptors.set(ends[0], Owner::host);
  return 0;
}

int __wrap_dup3(int from, int to, int flags) {
  const int fd = REAL(dup3)(from, to, flags);
  if (fd >= 0) descriptors.set(fd, descriptors.owner(from));
  return fd;
}

int __wrap_eventfd(unsigned count, int flags) { return moveUp(REAL(eventfd)(count, flags)); }

int __wrap_memfd_create(const char* name, unsigned flags) { return moveUp(REAL(memfd_create)(name, flags)); }

int __wrap_fcntl(int fd, int command, ...) {
  va_list list;
  va_start(list, command);
  void* const argument = va_arg(list, void*);
  va_end(list);
  const int made = REAL(fcntl)(fd, command, argument);
  // A copy of a descriptor that the program handed over: an eventfd.
  return command == F_DUPFD_CLOEXEC ? moveUp(made) : made;
}

int __wrap_open(const char* path, int flags, ...) {
  va_list list;
  va_start(list, flags);
  const auto mode = (flags & O_CREAT) != 0 ? va_arg(list, mode_t) : 0;
  va_end(list);
  return moveUp(REAL(open)(path, flags, mode));
}

// The C++ library's streams and random numbers refer to these; nothing calls them.
int __wrap_ioctl(int fd, unsigned long request, ...) {
  va_list list;
  va_start(list, request);
  void* const argument = va_arg(list, void*);
  va_end(list);
  return REAL(ioctl)(fd, request, argument);
}
ssize_t __wrap_writev(int fd, const iovec* pieces, int count) { return REAL(writev)(fd, pieces, count); }

int __wrap_fstat(int fd, struct stat* status) { return REAL(fstat)(fd, status); }
ssize_t __wrap_read(int fd, void* buffer, size_t size) { return REAL(read)(fd, buffer, size); }
ssize_t __wrap_write(int fd, const void* buffer, size_t size) { return REAL(write)(fd, buffer, size); }
ssize_t __wrap_pread(int fd, void* buffer, size_t size, off_t offset) {
  return REAL(pread)(fd, buffer, size, offset);
}
ssize_t __wrap_pwrite(int fd, const void* buffer, size_t size, off_t offset) {
  return REAL(pwrite)(fd, buffer, size, offset);
}
off_t __wrap_lseek(int fd, off_t offset, int whence) { return REAL(lseek)(fd, offset, whence); }
ssize_t __wrap_readlink(const char* path, char* buffer, size_t size) {
  return REAL(readlink)(path, buffer, size);
}
void* __wrap_mmap(void* hint, size_t length, int protection, int flags, int fd, off_t offset) {
  return REAL(mmap)(hint, length, protection, flags, fd, offset);
}
int __wrap_munmap(void* address, size_t length) { return REAL(munmap)(address, length); }
DIR* __wrap_opendir(const char* path) { return REAL(opendir)(path); }
int __wrap_sigaction(int signal, const struct sigaction* action, struct sigaction* old) {
  return REAL(sigaction)(signal, action, old);
}

int __wrap_pthread_sigmask(int how, const sigset_t* set, sigset_t* old) {
  return REAL(pthread_sigmask)(how, set, old);
}

// The engine's thread runs none of the program's signal handlers.
int __wrap_pthread_create(pthread_t* thread, const pthread_attr_t* attributes, void* (*run)(void*),
                          void* argument) {
  sigset_t all, before;
  sigfillset(&all);
  sigdelset(&all, SIGSEGV);
  sigdelset(&all, SIGBUS);
  REAL(pthread_sigmask)(SIG_SETMASK, &all, &before);
  const int failed = REAL(pthread_create)(thread, attributes, run, argument);
  REAL(pthread_sigmask)(SIG_SETMASK, &before, nullptr);
  return failed;
}

}  // extern "C"
