// The interface to the kernel: the system calls on VFIO and iommufd files, and on their sysfs. All other
// native code uses these calls.
//
// Two implementations: native/kernel (the real calls) and native/soft (the software host, which accepts the
// same bytes and returns the same bytes and the same errno). The code above this interface does not know
// which implementation it uses.
//
// Every call returns what the system call would return, with errors as -errno. Pointers may be anything that
// a program can pass to a kernel: if an address is not accessible, the call fails with -EFAULT; it never
// crashes. All calls are safe from any thread.
#pragma once

#include <sys/eventfd.h>

#include <cerrno>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

namespace vfio {

// Who owns the DMA of an IOMMU group.
struct DmaOwner {
  enum class Kind { none, kernel, user } kind = Kind::none;
  unsigned count = 0;  // claims: kernel drivers, or devices that the user has opened
  int fd = -1;         // descriptor of the open file that owns it for a user; -1: no descriptor is left
};

// The owner and the permissions of a node, as in stat(2).
struct Ownership {
  uint32_t mode = 0;  // permissions only
  uint32_t uid = 0;
  uint32_t gid = 0;
};

// The kind of file that a descriptor refers to. Requests of different kinds share numbers
// (VFIO_DEVICE_GET_PCI_HOT_RESET_INFO equals VFIO_IOMMU_GET_INFO), so an ioctl cannot find out the kind.
enum class FileKind {
  unknown,  // the kind cannot be found out
  other,    // none of these
  iommufd,
  container,
  group,
  device,
  faultQueue,  // of an iommufd, like the next
  eventQueue,
  bond,  // of a process and a device, for shared virtual addressing
};

class Controls;

class Backend {
 public:
  virtual ~Backend() = default;

  // The controls of a software host (controls.h). Null: this is the kernel, whose devices are real.
  [[nodiscard]] virtual Controls* controls() { return nullptr; }

  // Files. Descriptors are real on both implementations: they can be polled, passed on and compared.
  [[nodiscard]] virtual int open(const char* path, int flags) = 0;
  virtual int close(int fd) = 0;
  [[nodiscard]] virtual int dup(int fd) = 0;  // close-on-exec
  [[nodiscard]] virtual int ioctl(int fd, unsigned long request, uintptr_t argument) = 0;
  [[nodiscard]] virtual int64_t read(int fd, void* buffer, size_t size) = 0;
  [[nodiscard]] virtual int64_t write(int fd, const void* buffer, size_t size) = 0;
  [[nodiscard]] virtual int64_t pread(int fd, void* buffer, size_t size, uint64_t offset) = 0;
  [[nodiscard]] virtual int64_t pwrite(int fd, const void* buffer, size_t size, uint64_t offset) = 0;

  // A new eventfd, close-on-exec and non-blocking. Every host makes a real one.
  [[nodiscard]] virtual int eventfd() {
    const int fd = ::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    return fd < 0 ? -errno : fd;
  }

  // `kindOf`: the kind of file that a descriptor refers to now, no matter what it referred to before;
  // `unknown` if it is closed. `nameOf`: the host's name for the file, for messages: a path, or
  // "anon_inode:[eventfd]"; empty: none.
  [[nodiscard]] virtual FileKind kindOf(int fd) = 0;
  [[nodiscard]] virtual std::string nameOf(int fd) = 0;
  // Do both refer to the same open file, because one is a duplicate of the other? nullopt: unknown.
  [[nodiscard]] virtual std::optional<bool> same(int one, int other) = 0;

  // Memory. The result is an address or -errno. If memory is unmapped while a device can reach it, it stays
  // until the device no longer can: the kernel pins the pages, the software host delays the unmapping.
  [[nodiscard]] virtual int64_t mmap(void* hint, size_t length, int protection, int flags, int fd,
                                     uint64_t offset) = 0;
  virtual int munmap(void* address, size_t length) = 0;

  // sysfs and device nodes, by path. `list` returns names in no particular order.
  [[nodiscard]] virtual int64_t readlink(const char* path, char* buffer, size_t size) = 0;
  [[nodiscard]] virtual int list(const char* path, std::vector<std::string>& names) = 0;

  // A whole attribute of sysfs as text: its length, or -errno.
  [[nodiscard]] virtual int64_t readText(const char* path, std::string& text);
  // Read and change the owner and the permissions of a node.
  [[nodiscard]] virtual int ownership(const char* path, Ownership& out) = 0;
  [[nodiscard]] virtual int own(const char* path, uint32_t uid, uint32_t mode) = 0;
  // The uid that permissions of this process are checked against.
  [[nodiscard]] virtual uint32_t user() const = 0;
  // The processes that have a node open, as far as this process may see them.
  [[nodiscard]] virtual int openers(const char* path, std::vector<int>& pids) = 0;
  // The descriptors of this process, in all of its threads, that refer to a node.
  [[nodiscard]] virtual int descriptors(const char* path, std::vector<int>& fds) = 0;
  // A number for the device that has this PCI address now. Another device that is plugged in there later gets
  // another number. 0: no device.
  [[nodiscard]] virtual uint64_t life(const std::string& bdf) = 0;

  // The release of the kernel, as in uname(2): "6.12.117". A software host returns the release it was
  // configured with: "6.12".
  [[nodiscard]] virtual std::string release() const = 0;

  // How many bytes of this process's memory are pinned for devices; 0 if that is unknown.
  [[nodiscard]] virtual uint64_t pinned() const = 0;

  // Reports the owner of a group: 0, or -ENODEV. A real kernel does not report it: -EOPNOTSUPP.
  [[nodiscard]] virtual int dmaOwner(int /*group*/, DmaOwner& /*out*/) { return -EOPNOTSUPP; }

  // Registers of a software device have no memory behind them: a load or store must be seen by its model.
  // `trapped` says whether a mapping contains such registers. Access them with the next two calls: 0, or -EIO
  // if the device does not answer. The kernel has no such mappings.
  [[nodiscard]] virtual bool trapped(const void* /*mapping*/) const { return false; }
  [[nodiscard]] virtual int registerRead(const void* /*address*/, unsigned /*width*/, uint64_t& /*value*/) {
    return -EIO;
  }
  [[nodiscard]] virtual int registerWrite(void* /*address*/, unsigned /*width*/, uint64_t /*value*/) {
    return -EIO;
  }
};

inline int64_t Backend::readText(const char* path, std::string& text) {
  constexpr int readOnly = 0;  // O_RDONLY
  const int fd = open(path, readOnly);
  if (fd < 0) return fd;
  constexpr size_t page = 4096;
  constexpr size_t kMostText = size_t{1}
                               << 24;  // an attribute is one page at most; files in /proc can be longer
  char piece[page];
  int64_t got;
  while ((got = read(fd, piece, sizeof piece)) > 0) {
    if (got > static_cast<int64_t>(page)) got = -EPROTO;  // more than the buffer can hold
    if (got > 0 && text.size() > kMostText) got = -EFBIG;
    if (got < 0) break;
    text.append(piece, static_cast<size_t>(got));
  }
  close(fd);
  return got < 0 ? got : static_cast<int64_t>(text.size());
}

}  // namespace vfio
