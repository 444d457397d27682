// Finds the kind of file that a kernel descriptor refers to, and whether two descriptors refer to the same
// open file. The kernel has no single call for either.
#include <fcntl.h>
#include <linux/kcmp.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include <csignal>
#include <fstream>
#include <mutex>
#include <string>
#include <string_view>

#include "../uapi/iommufd.h"
#include "kernel.h"

namespace vfio {
namespace {

#ifndef F_DUPFD_QUERY
constexpr int F_DUPFD_QUERY = 1027;
#endif

std::string linkTarget(const std::string& path) {
  char target[4096];
  const ssize_t size = ::readlink(path.c_str(), target, sizeof target);
  return size < 0 ? "" : std::string(target, static_cast<size_t>(size));
}

// The class and the name in a path: "misc/iommu" in "/sys/devices/virtual/misc/iommu". A folder with the name
// of a class contains only devices of that class.
std::string_view lastTwo(std::string_view path) {
  const size_t last = path.rfind('/');
  if (last == std::string_view::npos || last == 0) return "";
  return path.substr(path.rfind('/', last - 1) + 1);
}

// The second word of the line of /proc/devices or /proc/misc that starts with this number. Callers never ask
// for block devices, whose numbers come after those of the character devices.
std::string nameOfNumber(const char* table, unsigned number) {
  std::ifstream lines(table);
  for (std::string line; std::getline(lines, line) && line != "Block devices:";) {
    const size_t digits = line.find_first_of("0123456789");
    const size_t space = line.find(' ', digits);
    if (digits == std::string::npos || space == std::string::npos) continue;
    if (line.substr(digits, space - digits) == std::to_string(number)) return line.substr(space + 1);
  }
  return "";
}

// The class and name of a character device from sysfs. They come from /proc if sysfs does not list the
// device: sysfs is not mounted, or the device was removed while the descriptor is still open.
std::string classAndName(dev_t number) {
  const std::string link =
      "/sys/dev/char/" + std::to_string(major(number)) + ":" + std::to_string(minor(number));
  const std::string target = linkTarget(link);
  if (!target.empty()) return std::string(lastTwo(target));
  const std::string driver = nameOfNumber("/proc/devices", major(number));
  if (driver.empty()) return "";
  return driver + "/" + (driver == "misc" ? nameOfNumber("/proc/misc", minor(number)) : "");
}

// If a kernel has no VFIO containers, /dev/vfio/vfio opens an iommufd instead
// (CONFIG_IOMMUFD_VFIO_CONTAINER). Only an iommufd accepts this request, which changes nothing.
bool isIommufd(int fd) {
  uapi::iommu_option command{};
  command.size = sizeof command;
  command.option_id = uapi::IOMMU_OPTION_RLIMIT_MODE;
  command.op = uapi::IOMMU_OPTION_OP_GET;
  return ::ioctl(fd, uapi::IOMMU_OPTION, &command) == 0;
}

FileKind kindOfDevice(int fd, dev_t number) {
  const std::string is = classAndName(number);
  if (is.empty()) return FileKind::unknown;
  if (is == "misc/iommu") return FileKind::iommufd;
  if (is == "misc/vfio") return isIommufd(fd) ? FileKind::iommufd : FileKind::container;
  if (is.starts_with("vfio-dev/")) return FileKind::device;
  if (is.starts_with("vfio/")) return FileKind::group;
  return FileKind::other;
}

FileKind kindOfAnonymous(std::string_view name) {
  if (name.empty()) return FileKind::unknown;
  if (name == "anon_inode:[vfio-device]") return FileKind::device;  // opened through a group
  if (name == "anon_inode:[iommufd-pgfault]") return FileKind::faultQueue;
  if (name == "anon_inode:[iommufd-viommu-event]") return FileKind::eventQueue;
  return FileKind::other;
}

// Before Linux 6.10, and if kcmp is forbidden (often so in containers) or not built in: the signal for
// asynchronous I/O belongs to the open file, not to the descriptor. So a signal that is set on one duplicate
// is read on the other. 0 and SIGIO both mean SIGIO, so a program that uses the signal is not affected.
std::optional<bool> sameBySignal(int one, int other) {
  static std::mutex lock;
  const std::lock_guard hold(lock);
  const auto opposite = [](int signal) { return signal == SIGIO ? 0 : SIGIO; };
  const int before = ::fcntl(one, F_GETSIG);
  const int there = ::fcntl(other, F_GETSIG);
  if (before < 0 || there < 0) return std::nullopt;
  // Read again: another process may do the same at this moment, to a file that it shares with this process.
  const bool still = ::fcntl(one, F_GETSIG) == before && ::fcntl(other, F_GETSIG) == there;
  if (!still) return std::nullopt;
  if (before != there) return false;
  if (before != 0 && before != SIGIO) return std::nullopt;
  const int changed = opposite(before);
  if (::fcntl(one, F_SETSIG, changed) != 0) return std::nullopt;
  const int afterFirst = ::fcntl(other, F_GETSIG);
  const bool stayed = ::fcntl(one, F_GETSIG) == changed;
  const bool restored = ::fcntl(one, F_SETSIG, before) == 0;
  const int afterSecond = ::fcntl(other, F_GETSIG);
  if (!stayed || !restored || afterSecond != before) return std::nullopt;
  return afterFirst == changed;
}

}  // namespace

FileKind KernelBackend::kindOf(int fd) {
  struct stat status {};
  if (::fstat(fd, &status) != 0) return FileKind::unknown;
  if (S_ISCHR(status.st_mode)) return kindOfDevice(fd, status.st_rdev);
  const std::string name = nameOf(fd);
  const bool anonymous = (status.st_mode & S_IFMT) == 0 || name.starts_with("anon_inode:");
  return anonymous ? kindOfAnonymous(name) : FileKind::other;
}

std::string KernelBackend::nameOf(int fd) { return linkTarget("/proc/self/fd/" + std::to_string(fd)); }

std::optional<bool> KernelBackend::same(int one, int other) {
  struct stat first {};
  struct stat second {};
  if (::fstat(one, &first) != 0 || ::fstat(other, &second) != 0) return std::nullopt;
  if (one == other) return true;
  if (first.st_dev != second.st_dev || first.st_ino != second.st_ino) return false;
  // Since Linux 6.10: returns 1 or 0.
  const int query = ::fcntl(one, F_DUPFD_QUERY, other);
  if (query >= 0) return query == 1;
  // 0 if they are the same, otherwise an ordering; needs CONFIG_KCMP.
  const pid_t self = ::getpid();
  const long order = ::syscall(SYS_kcmp, self, self, KCMP_FILE, one, other);
  if (order >= 0) return order == 0;
  return sameBySignal(one, other);
}

}  // namespace vfio
