// The kernel backend: the real system calls, and nothing else.
#pragma once

#include "../backend.h"

namespace vfio {

class KernelBackend final : public Backend {
 public:
  int open(const char* path, int flags) override;
  int close(int fd) override;
  int dup(int fd) override;
  int ioctl(int fd, unsigned long request, uintptr_t argument) override;
  int64_t read(int fd, void* buffer, size_t size) override;
  int64_t write(int fd, const void* buffer, size_t size) override;
  int64_t pread(int fd, void* buffer, size_t size, uint64_t offset) override;
  int64_t pwrite(int fd, const void* buffer, size_t size, uint64_t offset) override;
  FileKind kindOf(int fd) override;
  std::string nameOf(int fd) override;
  std::optional<bool> same(int one, int other) override;
  int64_t mmap(void* hint, size_t length, int protection, int flags, int fd, uint64_t offset) override;
  int munmap(void* address, size_t length) override;
  int64_t readlink(const char* path, char* buffer, size_t size) override;
  int list(const char* path, std::vector<std::string>& names) override;
  int ownership(const char* path, Ownership& out) override;
  int own(const char* path, uint32_t uid, uint32_t mode) override;
  uint32_t user() const override;
  int openers(const char* path, std::vector<int>& pids) override;
  std::string release() const override;
  uint64_t pinned() const override;
};

}  // namespace vfio
