#include "kernel.h"

#include <dirent.h>
#include <fcntl.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/utsname.h>
#include <unistd.h>

#include <cerrno>
#include <climits>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <memory>
#include <string_view>

namespace vfio {
namespace {

template <typename T>
T orErrno(T result) {
  return result < 0 ? static_cast<T>(-errno) : result;
}

}  // namespace

int KernelBackend::open(const char* path, int flags) { return orErrno(::open(path, flags | O_CLOEXEC)); }

int KernelBackend::close(int fd) { return orErrno(::close(fd)); }

int KernelBackend::dup(int fd) { return orErrno(::fcntl(fd, F_DUPFD_CLOEXEC, 0)); }

int KernelBackend::ioctl(int fd, unsigned long request, uintptr_t argument) {
  return orErrno(::ioctl(fd, request, argument));
}

int64_t KernelBackend::read(int fd, void* buffer, size_t size) { return orErrno(::read(fd, buffer, size)); }

int64_t KernelBackend::write(int fd, const void* buffer, size_t size) {
  return orErrno(::write(fd, buffer, size));
}

int64_t KernelBackend::pread(int fd, void* buffer, size_t size, uint64_t offset) {
  return orErrno(::pread(fd, buffer, size, static_cast<off_t>(offset)));
}

int64_t KernelBackend::pwrite(int fd, const void* buffer, size_t size, uint64_t offset) {
  return orErrno(::pwrite(fd, buffer, size, static_cast<off_t>(offset)));
}

int64_t KernelBackend::mmap(void* hint, size_t length, int protection, int flags, int fd, uint64_t offset) {
  void* address = ::mmap(hint, length, protection, flags, fd, static_cast<off_t>(offset));
  return address == MAP_FAILED ? -errno : reinterpret_cast<int64_t>(address);
}

int KernelBackend::munmap(void* address, size_t length) { return orErrno(::munmap(address, length)); }

int64_t KernelBackend::readlink(const char* path, char* buffer, size_t size) {
  return orErrno(::readlink(path, buffer, size));
}

int KernelBackend::list(const char* path, std::vector<std::string>& names) {
  const std::unique_ptr<DIR, int (*)(DIR*)> directory(::opendir(path), ::closedir);
  if (!directory) return -errno;
  for (;;) {
    errno = 0;
    const dirent* entry = ::readdir(directory.get());
    if (!entry) return -errno;
    if (std::strcmp(entry->d_name, ".") != 0 && std::strcmp(entry->d_name, "..") != 0)
      names.emplace_back(entry->d_name);
  }
}

int KernelBackend::ownership(const char* path, Ownership& out) {
  struct stat status {};
  if (::stat(path, &status) != 0) return -errno;
  constexpr mode_t permissions = 07777;
  out = {status.st_mode & permissions, status.st_uid, status.st_gid};
  return 0;
}

int KernelBackend::own(const char* path, uint32_t uid, uint32_t mode) {
  // Change the mode last: before the chown it would give the old owner access.
  if (::chown(path, uid, static_cast<gid_t>(-1)) != 0 || ::chmod(path, mode) != 0) return -errno;
  return 0;
}

uint32_t KernelBackend::user() const { return ::geteuid(); }

int KernelBackend::openers(const char* path, std::vector<int>& pids) {
  std::vector<std::string> processes;
  if (const int failed = list("/proc", processes)) return failed;
  for (const auto& process : processes) {
    const int pid = std::atoi(process.c_str());
    if (pid <= 0) continue;
    const std::string table = "/proc/" + process + "/fd";
    std::vector<std::string> descriptors;
    if (list(table.c_str(), descriptors) != 0)
      continue;  // the process has ended, or this user may not see it
    for (const auto& descriptor : descriptors) {
      char target[PATH_MAX];
      const auto size = ::readlink((table + "/" + descriptor).c_str(), target, sizeof target);
      if (size < 0 || std::string_view(target, static_cast<size_t>(size)) != path) continue;
      pids.push_back(pid);
      break;
    }
  }
  return 0;
}

int KernelBackend::descriptors(const char* path, std::vector<int>& fds) {
  constexpr const char* table = "/proc/self/fd";
  std::vector<std::string> descriptors;
  if (const int failed = list(table, descriptors)) return failed;
  for (const auto& descriptor : descriptors) {
    char target[PATH_MAX];
    const auto size = ::readlink((std::string(table) + "/" + descriptor).c_str(), target, sizeof target);
    if (size >= 0 && std::string_view(target, static_cast<size_t>(size)) == path)
      fds.push_back(std::atoi(descriptor.c_str()));
  }
  return 0;
}

// The inode number of the device's folder in sysfs. No other folder gets this number until the next boot.
uint64_t KernelBackend::life(const std::string& bdf) {
  struct stat status {};
  return ::stat(("/sys/bus/pci/devices/" + bdf).c_str(), &status) == 0 ? status.st_ino : 0;
}

std::string KernelBackend::release() const {
  utsname names{};
  return ::uname(&names) == 0 ? names.release : "";
}

uint64_t KernelBackend::pinned() const {
  std::ifstream status("/proc/self/status");
  for (std::string line; std::getline(status, line);) {
    if (line.starts_with("VmPin:")) return std::strtoull(line.c_str() + 6, nullptr, 10) * 1024;
  }
  return 0;
}

}  // namespace vfio
