// What a sanitizer of drivers has to see of devices as it happens: translation failures, DMA that moves its
// bytes but should not, and interrupts that nobody hears of. The code above gives each a reason, and knows
// who mapped what.
//
// Life: the host owns it, from Controls::watch until the host ends. The caller holds the host's lock.
#pragma once

#include <array>
#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "../../controls.h"

namespace vfio::soft {

class DmaWatch {
 public:
  // A transfer of a device that has moved its bytes to or from this memory of the process.
  struct Transfer {
    const std::string& bdf;
    std::optional<uint32_t> pasid;
    uint64_t iova;
    uint64_t user;
    uint64_t size;
    bool write;
    uint64_t stored;  // when a driver last wrote to a register of the device
  };
  // Addresses that a device can't use any more, or not as before.
  struct Withdrawal {
    const std::string& bdf;
    std::optional<uint32_t> pasid;
    bool allPasids;  // those of a guest's table too
    uint64_t first;
    uint64_t last;
  };

  // Nanoseconds of the monotonic clock, which process.hrtime of Node reads too.
  [[nodiscard]] static uint64_t now();

  void report(Incident incident);
  void moved(const Transfer& transfer);
  void withdrawn(const Withdrawal& what);
  void lostInterrupt(const std::string& bdf, unsigned vector, std::string reason);
  // From now on DMA to this memory of the process is an incident, or none any more.
  void forbid(uint64_t address, uint64_t length);
  void allow(uint64_t address);
  // The incidents since the last call, oldest first. `lost`: how many more there were.
  [[nodiscard]] std::vector<Incident> take(uint64_t& lost);

 private:
  struct Write {
    std::string bdf;
    std::optional<uint32_t> pasid;
    uint64_t iova = 0;
    uint64_t user = 0;
    uint64_t size = 0;  // 0: none, or the device can't write there any more
    uint64_t time = 0;
  };
  void compare(const Transfer& transfer);

  std::vector<Incident> incidents_;
  uint64_t lost_ = 0;
  std::map<uint64_t, uint64_t> forbidden_;  // the length of each range, by its first address
  std::array<Write, 32> writes_{};          // the latest writes of devices, in a ring
  size_t nextWrite_ = 0;
};

}  // namespace vfio::soft
