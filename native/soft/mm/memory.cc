#include "memory.h"

#include <sys/mman.h>

#include <algorithm>
#include <cerrno>
#include <new>

#include "../../base/reserve.h"
#include "../../guard/guard.h"
#include "../core/sanitizer.h"

namespace vfio::soft::mm {
namespace {

const void* asPointer(uint64_t user) { return reinterpret_cast<const void*>(user); }
void* asTarget(uint64_t user) { return reinterpret_cast<void*>(user); }

}  // namespace

Memory::Memory() { guard::install(); }

size_t Memory::copyInSome(void* to, uint64_t user, size_t size) {
  sanitizer::check(to, size);
  return size - guard::copy(to, asPointer(user), size);
}

size_t Memory::copyOutSome(uint64_t user, const void* from, size_t size) {
  sanitizer::check(from, size);
  return size - guard::copy(asTarget(user), from, size);
}

int Memory::copyIn(void* to, uint64_t user, size_t size) {
  return copyInSome(to, user, size) == size ? 0 : -EFAULT;
}

int Memory::copyOut(uint64_t user, const void* from, size_t size) {
  return copyOutSome(user, from, size) == size ? 0 : -EFAULT;
}

int Memory::clear(uint64_t user, uint64_t size) {
  static constexpr unsigned char kZeroes[4096] = {};
  while (size != 0) {
    const size_t step = std::min<uint64_t>(size, sizeof(kZeroes));
    if (copyOut(user, kZeroes, step) != 0) return -EFAULT;
    user += step;
    size -= step;
  }
  return 0;
}

int Memory::allZero(uint64_t user, uint64_t size) {
  unsigned char bytes[512];
  while (size != 0) {
    // A piece never crosses a page, so it can be read as a whole or not at all.
    const size_t toBoundary = sizeof(bytes) - user % sizeof(bytes);
    const size_t step = std::min<uint64_t>(size, toBoundary);
    if (copyIn(bytes, user, step) != 0) return -EFAULT;
    if (std::any_of(bytes, bytes + step, [](unsigned char byte) { return byte != 0; })) return 0;
    user += step;
    size -= step;
  }
  return 1;
}

int Memory::pin(uint64_t user, uint64_t size, bool write, uint64_t* ofDevices) try {
  if (size == 0) return 0;
  if (user + (size - 1) < user) return -EFAULT;
  const uint64_t first = user / pageSize();
  const uint64_t last = (user + (size - 1)) / pageSize();
  if (last > PinCounts::kLastPage) return -EFAULT;
  const std::lock_guard hold(mutex_);
  // To the program a dying page is unmapped.
  if (counts_.anyDying(first, last)) return -EFAULT;
  if (guard::probe(first * pageSize(), last - first + 1, pageSize(), write) != 0) return -EFAULT;
  const uint64_t devices = mappings_.ofDevices(first, last);
  if (devices > 0 && ofDevices == nullptr) return -EFAULT;
  if (!mappings_.pinnable(first, last, write)) return -EFAULT;
  if (ofDevices != nullptr) *ofDevices = devices;
  counts_.add(first, last);
  return 0;
} catch (const std::bad_alloc&) {
  return -ENOMEM;
}

void Memory::unpin(uint64_t user, uint64_t size) {
  if (size == 0) return;
  const std::lock_guard hold(mutex_);
  counts_.remove(user / pageSize(), (user + (size - 1)) / pageSize(), [](uint64_t first, uint64_t last) {
    munmap(asTarget(first * pageSize()), (last - first + 1) * pageSize());
  });
}

void Memory::prefetchForUnpin(uint64_t user) const { counts_.prefetch(user / pageSize()); }

void Memory::prefetchForPin(uint64_t user) const {
  prefetchForUnpin(user);
  __builtin_prefetch(asPointer(user), 1);  // whatever the address is, a prefetch never faults
}

unsigned Memory::pins(uint64_t address) {
  const std::lock_guard hold(mutex_);
  return counts_.count(address / pageSize());
}

bool Memory::anyUnmapped(uint64_t user, uint64_t size) {
  const uint64_t last = (user + (size - 1)) / pageSize();
  const std::lock_guard hold(mutex_);
  return last <= PinCounts::kLastPage && counts_.anyDying(user / pageSize(), last);
}

int Memory::unmap(uint64_t address, size_t size) {
  // The kernel's own checks, before anything is unmapped.
  if (address % pageSize() != 0 || size == 0) return -EINVAL;
  if (size > UINT64_MAX - (pageSize() - 1)) return -EINVAL;
  const uint64_t first = address / pageSize();
  const uint64_t last = first + (size - 1) / pageSize();
  if (last > PinCounts::kLastPage) return -EINVAL;
  const Reserve::Use use;
  const std::lock_guard hold(mutex_);
  mappings_.unmapped(first, last);
  int result = 0;
  counts_.setDying(first, last, [&result](uint64_t from, uint64_t to) {
    const int error = munmap(asTarget(from * pageSize()), (to - from + 1) * pageSize());
    if (error != 0 && result == 0) result = -errno;
  });
  return result;
}

void Memory::mapped(uint64_t address, size_t size, bool device) {
  const std::lock_guard hold(mutex_);
  const uint64_t first = address / pageSize();
  const uint64_t last = (address + (size - 1)) / pageSize();
  if (device) {
    mappings_.setDevice(first, last);
  } else {
    mappings_.unmapped(first, last);
  }
}

}  // namespace vfio::soft::mm
