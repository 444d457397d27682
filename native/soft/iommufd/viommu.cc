#include "viommu.h"

#include <algorithm>
#include <cerrno>
#include <cstring>

#include "../../uapi/iommufd.h"
#include "../../uapi/iommufd_data.h"
#include "../core/services.h"
#include "../mm/memory.h"
#include "command.h"
#include "device.h"
#include "vdevice.h"
#include "vevent_queue.h"
#include "virtual_interface.h"

namespace vfio::soft::iommufd {

Viommu::Viommu(Context& itsContext, PagingHwpt& itsParent, const iommu::Unit& itsUnit, uint32_t itsType)
    : Object(kKind), context(itsContext), parent(itsParent), unit(itsUnit), type(itsType) {
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
  int error = -EOPNOTSUPP;
  if (unit.nesting == iommu::NestingFormat::armSmmuv3) {
    auto attached = iommu::SmmuKnown::nobody;
    if (host.since(6, 15)) attached = iommu::SmmuKnown::all;
    if (host.since(6, 19)) attached = iommu::SmmuKnown::translated;
    // A guest's PASIDs are its own: there is no table for one of them.
    if ((flags & uapi::IOMMU_HWPT_ALLOC_PASID) == 0) {
      error = iommu::makeSmmuv3Nested(unit, parent.domain, *this, attached, data, table);
    }
  }
  if (error != 0) return error;
  NestedHwpt* const hwpt = context.objects.create<NestedHwpt>(parent, *this, std::move(table));
  if (hwpt == nullptr) return -EBUSY;
  hwpt->pasidCompatible = (flags & uapi::IOMMU_HWPT_ALLOC_PASID) != 0;
  out = hwpt;
  return 0;
}

// Commands as a guest puts them into its queue. Nothing is cached, so that they only have to be right.
int Viommu::invalidate(iommu::UserArray& array) const {
  if (unit.nesting != iommu::NestingFormat::armSmmuv3) return -EOPNOTSUPP;
  constexpr uint32_t kType = uapi::IOMMU_VIOMMU_INVALIDATE_DATA_ARM_SMMUV3;
  constexpr size_t kSize = sizeof(uapi::iommu_viommu_arm_smmuv3_invalidate);
  if (array.type != kType || array.entries == 0) return -EINVAL;
  // All are fetched before the first is looked at. Longer ones than this kernel knows end in zeroes.
  std::vector<uapi::iommu_viommu_arm_smmuv3_invalidate> commands(array.entries);
  for (uint32_t at = 0; at < array.entries; ++at) {
    const UserAddress entry = array.user + uint64_t{array.entryLength} * at;
    if (array.entryLength > kSize) {
      const int zero = mm::Memory::allZero(entry + kSize, array.entryLength - kSize);
      if (zero <= 0) return zero < 0 ? zero : -E2BIG;
    }
    const size_t known = std::min<size_t>(array.entryLength, kSize);
    if (mm::Memory::copyIn(&commands[at], entry, known) != 0) return -EFAULT;
  }
  for (const auto& command : commands) {
    constexpr uint64_t kCfgiCd = 0x05, kCfgiCdAll = 0x06, kTlbiNhAll = 0x10, kTlbiNhAsid = 0x11,
                       kTlbiNhVa = 0x12, kTlbiNhVaa = 0x13, kTlbiNsnhAll = 0x30, kAtcInvalidate = 0x40;
    switch (command.cmd[0] & 0xff) {
      case kTlbiNsnhAll:
      case kTlbiNhAll:
      case kTlbiNhAsid:
      case kTlbiNhVa:
      case kTlbiNhVaa:
        break;
      case kCfgiCd:
      case kCfgiCdAll:
      case kAtcInvalidate:
        if (!vdevices.contains(command.cmd[0] >> 32)) return -EIO;
        break;
      default:
        return -EIO;
    }
    ++array.handled;
  }
  return 0;
}

// ---------------------------------------------------------------- events

std::optional<uint32_t> Viommu::streamId(const iommu::Endpoint& endpoint) const {
  const auto found = std::ranges::find_if(
      vdevices, [&endpoint](const auto& entry) { return &entry.second->endpoint == &endpoint; });
  if (found == vdevices.end()) return std::nullopt;
  return static_cast<uint32_t>(found->first);
}

void Viommu::take(const iommu::SmmuEvent& event) {
  report(uapi::IOMMU_VEVENTQ_TYPE_ARM_SMMUV3, event.data(), sizeof(event));
}

int Viommu::report(uint32_t eventType, const void* data, size_t size) {
  const auto found = std::ranges::find(queues, eventType, &VeventQueue::type);
  if (found == queues.end()) return -EOPNOTSUPP;
  (*found)->report(data, size);
  return 0;
}

// ---------------------------------------------------------------- the command

namespace {

constexpr uint32_t kArm = uapi::IOMMU_VIOMMU_TYPE_ARM_SMMUV3;
constexpr uint32_t kTegra = uapi::IOMMU_VIOMMU_TYPE_TEGRA241_CMDQV;

// Has the unit's driver virtual IOMMUs at all, in this release?
bool driverKnowsThem(const Services& host, const iommu::Unit& unit) {
  if (unit.kind == iommu::UnitKind::smmuv3 || unit.nesting == iommu::NestingFormat::armSmmuv3) return true;
  const bool amd = unit.kind == iommu::UnitKind::amd || unit.nesting == iommu::NestingFormat::amdGuest;
  return amd && host.since(7, 0);
}

// ... and of this type?
bool supports(const Services& host, const iommu::Unit& unit, uint32_t type) {
  if (!driverKnowsThem(host, unit)) return false;
  // AMD's driver takes whatever type it is given.
  if (unit.kind != iommu::UnitKind::smmuv3 && unit.nesting != iommu::NestingFormat::armSmmuv3) return true;
  if (!unit.nests) return false;
  return type == kArm || (type == kTegra && unit.commandQueues && host.since(6, 17));
}

}  // namespace

int viommuAlloc(Command& command) {
  auto& arguments = command.as<uapi::iommu_viommu_alloc>();
  Context& context = command.context;
  const Services& host = context.host;
  if (arguments.flags != 0 || arguments.type == uapi::IOMMU_VIOMMU_TYPE_DEFAULT) return -EOPNOTSUPP;
  const Device* const device = context.objects.find<Device>(arguments.dev_id);
  if (device == nullptr) return -ENOENT;
  const iommu::Unit& unit = device->endpoint.unit;
  const bool supported = supports(host, unit, arguments.type);
  // Until 6.17 the driver was asked about the type last.
  if (host.since(6, 17) ? !supported : !driverKnowsThem(host, unit)) return -EOPNOTSUPP;
  PagingHwpt* const parent = context.objects.find<PagingHwpt>(arguments.hwpt_id);
  if (parent == nullptr) return -ENOENT;
  if (!parent->nestParent) return -EINVAL;
  if (!supported) return -EOPNOTSUPP;
  if (&parent->unit != &unit) return -EINVAL;

  Viommu* const viommu = context.objects.create<Viommu>(context, *parent, unit, arguments.type);
  if (viommu == nullptr) return -EBUSY;
  int error = 0;
  if (unit.commandQueues && arguments.type == kTegra) {
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
