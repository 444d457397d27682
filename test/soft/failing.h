// A software host on which each call first fails for lack of memory, descriptors, mappings or threads: the
// nth request for one of these fails, alone or with all later ones. Then the call is repeated, and must
// return the same answer as if it had never failed. So if a failed call leaves a change behind, the answers
// differ from the recorded trace. The program that includes this file counts the allocations and system
// calls of its own thread.
#pragma once

#include <dirent.h>
#include <dlfcn.h>
#include <execinfo.h>
#include <fcntl.h>
#include <pthread.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <csignal>
#include <cstdarg>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <exception>
#include <map>
#include <memory>
#include <new>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

#include "../../native/base/sanitizers.h"
#include "../../native/soft/host/host.h"
#include "../../native/soft/mm/memory.h"

namespace vfio::failing {

// ---------------------------------------------------------------- what fails

// For the thread that makes a call: how many requests until one fails (1: the next one). 0: none fails.
inline thread_local unsigned untilNext = 0;
inline thread_local bool andAllAfter = false;
inline thread_local const char* failed = nullptr;  // the first one that failed
inline std::array<void*, 24> where{};              // the stack at that time, for debugging (FAILING_WHERE=1)
inline int depth = 0;

inline bool fails(const char* what) {
  if (untilNext == 0) return false;
  if (--untilNext != 0) return false;
  if (andAllAfter) untilNext = 1;
  if (failed == nullptr) {
    failed = what;
    const unsigned kept = std::exchange(untilNext, 0);
    static const bool wanted = std::getenv("FAILING_WHERE") != nullptr;
    if (wanted) depth = backtrace(where.data(), static_cast<int>(where.size()));
    untilNext = kept;
  }
  return true;
}

inline void sayWhere() {
  for (int at = 2; at < depth; ++at) backtrace_symbols_fd(&where[static_cast<size_t>(at)], 1, STDERR_FILENO);
}

template <typename Function>
Function real(const char* name) {
  return reinterpret_cast<Function>(dlsym(RTLD_NEXT, name));
}

// ---------------------------------------------------------------- what comes of it

struct Outcome {
  unsigned times = 0;
  std::map<std::string, unsigned> answers;
};
inline std::map<std::pair<std::string, std::string>, Outcome> outcomes;  // by call, by what failed
inline unsigned wrong = 0;
inline const char* current = "";

inline bool isLack(int64_t answer) {
  constexpr std::array<int64_t, 5> kinds{-ENOMEM, -EMFILE, -ENFILE, -EAGAIN, -ENOSPC};
  return std::find(kinds.begin(), kinds.end(), answer) != kinds.end();
}

class FailingHost final : public Backend {
 public:
  // The seed says which request of a call fails first; later tries fail at later requests. A call that
  // succeeds in spite of a failed request is not tried again, so one seed does not reach all requests.
  FailingHost(std::unique_ptr<soft::Host> host, unsigned seed) : host_(std::move(host)), random_(seed) {}

  int open(const char* path, int flags) override {
    return tried("open", [&] { return host_->open(path, flags); });
  }
  int close(int fd) override {
    return always("close", [&] { return host_->close(fd); });
  }
  int dup(int fd) override {
    return tried("dup", [&] { return host_->dup(fd); });
  }
  FileKind kindOf(int fd) override { return host_->kindOf(fd); }
  std::string nameOf(int fd) override { return host_->nameOf(fd); }
  std::optional<bool> same(int one, int other) override { return host_->same(one, other); }
  int descriptors(const char* path, std::vector<int>& fds) override { return host_->descriptors(path, fds); }
  uint64_t life(const std::string& bdf) override { return host_->life(bdf); }
  int ioctl(int fd, unsigned long request, uintptr_t argument) override {
    std::array<char, 16> name;
    std::snprintf(name.data(), name.size(), "ioctl %04lx", request & 0xffff);
    return tried(name.data(), [&] { return host_->ioctl(fd, request, argument); });
  }
  int64_t read(int fd, void* buffer, size_t size) override {
    return tried("read", [&] { return host_->read(fd, buffer, size); });
  }
  int64_t write(int fd, const void* buffer, size_t size) override {
    return tried("write", [&] { return host_->write(fd, buffer, size); });
  }
  int64_t pread(int fd, void* buffer, size_t size, uint64_t offset) override {
    return tried("pread", [&] { return host_->pread(fd, buffer, size, offset); });
  }
  int64_t pwrite(int fd, const void* buffer, size_t size, uint64_t offset) override {
    return tried("pwrite", [&] { return host_->pwrite(fd, buffer, size, offset); });
  }
  int64_t mmap(void* hint, size_t length, int protection, int flags, int fd, uint64_t offset) override {
    return tried("mmap", [&] { return host_->mmap(hint, length, protection, flags, fd, offset); });
  }
  int munmap(void* address, size_t length) override {
    return tried("munmap", [&] { return host_->munmap(address, length); });
  }
  int64_t readlink(const char* path, char* buffer, size_t size) override {
    return tried("readlink", [&] { return host_->readlink(path, buffer, size); });
  }
  int list(const char* path, std::vector<std::string>& names) override {
    return tried("list", [&] {
      names.clear();
      return host_->list(path, names);
    });
  }
  int64_t readText(const char* path, std::string& text) override {
    return tried("readText", [&] {
      text.clear();
      return host_->readText(path, text);
    });
  }
  int ownership(const char* path, Ownership& out) override {
    return tried("ownership", [&] { return host_->ownership(path, out); });
  }
  int own(const char* path, uint32_t uid, uint32_t mode) override {
    return tried("own", [&] { return host_->own(path, uid, mode); });
  }
  uint32_t user() const override { return host_->user(); }
  int openers(const char* path, std::vector<int>& pids) override {
    return tried("openers", [&] {
      pids.clear();
      return host_->openers(path, pids);
    });
  }
  std::string release() const override { return host_->release(); }
  uint64_t pinned() const override { return host_->pinned(); }
  int dmaOwner(int group, DmaOwner& out) override {
    return tried("dmaOwner", [&] { return host_->dmaOwner(group, out); });
  }
  bool trapped(const void* mapping) const override { return host_->trapped(mapping); }
  int registerRead(const void* address, unsigned width, uint64_t& value) override {
    return tried("registerRead", [&] { return host_->registerRead(address, width, value); });
  }
  int registerWrite(void* address, unsigned width, uint64_t value) override {
    return tried("registerWrite", [&] { return host_->registerWrite(address, width, value); });
  }

 private:
  // Twice the number of the first request that fails, plus 1 if all later ones fail too.
  unsigned begin() {
    random_ = random_ * 1103515245U + 12345U;
    const unsigned bits = random_ >> 16;
    constexpr unsigned few = 8, many = 64;
    return 2 + bits % (2 * ((bits & 0x700) == 0 ? many : few));
  }
  // Tries the call with one request after the other failing, until no request fails. Returns the last answer.
  template <typename Call>
  std::invoke_result_t<Call> tried(const char* name, const Call& call) {
    std::vector<int64_t> answers;
    std::invoke_result_t<Call> answer{};
    for (unsigned nth = begin();; ++nth) {
      current = name;
      failed = nullptr;
      andAllAfter = (nth & 1) != 0;
      untilNext = nth / 2;
      answer = call();
      untilNext = 0;
      if (failed == nullptr) break;
      auto& outcome = outcomes[{name, failed}];
      ++outcome.times;
      ++outcome.answers[answer < 0 ? strerrorname_np(static_cast<int>(-answer)) : "done"];
      if (answer >= 0) break;
      if (!isLack(answer)) answers.push_back(answer);
    }
    // An error that does not say that something is lacking must be the final answer too.
    for (const int64_t each : answers) {
      if (each == answer) continue;
      ++wrong;
      std::fprintf(stderr, "%s says %s instead of %lld\n", name, strerrorname_np(static_cast<int>(-each)),
                   static_cast<long long>(answer));
      sayWhere();
    }
    return answer;
  }
  // For calls that must not fail for lack of anything.
  template <typename Call>
  std::invoke_result_t<Call> always(const char* name, const Call& call) {
    const auto answer = tried(name, call);
    if (!isLack(answer)) return answer;
    ++wrong;
    std::fprintf(stderr, "%s fails\n", name);
    sayWhere();
    return answer;
  }

  const std::unique_ptr<soft::Host> host_;
  unsigned random_;
};

// Prints the table for the test: a line for each call and each kind of request that failed in it.
inline void sayOutcomes() {
  for (const auto& [key, outcome] : outcomes) {
    std::fprintf(stderr, "%s | %s | %u |", key.first.c_str(), key.second.c_str(), outcome.times);
    for (const auto& [answer, times] : outcome.answers) std::fprintf(stderr, " %s %u", answer.c_str(), times);
    std::fprintf(stderr, "\n");
  }
  if (wrong != 0) std::fprintf(stderr, "WRONG: %u\n", wrong);
}

// The seed in the name of a host such as "failing3"; 0: the host's calls don't fail.
inline unsigned seedOf(const std::string& host) {
  constexpr const char* kName = "failing";
  if (!host.starts_with(kName)) return 0;
  const auto end = [](int) {
    std::fprintf(stderr, "%s ends the process: %s failed\n", current, failed ? failed : "nothing");
    sayWhere();
    _exit(3);
  };
  for (const int number : {SIGSEGV, SIGABRT}) std::signal(number, end);
  return static_cast<unsigned>(std::max(1, std::atoi(host.c_str() + std::strlen(kName))));
}

inline std::unique_ptr<Backend> wrap(std::unique_ptr<soft::Host> host, unsigned seed) {
  if (seed == 0) return host;
  return std::make_unique<FailingHost>(std::move(host), seed);
}

}  // namespace vfio::failing

// ---------------------------------------------------------------- the C and C++ libraries' own

#if !VFIO_ASAN && !VFIO_TSAN  // sanitizers define these
extern "C" {

void* __libc_malloc(size_t size);
void* __libc_memalign(size_t alignment, size_t size);

void* malloc(size_t size) noexcept {
  if (!vfio::failing::fails("memory")) return __libc_malloc(size);
  errno = ENOMEM;
  return nullptr;
}
void* aligned_alloc(size_t alignment, size_t size) noexcept {
  if (!vfio::failing::fails("memory")) return __libc_memalign(alignment, size);
  errno = ENOMEM;
  return nullptr;
}

int eventfd(unsigned count, int flags) {
  if (!vfio::failing::fails("eventfd")) return static_cast<int>(syscall(SYS_eventfd2, count, flags));
  errno = EMFILE;
  return -1;
}

int socketpair(int domain, int type, int protocol, int* ends) noexcept {
  if (!vfio::failing::fails("socketpair"))
    return static_cast<int>(syscall(SYS_socketpair, domain, type, protocol, ends));
  errno = EMFILE;
  return -1;
}

int memfd_create(const char* name, unsigned flags) noexcept {
  if (!vfio::failing::fails("memfd_create")) return static_cast<int>(syscall(SYS_memfd_create, name, flags));
  errno = ENFILE;
  return -1;
}

int ftruncate(int fd, off_t size) noexcept {
  if (!vfio::failing::fails("ftruncate")) return static_cast<int>(syscall(SYS_ftruncate, fd, size));
  errno = ENOSPC;
  return -1;
}
int ftruncate64(int fd, off64_t size) noexcept { return ftruncate(fd, size); }

void* mmap(void* hint, size_t length, int protection, int flags, int fd, off_t offset) noexcept {
  if (!vfio::failing::fails("mmap"))
    return reinterpret_cast<void*>(syscall(SYS_mmap, hint, length, protection, flags, fd, offset));
  errno = ENOMEM;
  return reinterpret_cast<void*>(-1);
}
void* mmap64(void* hint, size_t length, int protection, int flags, int fd, off64_t offset) noexcept {
  return mmap(hint, length, protection, flags, fd, offset);
}

int fcntl(int fd, int command, ...) {
  va_list list;
  va_start(list, command);
  void* const argument = va_arg(list, void*);
  va_end(list);
  const bool duplicates = command == F_DUPFD || command == F_DUPFD_CLOEXEC;
  if (!duplicates || !vfio::failing::fails("fcntl"))
    return static_cast<int>(syscall(SYS_fcntl, fd, command, argument));
  errno = EMFILE;
  return -1;
}
int fcntl64(int fd, int command, ...) {
  va_list list;
  va_start(list, command);
  void* const argument = va_arg(list, void*);
  va_end(list);
  return fcntl(fd, command, argument);
}

DIR* opendir(const char* path) {
  static const auto next = vfio::failing::real<DIR* (*)(const char*)>("opendir");
  if (!vfio::failing::fails("opendir")) return next(path);
  errno = EMFILE;
  return nullptr;
}

int pthread_create(pthread_t* thread, const pthread_attr_t* attributes, void* (*run)(void*),
                   void* argument) noexcept {
  static const auto next = vfio::failing::real<decltype(&pthread_create)>("pthread_create");
  if (!vfio::failing::fails("pthread_create")) return next(thread, attributes, run, argument);
  return EAGAIN;
}

}  // extern "C"
#endif
