// The type1 back end of a container: it maps the program's memory in the same way for all groups of the
// container.
//
// Groups of mediated devices have no page table: their driver looks up each address. While a container
// contains only such groups, no mapping is pinned or charged. The mappings are pinned and charged when the
// first group of another kind is attached, until the last group of that kind is detached.
//
// Groups whose units accept the same page table share one (a Table). Each other kind of unit gets a table of
// its own, with all mappings in it. The address space of the process (mm) pins and charges a mapping's pages
// once, when the mapping is made. They stay where they were pinned: giving the mapping a new address (the
// VADDR flags) moves none of them.
//
// Life: made by SET_IOMMU; owned by the container. Destroyed when the last group of the container is removed,
// and all mappings with it.
#pragma once

#include <cstdint>
#include <list>
#include <map>
#include <memory>
#include <vector>

#include "../core/file.h"
#include "../iommu/domain.h"
#include "../iommu/endpoint.h"
#include "../iommu/model.h"
#include "../mm/memory.h"
#include "dirty_bitmap.h"
#include "iova_ranges.h"

namespace vfio::uapi {
struct vfio_bitmap;
}
namespace vfio::soft {
class Services;
}

namespace vfio::soft::type1 {

class Type1 {
 public:
  // The answer of CHECK_EXTENSION in a container that has no back end yet.
  [[nodiscard]] static int checkExtension(const Services& host, uint64_t extension);

  // `version` is the argument of SET_IOMMU: an extension that CHECK_EXTENSION reports and that is a back end.
  Type1(Services& host, uint64_t version);
  ~Type1();
  Type1(const Type1&) = delete;
  Type1& operator=(const Type1&) = delete;

  // The container owns the group already. Returns 0, -EBUSY (an address is being replaced), -EINVAL (the
  // group can't use the present mappings), -EPERM (its interrupts are not isolated), -EFAULT ...
  [[nodiscard]] int attach(iommu::Group& group);
  void detach(iommu::Group& group);

  [[nodiscard]] int ioctl(uint32_t request, UserAddress argument);

 private:
  struct Mapping {
    uint64_t iova;
    uint64_t size;
    uint64_t user;  // the address at which it was made
    uint32_t access;
    bool pinned = false;
    uint64_t charged = 0;      // number of pages
    bool addressGone = false;  // its address is to be replaced
    std::unique_ptr<DirtyBitmap> dirty = nullptr;

    [[nodiscard]] uint64_t last() const { return iova + (size - 1); }
  };
  struct Table {
    const iommu::Model* model;
    bool enforcesCoherency;
    std::shared_ptr<iommu::Domain> domain;
    std::vector<iommu::Group*> groups;
  };
  using Mappings = std::map<uint64_t, Mapping>;
  // How the driver of a mediated device finds memory.
  class Lookup final : public iommu::Translation {
   public:
    explicit Lookup(Type1& type1) : type1_(type1) {}
    [[nodiscard]] Reach reach(uint64_t iova, uint64_t limit, uint32_t access) override;
    [[nodiscard]] int suits(const iommu::Unit& /*unit*/) const override { return 0; }

   private:
    Type1& type1_;
  };

  // --- requests.cc
  [[nodiscard]] int checkExtension(uint64_t extension) const;
  [[nodiscard]] int getInfo(UserAddress argument) const;
  [[nodiscard]] int mapDma(UserAddress argument);
  [[nodiscard]] int unmapDma(UserAddress argument);
  [[nodiscard]] int dirtyPages(UserAddress argument);
  [[nodiscard]] int dirtyBitmap(UserAddress argument, uint32_t size);

  // --- mappings.cc
  [[nodiscard]] Mapping* find(uint64_t start, uint64_t last);
  [[nodiscard]] int map(uint64_t user, uint64_t iova, uint64_t size, uint32_t access);
  [[nodiscard]] int moveTo(uint64_t iova, uint64_t size);
  // Both report how many bytes the mappings that they changed have. A bitmap receives the dirty bits, from
  // `iova` on.
  [[nodiscard]] int unmap(uint64_t iova, uint64_t size, bool all, const uapi::vfio_bitmap* bitmap,
                          uint64_t& unmapped);
  [[nodiscard]] int dropAddresses(uint64_t iova, uint64_t size, bool all, uint64_t& dropped);
  [[nodiscard]] int checkCut(uint64_t iova, uint64_t last);
  [[nodiscard]] Mappings::iterator firstOf(uint64_t iova, uint64_t size);
  [[nodiscard]] int pin(Mapping& mapping) const;
  void unpin(Mapping& mapping) const;
  void remove(Mappings::iterator mapping);
  [[nodiscard]] int startTracking();
  void stopTracking();
  [[nodiscard]] int collectDirty(uint64_t iova, uint64_t size, UserAddress bitmap);

  // --- type1.cc
  [[nodiscard]] int fits(const iommu::Group& group, IovaRanges& ranges);
  [[nodiscard]] int fill(Table& table);
  static void translate(const iommu::Group& group, const std::shared_ptr<iommu::Translation>& by);

  [[nodiscard]] uint64_t pageSizes() const;
  [[nodiscard]] uint64_t smallestPage() const;

  Services& host_;
  const uint32_t mostMappings_;
  const bool nesting_;  // asks units for tables on which a guest's tables could be nested
  const bool v2_;
  std::list<Table> tables_;  // the newest first
  std::vector<iommu::Group*> mediated_;
  const std::shared_ptr<Lookup> lookup_ = std::make_shared<Lookup>(*this);
  IovaRanges ranges_;
  Mappings mappings_;  // by IOVA
  unsigned addressesGone_ = 0;
  bool tracking_ = false;
};

}  // namespace vfio::soft::type1
