// The page-table object: a domain filled with an address space, which devices are attached to.
//
// Life: made by HWPT_ALLOC (then it stays until DESTROY) or by attaching a device to an IOAS (then it is
// "auto": shared by further devices that are attached to that IOAS, and gone with the last of them). It is a
// user of its IOAS.
#pragma once

#include <memory>

#include "../iommu/domain.h"
#include "object.h"

namespace vfio::soft::iommufd {

class Context;
class Device;
class Ioas;

class PagingHwpt final : public Object {
 public:
  static constexpr ObjectKind kKind = ObjectKind::pagingHwpt;
  PagingHwpt(Ioas& itsIoas, const iommu::Unit& unit, bool nestParent);
  ~PagingHwpt() override;

  // Made for `device`, filled and listed in its IOAS, not yet published: 0, or -errno and nothing is left.
  // With `attach` the device is attached before the filling, as the kernel does for an auto page table.
  [[nodiscard]] static int make(Context& context, Ioas& ioas, Device& device, uint32_t flags, bool attach,
                                PagingHwpt*& out);

  Ioas& ioas;
  const std::shared_ptr<iommu::Domain> domain;
  bool autoDomain = false;
  const bool nestParent;
  bool enforcesCoherency = false;
};

}  // namespace vfio::soft::iommufd
