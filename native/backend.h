// The seam: the system calls on VFIO and iommufd files, and on their sysfs, that everything above runs on.
//
// Two implementations: native/kernel (the real calls) and native/soft (the software host, which takes the
// same bytes and gives the same bytes and the same errno). Nothing above this line knows which one it has.
//
// Every call returns what the system call would return, with errors as -errno. Pointers may be anything that
// a program can pass to a kernel: an implementation answers -EFAULT where they can't be reached, it never
// crashes. All calls are safe from any thread.
#pragma once

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
  unsigned count = 0;  // claims: drivers of the kernel's, or devices that the user has
  int fd = -1;         // of the open file that owns it for a user; -1: it has no descriptor any more
};

// Whose a node is, as stat(2) says.
struct Ownership {
  uint32_t mode = 0;  // permissions only
  uint32_t uid = 0;
  uint32_t gid = 0;
};

// What a descriptor leads to. Requests of different kinds share numbers (VFIO_DEVICE_GET_PCI_HOT_RESET_INFO
// is VFIO_IOMMU_GET_INFO), so no call can tell them apart.
enum class FileKind {
  unknown,  // it can't be found out
  other,    // none of these
  iommufd,
  container,
  group,
  device,
  faultQueue,  // of an iommufd, as the next
  eventQueue,
};

class Backend {
 public:
  virtual ~Backend() = default;

  // Files. Descriptors are real on both implementations: they can be polled, passed on and compared.
  [[nodiscard]] virtual int open(const char* path, int flags) = 0;
  virtual int close(int fd) = 0;
  [[nodiscard]] virtual int dup(int fd) = 0;  // close-on-exec
  [[nodiscard]] virtual int ioctl(int fd, unsigned long request, uintptr_t argument) = 0;
  [[nodiscard]] virtual int64_t read(int fd, void* buffer, size_t size) = 0;
  [[nodiscard]] virtual int64_t write(int fd, const void* buffer, size_t size) = 0;
  [[nodiscard]] virtual int64_t pread(int fd, void* buffer, size_t size, uint64_t offset) = 0;
  [[nodiscard]] virtual int64_t pwrite(int fd, const void* buffer, size_t size, uint64_t offset) = 0;

  // What is behind a descriptor now, whatever was there before; a closed one is `unknown`. And what the host
  // calls it, for messages: a path, or "anon_inode:[eventfd]"; empty: nothing.
  [[nodiscard]] virtual FileKind kindOf(int fd) = 0;
  [[nodiscard]] virtual std::string nameOf(int fd) = 0;
  // Do both lead to the same open file, one being a duplicate of the other? nullopt: it can't be known.
  [[nodiscard]] virtual std::optional<bool> same(int one, int other) = 0;

  // Memory. The result is an address or -errno. Memory that is unmapped while a device can reach it stays
  // until the device can't: the kernel pins the pages, the software host delays the unmapping.
  [[nodiscard]] virtual int64_t mmap(void* hint, size_t length, int protection, int flags, int fd,
                                     uint64_t offset) = 0;
  virtual int munmap(void* address, size_t length) = 0;

  // sysfs and device nodes, by path. `list` gives names in no particular order.
  [[nodiscard]] virtual int64_t readlink(const char* path, char* buffer, size_t size) = 0;
  [[nodiscard]] virtual int list(const char* path, std::vector<std::string>& names) = 0;

  // A whole attribute of sysfs as text: its length, or -errno.
  [[nodiscard]] virtual int64_t readText(const char* path, std::string& text);
  // Who owns a node and who may open it, and changing that.
  [[nodiscard]] virtual int ownership(const char* path, Ownership& out) = 0;
  [[nodiscard]] virtual int own(const char* path, uint32_t uid, uint32_t mode) = 0;
  // The user that this process is for the checks of permissions.
  [[nodiscard]] virtual uint32_t user() const = 0;
  // The processes that have a node open, as far as this one may see them.
  [[nodiscard]] virtual int openers(const char* path, std::vector<int>& pids) = 0;

  // Which kernel this is, as uname(2) says: "6.12.117". A software host answers as a release that it was
  // told: "6.12".
  [[nodiscard]] virtual std::string release() const = 0;

  // How many bytes of this process's memory are pinned for devices; 0 if that can't be known.
  [[nodiscard]] virtual uint64_t pinned() const = 0;

  // Who owns a group: 0, or -ENODEV. A kernel tells nobody: -EOPNOTSUPP.
  [[nodiscard]] virtual int dmaOwner(int /*group*/, DmaOwner& /*out*/) { return -EOPNOTSUPP; }

  // Registers of a software device have no memory behind them: a load or store must be seen by its model.
  // `trapped` says whether a mapping is such a one; accesses to it go through these two: 0, or -EIO when the
  // device does not answer. The kernel has none.
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
  char piece[page];
  int64_t got;
  while ((got = read(fd, piece, sizeof piece)) > 0) text.append(piece, static_cast<size_t>(got));
  close(fd);
  return got < 0 ? got : static_cast<int64_t>(text.size());
}

}  // namespace vfio
