#include "software.h"

#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <sys/resource.h>
#include <unistd.h>

#include <array>
#include <atomic>
#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <mutex>
#include <new>
#include <stdexcept>
#include <string>
#include <system_error>

#include "../base/reserve_fork.h"
#include "../base/shown.h"
#include "../soft/mm/memory.h"
#include "descriptors.h"
#include "mirror.h"
#include "real.h"
#include "signals.h"

namespace vfio::preload {

constinit Descriptors descriptors;

namespace {

constinit std::atomic<soft::Host*> theHost{nullptr};
constinit std::atomic<pid_t> home{0};
constinit std::mutex making;

[[noreturn]] void refuse(const std::string& text) {
  const std::string line = "vfio-soft-preload: " + shown(text) + "\n";
  const auto written = REAL(write)(STDERR_FILENO, line.data(), line.size());
  REAL(_exit)(written < 0 ? 3 : 2);
  __builtin_unreachable();
}

std::string readWhole(const char* path) {
  const int fd = REAL(open)(path, O_RDONLY | O_CLOEXEC);
  if (fd < 0 && (errno == EMFILE || errno == ENFILE || errno == ENOMEM))
    throw std::system_error(errno, std::generic_category(), path);
  if (fd < 0) refuse(std::string("VFIO_SOFT_TOPOLOGY: ") + path + ": " + strerror(errno));
  std::string text;
  std::array<char, 65536> part;
  for (;;) {
    const ssize_t size = REAL(read)(fd, part.data(), part.size());
    if (size < 0) refuse(std::string("VFIO_SOFT_TOPOLOGY: ") + path + ": " + strerror(errno));
    if (size == 0) break;
    text.append(part.data(), static_cast<size_t>(size));
  }
  REAL(close)(fd);
  return text;
}

const char* setting(const char* name) {
  const char* value = getenv(name);
  return value && *value ? value : nullptr;
}

soft::HostOptions fromEnvironment() {
  soft::HostOptions options;
  if (const char* path = setting("VFIO_SOFT_TOPOLOGY")) options.topology = readWhole(path);
  if (const char* text = setting("VFIO_SOFT_KERNEL")) {
    const auto version = soft::KernelVersion::parse(text);
    if (!version || *version < soft::kOldestKernel || *version > soft::kNewestKernel) {
      const auto name = [](const soft::KernelVersion& v) {
        return std::to_string(v.major) + "." + std::to_string(v.minor);
      };
      refuse("Expected a kernel from \"" + name(soft::kOldestKernel) + "\" to \"" +
             name(soft::kNewestKernel) + "\" for VFIO_SOFT_KERNEL but received \"" + text + "\"");
    }
    options.kernel = *version;
  }
  if (const char* text = setting("VFIO_SOFT_SELFTEST")) options.selftest = std::string(text) == "1";
  return options;
}

// The child gives up its copies of the parent's descriptors; the parent waits for that, since until then a
// close in the parent is not the last one.
constinit std::array<int, 2> separated{-1, -1};

void beforeFork() {
  making.lock();
  streamsLock().lock();
  lockMirror();
  statusesLock().lock();
  slotsLock().lock();
  auto* host = theHost.load();
  if (!host) {
    lockReserve();
    return;
  }
  host->beforeFork();
  lockReserve();
  if (REAL(pipe2)(separated.data(), O_CLOEXEC) != 0) separated = {-1, -1};
}

void afterFork(bool inChild) {
  const int error = errno;
  unlockReserve();
  (void)Reserve::fill();
  const Reserve::Use use;
  if (auto* host = theHost.load()) {
    host->afterFork(inChild);
    char byte = 0;
    if (inChild) {
      if (REAL(write)(separated[1], &byte, 1) != 1) byte = 1;  // the parent has gone
    } else {
      REAL(close)(separated[1]);
      while (REAL(read)(separated[0], &byte, 1) < 0 && errno == EINTR) continue;
    }
    if (inChild) REAL(close)(separated[1]);
    REAL(close)(separated[0]);
  }
  slotsLock().unlock();
  statusesLock().unlock();
  unlockMirror(inChild);
  streamsLock().unlock();
  making.unlock();
  errno = error;
}

void afterForkInParent() { afterFork(false); }

void afterForkInChild() {
  home.store(getpid());
  afterFork(true);
}

soft::Host* make() {
  const std::lock_guard hold(making);
  if (auto* made = theHost.load()) return made;
  const int error = errno;
  try {
    home.store(getpid());
    auto options = fromEnvironment();
    auto made = std::make_unique<soft::Host>(std::make_shared<soft::mm::Memory>(), std::move(options));
    catchRegisterAccesses();
    static const int watched = pthread_atfork(beforeFork, afterForkInParent, afterForkInChild);
    if (watched != 0) throw std::bad_alloc();
    theHost.store(made.get());
    errno = error;
    return made.release();
  } catch (const std::invalid_argument& failure) {
    const char* path = setting("VFIO_SOFT_TOPOLOGY");
    refuse(std::string(path ? path : "the default topology") + ": " + failure.what());
  }
}

}  // namespace

soft::Host* existingHost() { return theHost.load(std::memory_order_acquire); }

soft::Host& host() {
  auto* found = existingHost();
  return found ? *found : *make();
}

bool atHome() { return home.load(std::memory_order_relaxed) == getpid(); }

int64_t result(int64_t value) {
  if (value >= 0) return value;
  errno = static_cast<int>(-value);
  return -1;
}

}  // namespace vfio::preload
