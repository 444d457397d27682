// The memory of the process that uses the host: reading and writing it so that a bad address is -EFAULT and
// never a crash, and keeping what devices can reach.
//
// A kernel pins page frames; a model in the same process holds addresses. So that a device never writes to
// freed memory, `unmap` of a range that is pinned is put off until the last pin on it goes.
//
// Life: one Memory per process, shared by its hosts. It installs the fault handler (guard.h), which stays.
#pragma once

#include <unistd.h>

#include <cstddef>
#include <cstdint>
#include <mutex>

#include "charges.h"
#include "mappings.h"
#include "pin_counts.h"

namespace vfio::soft::mm {

#if defined(__x86_64__)
constexpr uint64_t pageSize() { return 4096; }
#else
inline uint64_t pageSize() {
  static const auto size = static_cast<uint64_t>(sysconf(_SC_PAGESIZE));
  return size;
}
#endif

class Memory {
 public:
  Memory();

  // Is a range one that a program may have? A processor's with five levels of page tables, as the guest's.
  [[nodiscard]] static constexpr bool inUserSpace(uint64_t user, uint64_t size) {
    constexpr uint64_t kEnd = (uint64_t{1} << 56) - 4096;
    return user <= kEnd && size <= kEnd - user;
  }

  // Guarded copies between the host and user addresses: 0 or -EFAULT. With -EFAULT some bytes may have been
  // copied. Aligned pieces of 2, 4 and 8 bytes at the end of a copy (so: a whole small access) move at once.
  [[nodiscard]] static int copyIn(void* to, uint64_t user, size_t size);
  [[nodiscard]] static int copyOut(uint64_t user, const void* from, size_t size);
  // The same for a range of zeroes.
  [[nodiscard]] static int clear(uint64_t user, uint64_t size);
  // Are all bytes zero? 1, 0 at the first that isn't, or -EFAULT if an address before that can't be read.
  [[nodiscard]] static int allZero(uint64_t user, uint64_t size);
  // How many of the first bytes could be copied; all of `size` if nothing was wrong.
  [[nodiscard]] static size_t copyInSome(void* to, uint64_t user, size_t size);
  [[nodiscard]] static size_t copyOutSome(uint64_t user, const void* from, size_t size);

  // Checks that [user, user+size) can be read (and written, with `write`) now and is not what a kernel
  // doesn't pin (mappings.h), and keeps it from being unmapped until unpin: 0, -EFAULT or -ENOMEM. Pins
  // count; page granular. Charging for them is the caller's business. Memory of devices is taken only by who
  // asks how many of the pages it is, `ofDevices`.
  [[nodiscard]] int pin(uint64_t user, uint64_t size, bool write, uint64_t* ofDevices = nullptr);
  void unpin(uint64_t user, uint64_t size);
  // Has the processor fetch what unpin of this page will look at, or what pin will, the page itself too.
  // Neither takes the lock: taking one waits for all that is being fetched.
  void prefetchForUnpin(uint64_t user) const;
  void prefetchForPin(uint64_t user) const;
  // How many pins the page of `address` has.
  [[nodiscard]] unsigned pins(uint64_t address);

  // What a kernel says of pages that it can't pin, of which it asks for 8192 at a time: their end has to be a
  // number. -EOVERFLOW or -EFAULT.
  [[nodiscard]] static int pinError(uint64_t firstPage, uint64_t pages) {
    return pages <= 8192 && firstPage + pages * pageSize() < firstPage ? -EOVERFLOW : -EFAULT;
  }

  // munmap as the program sees it: 0 or -errno. Pinned parts go when their last pin does.
  int unmap(uint64_t address, size_t size);
  // Something else is mapped there now; with `device` it is a device's, which can't be pinned.
  void mapped(uint64_t address, size_t size, bool device);

  Charges charges;

 private:
  std::mutex mutex_;  // hosts of one process share its memory
  PinCounts counts_;
  Mappings mappings_;
};

}  // namespace vfio::soft::mm
