// Page requests: how a device that can wait asks for memory that is not there. There are two kinds.
//
//   pri    The device asks, by PCI's Page Request Interface. It sends a group of requests, marks the last,
//   and
//          tries again itself when the group is answered.
//   stall  The unit asks, for one transaction of the device that it holds (Arm). Each request is a group of
//          its own, and its number is the tag of the held transaction. The answer lets the unit try the
//          transaction again, or end it as a fault.
//
// A group is handed to the handler of the page table's page requests, and is answered once, as a whole.
#pragma once

#include <cstdint>
#include <optional>
#include <vector>

namespace vfio::soft::iommu {

class Endpoint;

struct PageRequest {
  uint64_t address = 0;
  uint32_t permissions = 0;  // IOMMU_PGFAULT_PERM_*
  uint32_t group = 0;        // its number: 9 bits with PRI, 16 bits with stalls
  std::optional<uint32_t> pasid;
  bool last = true;
};

// How a unit passes on that a page is missing.
enum class PageRequestKind : uint8_t { none, pri, stall };

// The kernel's answers: try again, this access fails, or all page requests of the device fail. The kernel
// writes `failure` to the bus as 2, which is a reserved code there; PCI's own code is 15.
enum class PageResponse : uint32_t { success, invalid, failure };

// What a unit's driver does with a request before it looks for a handler.
enum class Screening : uint8_t {
  passed,
  dropped,  // no answer
  refused,  // `invalid`, if it is the last of its group; else no answer
  failed,   // `failure`
};

class PageRequestHandler {
 public:
  // Takes a whole group, in the order of sending. The handler answers it with one call of `respond()`.
  virtual void take(Endpoint& from, std::vector<PageRequest> group) = 0;
  // Serves one request at once, for a device that does not ask but would: its transfer waits for nobody.
  // Null: somebody else has to answer.
  [[nodiscard]] virtual std::optional<PageResponse> serve(Endpoint& /*from*/, const PageRequest& /*one*/) {
    return std::nullopt;
  }
  // The endpoint is being destroyed, with the transfers that wait: no answer can reach it any more.
  virtual void forget(const Endpoint& from) = 0;

 protected:
  ~PageRequestHandler() = default;
};

}  // namespace vfio::soft::iommu
