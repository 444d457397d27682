// The memory of the process that uses the host: reading and writing it so that a bad address is -EFAULT and
// never a crash, and keeping what devices can reach.
//
// A kernel pins page frames; a model in the same process holds addresses. So that a device never writes to
// freed memory, `unmap` of a range that is pinned is put off until the last pin on it goes.
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>

namespace vfio::soft::mm {

class Memory {
 public:
  Memory();

  // Guarded copies between the host and user addresses: 0 or -EFAULT. With -EFAULT some bytes may have been
  // copied.
  [[nodiscard]] static int copyIn(void* to, uint64_t user, size_t size);
  [[nodiscard]] static int copyOut(uint64_t user, const void* from, size_t size);

  // Checks that [user, user+size) can be read (and written, with `write`) now, and keeps it from being
  // unmapped until unpin: 0 or -EFAULT. Pins count; page granular.
  [[nodiscard]] int pin(uint64_t user, uint64_t size, bool write);
  void unpin(uint64_t user, uint64_t size);

  // munmap as the program sees it. Pinned parts go when their last pin does.
  int unmap(uint64_t address, size_t size);

 private:
  // Pin counts per range [first, last] of bytes, non-overlapping; `dying` marks what was unmapped while
  // pinned.
  struct Pins {
    uint64_t last;
    uint64_t count;
    bool dying;
  };
  std::map<uint64_t, Pins> pins_;
};

}  // namespace vfio::soft::mm
