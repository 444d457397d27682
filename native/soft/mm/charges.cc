#include "charges.h"

#include <fcntl.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cerrno>
#include <cstdlib>
#include <cstring>

#include "memory.h"

namespace vfio::soft::mm {
namespace {

// The memory that the program itself has locked (mlock), in pages. It counts against the same limit.
uint64_t lockedByProgram() {
  const long fd = syscall(SYS_openat, AT_FDCWD, "/proc/self/status", O_RDONLY | O_CLOEXEC, 0);
  if (fd < 0) return 0;
  char text[4096];
  const ssize_t size = ::read(static_cast<int>(fd), text, sizeof(text) - 1);
  syscall(SYS_close, fd);
  if (size <= 0) return 0;
  text[size] = '\0';
  const char* const line = std::strstr(text, "VmLck:");
  return line == nullptr ? 0 : std::strtoull(line + 6, nullptr, 10) * 1024 / pageSize();
}

}  // namespace

uint64_t Charges::limit() {
  rlimit limit = {};
  if (getrlimit(RLIMIT_MEMLOCK, &limit) != 0) return UINT64_MAX;
  return limit.rlim_cur / pageSize();
}

// Returns 0 and counts the pages, or returns -ENOMEM above the limit.
int Charges::count(std::atomic<uint64_t>& counter, uint64_t pages, bool ofMm) {
  const uint64_t most = limit();
  const uint64_t others = ofMm && most != RLIM_INFINITY / pageSize() ? lockedByProgram() : 0;
  uint64_t now = counter;
  do {
    if (others + now + pages > most) return -ENOMEM;
  } while (!counter.compare_exchange_weak(now, now + pages));
  return 0;
}

int Charges::add(Payer payer, uint64_t pages) {
  if (payer != Payer::none) {
    const bool ofMm = payer == Payer::mm;
    if (const int error = count(ofMm ? locked_ : user_, pages, ofMm)) return error;
  }
  pinned_ += pages;
  return 0;
}

int Charges::lock(uint64_t pages, bool limited) {
  if (limited) return count(locked_, pages, true);
  locked_ += pages;
  return 0;
}

void Charges::remove(Payer payer, uint64_t pages) {
  if (payer == Payer::user) user_ -= pages;
  if (payer == Payer::mm) locked_ -= pages;
  pinned_ -= pages;
}

}  // namespace vfio::soft::mm
