// What an IOMMU sees of a device: an endpoint that issues transactions with a requester id, in a group with
// the endpoints that it can't be told apart from. Made with its PCI function, dies with it.
//
// Translation takes (endpoint, PASID, address) from the first day; a domain that maps nothing blocks
// everything.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

namespace vfio::soft {
class Host;
}

namespace vfio::soft::iommu {

class Domain;

struct Range {
  uint64_t start;
  uint64_t last;  // inclusive
};

enum class ReservedKind { direct, directRelaxable, reserved, msi, softwareMsi };

struct ReservedRegion {
  Range range;
  ReservedKind kind;
};

// One piece of translation hardware: what it can do. The VT-d model of the guest has one aperture [0, 2^48-1]
// with 4 KiB, 2 MiB and 1 GiB pages and the MSI window 0xfee00000-0xfeefffff.
struct Unit {
  std::string name;  // "dmar0"
  Range aperture;
  uint64_t pageSizes;                    // bitmap of page sizes in bytes
  std::vector<ReservedRegion> reserved;  // what every endpoint behind it may not map
  bool enforcesCoherency;
  bool isolatesInterrupts;
  bool tracksDirty;
  bool nests = false;           // has two-stage translation: a table can be the parent of a guest's
  bool allowsNoAccess = false;  // has leaf entries that neither read nor write (VT-d has not)
};

// A group of endpoints and the owner of its DMA (requirement B1). An owner is any address that stands for one
// open file: an iommufd context, a container.
struct Group {
  int id;
  std::vector<class Endpoint*> members;
  const void* owner = nullptr;
  unsigned ownerCount = 0;     // claims by `owner`
  unsigned kernelDrivers = 0;  // members bound to a driver that does DMA for the kernel

  // 0, or -EPERM when the kernel or another owner has it.
  [[nodiscard]] int claim(const void* by);
  void release(const void* by);
};

class Endpoint {
 public:
  Endpoint(Host& host, std::string bdf, uint16_t requesterId, Unit& unit, Group& group);
  ~Endpoint();
  Endpoint(const Endpoint&) = delete;
  Endpoint& operator=(const Endpoint&) = delete;

  // DMA by the device, all or nothing at page granularity as a bus is: bytes before a failing page have
  // moved. Returns true if every byte did; a failure is reported to the host's fault log.
  bool dmaRead(uint64_t iova, void* into, size_t size, std::optional<uint32_t> pasid = std::nullopt);
  bool dmaWrite(uint64_t iova, const void* from, size_t size, std::optional<uint32_t> pasid = std::nullopt);

  Host& host;
  const std::string bdf;
  const uint16_t requesterId;
  Unit& unit;
  Group& group;
  std::vector<ReservedRegion> reserved;  // this endpoint's own, besides the unit's
  // What its transactions are translated by. Null: the group has no owner and the kernel's default domain
  // rules, which lets through nothing of a device that no kernel driver uses: blocked.
  std::shared_ptr<Domain> domain;

 private:
  template <class Move>
  bool transfer(uint64_t iova, size_t size, uint32_t access, std::optional<uint32_t> pasid, const Move& move);
};

}  // namespace vfio::soft::iommu
