#include "viommu.h"

#include <algorithm>
#include <cerrno>

#include "../../uapi/iommufd.h"
#include "../../uapi/iommufd_data.h"
#include "../core/services.h"
#include "../iommu/model.h"
#include "command.h"
#include "device.h"
#include "vdevice.h"
#include "vevent_queue.h"
#include "virtual_interface.h"

namespace vfio::soft::iommufd {

Viommu::Viommu(Context& itsContext, PagingHwpt& itsParent, const iommu::Unit& itsUnit,
               const iommu::GuestFormat& itsFormat, uint32_t itsType)
    : Object(kKind), context(itsContext), parent(itsParent), unit(itsUnit), format(itsFormat), type(itsType) {
  ++parent.users;
}

Viommu::~Viommu() { --parent.users; }

// ---------------------------------------------------------------- a guest's tables

int Viommu::makeNested(const Device& device, uint32_t flags, const iommu::UserData& data, NestedHwpt*& out) {
  const Services& host = context.host;
  if (&device.endpoint.unit != &unit) return -EINVAL;
  uint32_t known = uapi::IOMMU_HWPT_FAULT_ID_VALID;
  if (host.since(6, 15)) known |= uapi::IOMMU_HWPT_ALLOC_PASID;
  if ((flags & ~known) != 0 || data.length == 0) return -EOPNOTSUPP;
  std::shared_ptr<iommu::NestedTable> table;
  const int error = format.makeTable(host, unit, parent.domain, *this, flags, data, table);
  if (error != 0) return error;
  NestedHwpt* const hwpt = context.objects.create<NestedHwpt>(parent, *this, std::move(table));
  if (hwpt == nullptr) return -EBUSY;
  hwpt->pasidCompatible = (flags & uapi::IOMMU_HWPT_ALLOC_PASID) != 0;
  out = hwpt;
  return 0;
}

int Viommu::runCommands(iommu::UserArray& array) const { return format.runCommands(*this, array); }

bool Viommu::runQueued(const iommu::GuestCommand& command) const { return format.runQueued(*this, command); }

// ---------------------------------------------------------------- its devices and events

std::optional<uint64_t> Viommu::nameOf(const iommu::Endpoint& endpoint) const {
  const auto found = std::ranges::find_if(
      vdevices, [&endpoint](const auto& entry) { return &entry.second->endpoint == &endpoint; });
  if (found == vdevices.end()) return std::nullopt;
  return found->first;
}

int Viommu::report(uint32_t eventType, const void* data, size_t size) {
  const auto found = std::ranges::find(queues, eventType, &VeventQueue::type);
  if (found == queues.end()) return -EOPNOTSUPP;
  (*found)->report(data, size);
  return 0;
}

// ---------------------------------------------------------------- the command

int viommuAlloc(Command& command) {
  auto& arguments = command.as<uapi::iommu_viommu_alloc>();
  Context& context = command.context;
  const Services& host = context.host;
  if (arguments.flags != 0 || arguments.type == uapi::IOMMU_VIOMMU_TYPE_DEFAULT) return -EOPNOTSUPP;
  const Device* const device = context.objects.find<Device>(arguments.dev_id);
  if (device == nullptr) return -ENOENT;
  const iommu::Unit& unit = device->endpoint.unit;
  const iommu::GuestFormat* const format = unit.model.formatOf(unit);
  if (format == nullptr || !format->hasGuests(host)) return -EOPNOTSUPP;
  const bool supported = format->hasGuestsOf(host, unit, arguments.type);
  // Until 6.17 the driver was asked about the type last.
  if (host.since(6, 17) && !supported) return -EOPNOTSUPP;
  PagingHwpt* const parent = context.objects.find<PagingHwpt>(arguments.hwpt_id);
  if (parent == nullptr) return -ENOENT;
  if (!parent->nestParent) return -EINVAL;
  if (!supported) return -EOPNOTSUPP;
  if (&parent->unit != &unit) return -EINVAL;

  Viommu* const viommu = context.objects.create<Viommu>(context, *parent, unit, *format, arguments.type);
  if (viommu == nullptr) return -EBUSY;
  int error = 0;
  if (format->hasCommandQueues(unit, arguments.type)) {
    error = VirtualInterface::make(*viommu, {arguments.type, arguments.data_uptr, arguments.data_len});
  }
  if (error == 0) {
    arguments.out_viommu_id = viommu->id;
    error = command.respond(sizeof(arguments));
  }
  if (error != 0) {
    context.objects.abort(*viommu);
    return error;
  }
  ObjectTable::publish(*viommu);
  return 0;
}

}  // namespace vfio::soft::iommufd
