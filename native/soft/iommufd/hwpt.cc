#include "hwpt.h"

#include <algorithm>
#include <cerrno>
#include <utility>

#include "../../uapi/iommufd.h"
#include "../../uapi/iommufd_data.h"
#include "../core/services.h"
#include "../iommu/guest_format.h"
#include "../iommu/model.h"
#include "../mm/memory.h"
#include "command.h"
#include "device.h"
#include "fault_queue.h"
#include "ioas.h"
#include "viommu.h"

namespace vfio::soft::iommufd {

Hwpt::~Hwpt() {
  if (faultQueue != nullptr) --faultQueue->users;
}

void Hwpt::setFaultQueue(FaultQueue& queue) {
  faultQueue = &queue;
  ++queue.users;
}

// ---------------------------------------------------------------- filled by the kernel

PagingHwpt::PagingHwpt(const Services& host, Ioas& itsIoas, const iommu::Unit& itsUnit)
    : PagingHwpt(itsIoas, itsUnit, std::make_shared<iommu::Domain>(host, itsUnit)) {}

PagingHwpt::PagingHwpt(Ioas& itsIoas, const iommu::Unit& itsUnit, std::shared_ptr<iommu::Domain> itsDomain)
    : Hwpt(kKind, itsDomain), ioas(itsIoas), unit(itsUnit), domain(std::move(itsDomain)) {
  ++ioas.users;
}

PagingHwpt::~PagingHwpt() {
  if (std::erase(ioas.hwpts, this) != 0) ioas.table.removeDomain(*domain);
  --ioas.users;
}

namespace {

// The flags that this kernel knows on a table of its own.
uint32_t pagingFlags(const Services& host) {
  uint32_t flags = 0;
  if (host.since(6, 7)) flags |= uapi::IOMMU_HWPT_ALLOC_NEST_PARENT | uapi::IOMMU_HWPT_ALLOC_DIRTY_TRACKING;
  if (host.since(6, 13)) flags |= uapi::IOMMU_HWPT_FAULT_ID_VALID;
  if (host.since(6, 15)) flags |= uapi::IOMMU_HWPT_ALLOC_PASID;
  return flags;
}

// ... and on a guest's.
uint32_t nestedFlags(const Services& host) {
  uint32_t flags = 0;
  if (host.since(6, 11)) flags |= uapi::IOMMU_HWPT_FAULT_ID_VALID;
  if (host.since(6, 15)) flags |= uapi::IOMMU_HWPT_ALLOC_PASID;
  return flags;
}

// The format of the unit's driver, if tables of it can be made on a domain.
const iommu::GuestFormat* formatOnDomains(const iommu::Unit& unit) {
  const iommu::GuestFormat* const format = unit.model.formatOf(unit);
  return format != nullptr && format->nestsOnDomains() ? format : nullptr;
}

}  // namespace

int PagingHwpt::make(Context& context, Ioas& ioas, Device& device, uint32_t flags,
                     const iommu::UserData& data, const uint32_t* attachAs, PagingHwpt*& out) {
  const iommu::Unit& unit = device.endpoint.unit;
  if ((flags & ~pagingFlags(context.host)) != 0) return -EOPNOTSUPP;
  if (const int error = unit.model.allocates(unit, flags); error != 0) return error;
  const bool dirty = (flags & uapi::IOMMU_HWPT_ALLOC_DIRTY_TRACKING) != 0;
  const bool nestParent = (flags & uapi::IOMMU_HWPT_ALLOC_NEST_PARENT) != 0;
  // Data is for units that accept data for this kind of table; none does.
  if (data.length != 0) return -EOPNOTSUPP;

  PagingHwpt* const hwpt = context.objects.create<PagingHwpt>(context.host, ioas, unit);
  if (hwpt == nullptr) return -EBUSY;
  if (dirty) hwpt->domain->offerDirtyTracking();
  hwpt->nestParent = nestParent;
  if (nestParent) hwpt->domain->becomeParent();
  hwpt->pasidCompatible = (flags & uapi::IOMMU_HWPT_ALLOC_PASID) != 0;
  // Set before anything is mapped, since hardware keeps it in each entry.
  if (unit.enforcesCoherency) hwpt->enforcesCoherency = hwpt->domain->enforceCoherency();
  int error = attachAs != nullptr ? device.attachTo(*hwpt, *attachAs) : 0;
  if (error == 0) {
    error = ioas.table.addDomain(*hwpt->domain);
    if (error != 0 && attachAs != nullptr) (void)device.detachFrom(*attachAs);
  }
  if (error != 0) {
    context.objects.abort(*hwpt);
    return error;
  }
  ioas.hwpts.push_back(hwpt);
  out = hwpt;
  return 0;
}

// ---------------------------------------------------------------- written by a guest

NestedHwpt::NestedHwpt(PagingHwpt& itsParent, Object& usedObject,
                       std::shared_ptr<iommu::NestedTable> itsTable)
    : Hwpt(kKind, itsTable), parent(itsParent), used(usedObject), table(std::move(itsTable)) {
  ++used.users;
}

NestedHwpt::~NestedHwpt() { --used.users; }

int NestedHwpt::make(Context& context, PagingHwpt& parent, const Device& device, uint32_t flags,
                     const iommu::UserData& data, NestedHwpt*& out) {
  const iommu::Unit& unit = device.endpoint.unit;
  if ((flags & ~nestedFlags(context.host)) != 0 || data.length == 0) return -EOPNOTSUPP;
  const iommu::GuestFormat* const format = formatOnDomains(unit);
  // Until 6.13 a driver that took any flags at all was asked for these tables too, after the parent.
  const bool asks = format != nullptr || (!context.host.since(6, 13) && unit.model.takesFlags());
  if (!asks) return -EOPNOTSUPP;
  // Each format belongs to one driver, and the parent must be of the same driver.
  const bool sameDriver = formatOnDomains(parent.unit) == format;
  if (parent.autoDomain || !parent.nestParent || !sameDriver) return -EINVAL;
  std::shared_ptr<iommu::NestedTable> table;
  if (format == nullptr) return -EOPNOTSUPP;
  if (const int error = format->makeTable(unit, parent.domain, data, table); error != 0) return error;
  NestedHwpt* const hwpt = context.objects.create<NestedHwpt>(parent, parent, std::move(table));
  if (hwpt == nullptr) return -EBUSY;
  hwpt->pasidCompatible = (flags & uapi::IOMMU_HWPT_ALLOC_PASID) != 0;
  out = hwpt;
  return 0;
}

// ---------------------------------------------------------------- the commands

namespace {

// The table that was asked for, not yet published.
int make(Command& command, const uapi::iommu_hwpt_alloc& arguments, Device& device, Object& parent,
         Hwpt*& out) {
  const iommu::UserData data = {arguments.data_type, arguments.data_uptr, arguments.data_len};
  if (parent.kind == ObjectKind::ioas) {
    PagingHwpt* hwpt = nullptr;
    const int error = PagingHwpt::make(command.context, static_cast<Ioas&>(parent), device, arguments.flags,
                                       data, nullptr, hwpt);
    out = hwpt;
    return error;
  }
  if (parent.kind == ObjectKind::pagingHwpt) {
    NestedHwpt* hwpt = nullptr;
    const int error = NestedHwpt::make(command.context, static_cast<PagingHwpt&>(parent), device,
                                       arguments.flags, data, hwpt);
    out = hwpt;
    return error;
  }
  if (parent.kind == ObjectKind::viommu) {
    NestedHwpt* hwpt = nullptr;
    const int error = static_cast<Viommu&>(parent).makeNested(device, arguments.flags, data, hwpt);
    out = hwpt;
    return error;
  }
  return -EINVAL;
}

}  // namespace

int hwptAlloc(Command& command) {
  auto& arguments = command.as<uapi::iommu_hwpt_alloc>();
  if (arguments.__reserved != 0) return -EOPNOTSUPP;
  if ((arguments.data_type == uapi::IOMMU_HWPT_DATA_NONE) != (arguments.data_len == 0)) return -EINVAL;
  Context& context = command.context;
  Device* const device = context.objects.find<Device>(arguments.dev_id);
  if (device == nullptr) return -ENOENT;
  Object* const parent = context.objects.find(arguments.pt_id);
  if (parent == nullptr) return -EINVAL;

  Hwpt* hwpt = nullptr;
  if (const int error = make(command, arguments, *device, *parent, hwpt); error != 0) return error;
  int error = 0;
  if ((arguments.flags & uapi::IOMMU_HWPT_FAULT_ID_VALID) != 0) {
    FaultQueue* const queue = context.objects.find<FaultQueue>(arguments.fault_id);
    if (queue != nullptr) {
      hwpt->setFaultQueue(*queue);
    } else {
      error = -ENOENT;
    }
  }
  if (error == 0) {
    arguments.out_hwpt_id = hwpt->id;
    error = command.respond(sizeof(arguments));
  }
  if (error != 0) {
    context.objects.abort(*hwpt);
    return error;
  }
  ObjectTable::publish(*hwpt);
  return 0;
}

// The count of handled entries is reported on every path.
int hwptInvalidate(Command& command) {
  auto& arguments = command.as<uapi::iommu_hwpt_invalidate>();
  iommu::UserArray array = {arguments.data_type, arguments.data_uptr, arguments.entry_len,
                            arguments.entry_num};
  const auto run = [&] {
    constexpr uint32_t kMostEntries = 1U << 19;
    if (arguments.__reserved != 0) return -EOPNOTSUPP;
    if (array.entries != 0 && (array.user == 0 || array.entryLength == 0 ||
                               array.entryLength > mm::pageSize() || array.entries > kMostEntries)) {
      return -EINVAL;
    }
    Object* const object = command.context.objects.find(arguments.hwpt_id);
    if (object == nullptr) return -ENOENT;
    if (object->kind == ObjectKind::nestedHwpt) {
      return static_cast<NestedHwpt&>(*object).table->runCommands(array);
    }
    if (object->kind == ObjectKind::viommu) return static_cast<Viommu&>(*object).runCommands(array);
    // Since there are virtual IOMMUs, several kinds of object can be meant.
    return command.context.host.since(6, 13) ? -EINVAL : -ENOENT;
  };
  const int error = run();
  arguments.entry_num = array.handled;
  return command.respond(sizeof(arguments)) != 0 ? -EFAULT : error;
}

}  // namespace vfio::soft::iommufd
