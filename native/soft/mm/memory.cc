#include "memory.h"

#include <sys/mman.h>

#include <algorithm>
#include <cerrno>

#include "../../guard/guard.h"

namespace vfio::soft::mm {
namespace {

uint64_t pageStart(uint64_t address) { return address & ~(pageSize() - 1); }

const void* asPointer(uint64_t user) { return reinterpret_cast<const void*>(user); }
void* asTarget(uint64_t user) { return reinterpret_cast<void*>(user); }

}  // namespace

Memory::Memory() { guard::install(); }

size_t Memory::copyInSome(void* to, uint64_t user, size_t size) {
  return size - guard::copy(to, asPointer(user), size);
}

size_t Memory::copyOutSome(uint64_t user, const void* from, size_t size) {
  return size - guard::copy(asTarget(user), from, size);
}

int Memory::copyIn(void* to, uint64_t user, size_t size) {
  return guard::copy(to, asPointer(user), size) == 0 ? 0 : -EFAULT;
}

int Memory::copyOut(uint64_t user, const void* from, size_t size) {
  return guard::copy(asTarget(user), from, size) == 0 ? 0 : -EFAULT;
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

// Makes `address` the first byte of a run, if it is inside one.
void Memory::splitBefore(uint64_t address) {
  const Runs::Entry* const found = runs_.find(address, address);
  if (found == nullptr || found->start == address) return;
  const Runs::Entry run = *found;
  runs_.erase(run.start);
  runs_.insert(run.start, address - 1, run.value);
  runs_.insert(address, run.last, run.value);
}

// Makes the runs that meet at `address` one, if they are alike.
void Memory::joinBefore(uint64_t address) {
  if (address == 0) return;
  const Runs::Entry* const below = runs_.find(address - 1, address - 1);
  if (below == nullptr || below->last != address - 1) return;
  const Runs::Entry left = *below;
  const Runs::Entry* const above = runs_.find(address, address);
  if (above == nullptr || above->value.count != left.value.count || above->value.dying != left.value.dying) {
    return;
  }
  const uint64_t last = above->last;
  runs_.erase(address);
  runs_.erase(left.start);
  runs_.insert(left.start, last, left.value);
}

int Memory::pin(uint64_t user, uint64_t size, bool write) {
  if (size == 0) return 0;
  if (user + (size - 1) < user) return -EFAULT;
  const std::lock_guard hold(mutex_);
  const uint64_t first = pageStart(user);
  const uint64_t last = pageStart(user + (size - 1)) + (pageSize() - 1);
  // Mostly nothing is pinned here, nor beside it.
  const Runs::Entry* run = runs_.find(first - (first != 0 ? 1 : 0), last + (last != UINT64_MAX ? 1 : 0));
  const bool alone = run == nullptr;
  while (run != nullptr && run->start <= last) {
    // To the program a dying run is unmapped.
    if (run->value.dying && run->last >= first) return -EFAULT;
    run = run->last >= last ? nullptr : runs_.find(run->last + 1, last);
  }
  if (guard::probe(first, (last - first) / pageSize() + 1, pageSize(), write) != 0) return -EFAULT;
  if (alone) {
    runs_.insert(first, last, Run{1, false});
    return 0;
  }
  splitBefore(first);
  if (last != UINT64_MAX) splitBefore(last + 1);
  uint64_t next = first;
  for (;;) {
    Runs::Entry* const entry = runs_.find(next, last);
    const uint64_t end = entry == nullptr ? last : entry->start - 1;
    if (entry == nullptr || entry->start > next) runs_.insert(next, end, Run{1, false});
    if (entry == nullptr) break;
    if (end + 1 != next) {
      next = end + 1;  // the insertion moved the entries
      continue;
    }
    ++entry->value.count;
    if (entry->last == last) break;
    next = entry->last + 1;
  }
  joinBefore(first);
  if (last != UINT64_MAX) joinBefore(last + 1);
  return 0;
}

void Memory::unpin(uint64_t user, uint64_t size) {
  if (size == 0) return;
  const std::lock_guard hold(mutex_);
  const uint64_t first = pageStart(user);
  const uint64_t last = pageStart(user + (size - 1)) + (pageSize() - 1);
  const Runs::Entry* const whole = runs_.find(first, last);
  if (whole != nullptr && whole->start == first && whole->last == last && whole->value.count == 1) {
    const bool dying = whole->value.dying;
    runs_.erase(first);
    if (dying) munmap(asTarget(first), last - first + 1);
    return;
  }
  splitBefore(first);
  if (last != UINT64_MAX) splitBefore(last + 1);
  uint64_t next = first;
  while (Runs::Entry* const entry = runs_.find(next, last)) {
    const Runs::Entry run = *entry;
    if (--entry->value.count == 0) {
      runs_.erase(run.start);
      if (run.value.dying) munmap(asTarget(run.start), run.last - run.start + 1);
    }
    if (run.last == last) break;
    next = run.last + 1;
  }
  joinBefore(first);
  if (last != UINT64_MAX) joinBefore(last + 1);
}

unsigned Memory::pins(uint64_t address) {
  const std::lock_guard hold(mutex_);
  const Runs::Entry* const run = runs_.find(address, address);
  return run == nullptr ? 0 : run->value.count;
}

int Memory::unmap(uint64_t address, size_t size) {
  const std::lock_guard hold(mutex_);
  // The kernel's own checks, before anything is unmapped.
  if (address % pageSize() != 0 || size == 0) return -EINVAL;
  if (size > UINT64_MAX - (pageSize() - 1)) return -EINVAL;
  const uint64_t length = (size + pageSize() - 1) & ~(pageSize() - 1);
  if (address + (length - 1) < address) return -EINVAL;
  const uint64_t last = address + (length - 1);

  if (runs_.find(address, last) == nullptr) {
    return munmap(asTarget(address), length) == 0 ? 0 : -errno;
  }
  splitBefore(address);
  if (last != UINT64_MAX) splitBefore(last + 1);
  uint64_t next = address;
  int result = 0;
  for (;;) {
    Runs::Entry* const entry = runs_.find(next, last);
    const uint64_t end = entry == nullptr ? last : entry->start - 1;
    if (entry == nullptr || entry->start > next) {
      if (munmap(asTarget(next), end - next + 1) != 0 && result == 0) result = -errno;
    }
    if (entry == nullptr) break;
    entry->value.dying = true;
    if (entry->last == last) break;
    next = entry->last + 1;
  }
  joinBefore(address);
  if (last != UINT64_MAX) joinBefore(last + 1);
  return result;
}

}  // namespace vfio::soft::mm
