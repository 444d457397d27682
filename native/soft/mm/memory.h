// The memory of the process that uses the host. Reads and writes it so that a bad address gives -EFAULT and
// never a crash, and keeps the memory that devices can reach.
//
// A kernel pins page frames; a model in the same process holds addresses. So that a device never writes to
// freed memory, `unmap` of a pinned range takes effect only when the last pin on the range ends.
//
// Life: one Memory per process, shared by its hosts. It installs the fault handler (guard.h), which stays
// installed.
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

  // Can a program have this range? The limit is that of a processor with five levels of page tables, like
  // the guest's.
  [[nodiscard]] static constexpr bool inUserSpace(uint64_t user, uint64_t size) {
    constexpr uint64_t kEnd = (uint64_t{1} << 56) - 4096;
    return user <= kEnd && size <= kEnd - user;
  }

  // Guarded copies between the host and user addresses. Return 0 or -EFAULT. With -EFAULT some bytes may
  // have been copied. Aligned pieces of 2, 4 and 8 bytes at the end of a copy (so: a whole small access)
  // move at once.
  [[nodiscard]] static int copyIn(void* to, uint64_t user, size_t size);
  [[nodiscard]] static int copyOut(uint64_t user, const void* from, size_t size);
  // The same for a range of zeroes.
  [[nodiscard]] static int clear(uint64_t user, uint64_t size);
  // Are all bytes zero? Returns 1 if so, 0 at the first byte that isn't zero, or -EFAULT if an address
  // before that can't be read.
  [[nodiscard]] static int allZero(uint64_t user, uint64_t size);
  // These return how many of the first bytes could be copied; all of `size` if there was no error.
  [[nodiscard]] static size_t copyInSome(void* to, uint64_t user, size_t size);
  [[nodiscard]] static size_t copyOutSome(uint64_t user, const void* from, size_t size);

  // Checks that [user, user+size) can be read now (and written, with `write`) and is not memory that a
  // kernel refuses to pin (mappings.h). Keeps the range from being unmapped until unpin. Returns 0, -EFAULT
  // or -ENOMEM. Each pin of a page counts; the unit is a page. The caller charges for the pins. Memory of
  // devices is accepted only from a caller that asks, with `ofDevices`, how many of the pages are a
  // device's.
  [[nodiscard]] int pin(uint64_t user, uint64_t size, bool write, uint64_t* ofDevices = nullptr);
  void unpin(uint64_t user, uint64_t size);
  // Makes the processor fetch the data that unpin of this page will read, or the data that pin will read and
  // the page itself. Neither takes the lock: taking a lock waits for all fetches under way.
  void prefetchForUnpin(uint64_t user) const;
  void prefetchForPin(uint64_t user) const;
  // How many pins the page of `address` has.
  [[nodiscard]] unsigned pins(uint64_t address);

  // The kernel's error for pages that it can't pin. It asks for 8192 pages at a time, whose end address must
  // not overflow. Returns -EOVERFLOW or -EFAULT.
  [[nodiscard]] static int pinError(uint64_t firstPage, uint64_t pages) {
    return pages <= 8192 && firstPage + pages * pageSize() < firstPage ? -EOVERFLOW : -EFAULT;
  }

  // Has the program unmapped any of these pages, while pins keep them?
  [[nodiscard]] bool anyUnmapped(uint64_t user, uint64_t size);

  // munmap as the program sees it. Returns 0 or -errno. Pinned parts are unmapped when their last pin ends.
  int unmap(uint64_t address, size_t size);
  // Something else is mapped there now. With `device` it is a device's memory, which can't be pinned.
  void mapped(uint64_t address, size_t size, bool device);

  Charges charges;

 private:
  std::mutex mutex_;  // hosts of one process share its memory
  PinCounts counts_;
  Mappings mappings_;
};

}  // namespace vfio::soft::mm
