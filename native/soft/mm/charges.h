// How much memory is pinned, and who pays for it: the counters of a user and of an address space (mm) that a
// kernel holds against RLIMIT_MEMLOCK.
//
// Life: part of the process's Memory, so all hosts of the process count together. Pins by other processes of
// the same user aren't known here.
#pragma once

#include <atomic>
#include <cstdint>

namespace vfio::soft::mm {

enum class Payer : uint8_t {
  none,  // the process that mapped has CAP_IPC_LOCK: no limit
  user,
  mm,
};

class Charges {
 public:
  // Counts pages that were pinned. Returns 0, or -ENOMEM above the limit; then nothing is counted.
  [[nodiscard]] int add(Payer payer, uint64_t pages);
  void remove(Payer payer, uint64_t pages);
  // Counts pages that the mm has locked but not pinned, with or without a limit. Returns 0, or -ENOMEM above
  // the limit.
  [[nodiscard]] int lock(uint64_t pages, bool limited);
  void unlock(uint64_t pages) { locked_ -= pages; }

  [[nodiscard]] uint64_t userPages() const { return user_; }      // charged to the user
  [[nodiscard]] uint64_t lockedPages() const { return locked_; }  // charged to the mm: part of VmLck
  [[nodiscard]] uint64_t pinnedPages() const { return pinned_; }  // all, charged or not: VmPin

 private:
  [[nodiscard]] static uint64_t limit();
  [[nodiscard]] static int count(std::atomic<uint64_t>& counter, uint64_t pages, bool ofMm);

  std::atomic<uint64_t> user_ = 0;
  std::atomic<uint64_t> locked_ = 0;
  std::atomic<uint64_t> pinned_ = 0;
};

}  // namespace vfio::soft::mm
