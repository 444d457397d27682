// Page requests: how a device that can wait asks for memory that is not there (PCI PRI, or a transaction that
// the unit stalls).
//
// A device sends the requests of one group and marks the last; the group is handed to the handler of the
// page table's page requests, and is answered once, as a whole.
#pragma once

#include <cstdint>
#include <optional>
#include <vector>

namespace vfio::soft::iommu {

class Endpoint;

struct PageRequest {
  uint64_t address = 0;
  uint32_t permissions = 0;  // IOMMU_PGFAULT_PERM_*
  uint32_t group = 0;
  std::optional<uint32_t> pasid;
  bool last = true;
};

// How a unit passes on that a page is missing.
enum class PageRequestKind : uint8_t { none, pri, stall };

enum class PageResponse : uint32_t { success, invalid };

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
