// Groups of endpoints that an IOMMU can't tell apart, and the owner of a group's DMA. An owner is any
// address that stands for one open file: an iommufd context, a container.
//
// Life: made by the machine with the first endpoint of the group, destroyed when the machine drops it.
// Endpoints enter and leave `members` themselves.
#pragma once

#include <cstdint>
#include <vector>

namespace vfio::soft::iommu {

class Endpoint;

// What keeps the DMA of a group's endpoints inside the program's memory: an IOMMU; their driver, which does
// it for them (mediated devices); nobody.
enum class Confinement : uint8_t { iommu, driver, none };

struct Group {
  static constexpr int kNone = -1;
  int id;  // kNone: programs can't see the group
  std::vector<Endpoint*> members;
  const void* owner = nullptr;
  unsigned ownerCount = 0;     // claims by `owner`
  unsigned kernelDrivers = 0;  // members bound to a driver that does DMA for the kernel
  bool kernelTable = false;    // one of these drivers has a page table of its own, shared with nobody
  Confinement by = Confinement::iommu;  // none: VFIO may lend a number to the group of the one device
  bool exclusive = true;  // has one owner at a time; if not, it is of one device that nobody can reach

  // 0, or -EPERM when the kernel or another owner holds the group.
  [[nodiscard]] int claim(const void* by);
  void release(const void* by);
};

}  // namespace vfio::soft::iommu
