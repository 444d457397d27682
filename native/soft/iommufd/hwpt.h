// The page-table objects: what devices are attached to.
//
// A PagingHwpt is a domain filled with an address space. Life: made by HWPT_ALLOC (then it stays until
// DESTROY) or by attaching a device to an IOAS (then it is "auto": shared by further devices that are
// attached to that IOAS, and destroyed when the last of them is detached). It is a user of its IOAS.
//
// A NestedHwpt is a guest's table on top of a PagingHwpt. Life: made by HWPT_ALLOC, stays until DESTROY. It
// is a user of its parent, or of the virtual IOMMU that it was made on.
//
// Both kinds can have a fault queue, and then are users of it.
#pragma once

#include <memory>

#include "../iommu/domain.h"
#include "../iommu/nested.h"
#include "../iommu/unit.h"
#include "object.h"

namespace vfio::soft {
class Services;
}

namespace vfio::soft::iommufd {

class Context;
class Device;
class FaultQueue;
class Ioas;
class PagingHwpt;

class Hwpt : public Object {
 public:
  Hwpt(ObjectKind kind, std::shared_ptr<iommu::Translation> itsTranslation)
      : Object(kind), translation(std::move(itsTranslation)) {}
  ~Hwpt() override;

  // The table that the kernel fills: this one, or its parent.
  [[nodiscard]] virtual PagingHwpt& paging() = 0;
  void setFaultQueue(FaultQueue& queue);

  const std::shared_ptr<iommu::Translation> translation;
  FaultQueue* faultQueue = nullptr;
  bool pasidCompatible = false;  // can be used beside tables for PASIDs, and for them
};

class PagingHwpt final : public Hwpt {
 public:
  static constexpr ObjectKind kKind = ObjectKind::pagingHwpt;
  PagingHwpt(const Services& host, Ioas& itsIoas, const iommu::Unit& itsUnit);
  ~PagingHwpt() override;

  // Makes one for `device`, filled and listed in its IOAS, not yet published: 0, or -errno and no trace is
  // left. With `attachAs`, a PASID or 0 for none, the device is attached before the filling, as the kernel
  // does for an auto page table.
  [[nodiscard]] static int make(Context& context, Ioas& ioas, Device& device, uint32_t flags,
                                const iommu::UserData& data, const uint32_t* attachAs, PagingHwpt*& out);

  [[nodiscard]] PagingHwpt& paging() override { return *this; }

  Ioas& ioas;
  const iommu::Unit& unit;  // the unit that it was made for
  const std::shared_ptr<iommu::Domain> domain;
  bool autoDomain = false;
  bool nestParent = false;
  bool enforcesCoherency = false;

 private:
  PagingHwpt(Ioas& itsIoas, const iommu::Unit& itsUnit, std::shared_ptr<iommu::Domain> itsDomain);
};

class NestedHwpt final : public Hwpt {
 public:
  static constexpr ObjectKind kKind = ObjectKind::nestedHwpt;
  // It is a user of `usedObject`: the parent, or a virtual IOMMU on it.
  NestedHwpt(PagingHwpt& itsParent, Object& usedObject, std::shared_ptr<iommu::NestedTable> itsTable);
  ~NestedHwpt() override;

  // Makes one that is not yet published: 0, or -errno and no trace is left.
  [[nodiscard]] static int make(Context& context, PagingHwpt& parent, const Device& device, uint32_t flags,
                                const iommu::UserData& data, NestedHwpt*& out);

  [[nodiscard]] PagingHwpt& paging() override { return parent; }

  PagingHwpt& parent;
  Object& used;
  const std::shared_ptr<iommu::NestedTable> table;
};

}  // namespace vfio::soft::iommufd
