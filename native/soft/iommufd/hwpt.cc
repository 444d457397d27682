#include "hwpt.h"

#include <algorithm>
#include <cerrno>

#include "../../uapi/iommufd.h"
#include "../../uapi/iommufd_data.h"
#include "command.h"
#include "device.h"
#include "ioas.h"

namespace vfio::soft::iommufd {

PagingHwpt::PagingHwpt(Ioas& itsIoas, const iommu::Unit& unit, bool isNestParent)
    : Object(kKind), ioas(itsIoas), domain(std::make_shared<iommu::Domain>(unit)), nestParent(isNestParent) {
  ++ioas.users;
}

PagingHwpt::~PagingHwpt() {
  if (std::erase(ioas.hwpts, this) != 0) ioas.table.removeDomain(*domain);
  --ioas.users;
}

int PagingHwpt::make(Context& context, Ioas& ioas, Device& device, uint32_t flags, bool attach,
                     PagingHwpt*& out) {
  const iommu::Unit& unit = device.endpoint.unit;
  constexpr uint32_t kFlags = uapi::IOMMU_HWPT_ALLOC_NEST_PARENT | uapi::IOMMU_HWPT_ALLOC_DIRTY_TRACKING;
  if ((flags & ~kFlags) != 0) return -EOPNOTSUPP;
  if ((flags & uapi::IOMMU_HWPT_ALLOC_DIRTY_TRACKING) != 0 && !unit.tracksDirty) return -EOPNOTSUPP;
  const bool nestParent = (flags & uapi::IOMMU_HWPT_ALLOC_NEST_PARENT) != 0;
  if (nestParent && !unit.nests) return -EOPNOTSUPP;

  PagingHwpt* const hwpt = context.objects.create<PagingHwpt>(ioas, unit, nestParent);
  if (hwpt == nullptr) return -EBUSY;
  // Before anything is mapped: hardware keeps it in each entry.
  if (unit.enforcesCoherency) hwpt->enforcesCoherency = hwpt->domain->enforceCoherency();
  int error = attach ? device.attachTo(*hwpt) : 0;
  if (error == 0) {
    error = ioas.table.addDomain(*hwpt->domain);
    if (error != 0 && attach) device.detachFrom();
  }
  if (error != 0) {
    context.objects.abort(*hwpt);
    return error;
  }
  ioas.hwpts.push_back(hwpt);
  out = hwpt;
  return 0;
}

int hwptAlloc(Command& command) {
  auto& arguments = command.as<uapi::iommu_hwpt_alloc>();
  if (arguments.__reserved != 0) return -EOPNOTSUPP;
  if ((arguments.data_type == uapi::IOMMU_HWPT_DATA_NONE) != (arguments.data_len == 0)) return -EINVAL;
  Context& context = command.context;
  Device* const device = context.objects.find<Device>(arguments.dev_id);
  if (device == nullptr) return -ENOENT;
  const Object* const parent = context.objects.find(arguments.pt_id);
  if (parent == nullptr) return -EINVAL;

  if (parent->kind == ObjectKind::pagingHwpt) {
    // A guest's table. Of the reasons against it only "the parent is none" is left on units that don't nest.
    if ((arguments.flags & ~uapi::IOMMU_HWPT_FAULT_ID_VALID) != 0 || arguments.data_len == 0) {
      return -EOPNOTSUPP;
    }
    const auto& table = static_cast<const PagingHwpt&>(*parent);
    return table.autoDomain || !table.nestParent ? -EINVAL : -EOPNOTSUPP;
  }
  Ioas* const ioas = context.objects.find<Ioas>(arguments.pt_id);
  if (ioas == nullptr) return -EINVAL;

  // Data is for units that take some with this kind of table; none does.
  if (arguments.data_len != 0) return -EOPNOTSUPP;
  PagingHwpt* hwpt = nullptr;
  if (const int error = PagingHwpt::make(context, *ioas, *device, arguments.flags, false, hwpt); error != 0) {
    return error;
  }
  arguments.out_hwpt_id = hwpt->id;
  if (const int error = command.respond(sizeof(arguments)); error != 0) {
    context.objects.abort(*hwpt);
    return error;
  }
  ObjectTable::publish(*hwpt);
  return 0;
}

}  // namespace vfio::soft::iommufd
