#include "device.h"

#include <algorithm>
#include <cerrno>

#include "context.h"
#include "hwpt.h"
#include "ioas.h"
#include "iommufd.h"

namespace vfio::soft::iommufd {

Device::Device(Context& itsContext, iommu::Endpoint& itsEndpoint, std::shared_ptr<DeviceGroup> itsGroup)
    : Object(kKind), context(itsContext), endpoint(itsEndpoint), group_(std::move(itsGroup)) {}

Device::~Device() { group_->group.release(&context); }

bool Device::attached() const { return std::ranges::find(group_->attached, this) != group_->attached.end(); }

// --- the steps

// What this device can't address goes out of use in the address space.
int Device::reserveFor(Ioas& ioas) const {
  for (const auto* list : {&endpoint.unit.reserved, &endpoint.reserved}) {
    for (const iommu::ReservedRegion& region : *list) {
      if (region.kind == iommu::ReservedKind::directRelaxable) continue;
      if (const int error = ioas.table.reserve(region.range, this); error != 0) {
        ioas.table.unreserve(this);
        return error;
      }
    }
  }
  return 0;
}

// All members of the group, bound or not, or none: 0 or -EINVAL.
int Device::translateGroupBy(const PagingHwpt* hwpt) const {
  const std::vector<iommu::Endpoint*>& members = group_->group.members;
  if (hwpt != nullptr) {
    for (const iommu::Endpoint* member : members) {
      if (const int error = hwpt->domain->suits(member->unit); error != 0) return error;
    }
  }
  for (iommu::Endpoint* member : members) member->domain = hwpt != nullptr ? hwpt->domain : nullptr;
  return 0;
}

int Device::attachTo(PagingHwpt& hwpt) {
  if (group_->hwpt != nullptr && group_->hwpt != &hwpt) return -EINVAL;
  if (const int error = reserveFor(hwpt.ioas); error != 0) return error;
  // The first device brings the group; the others only their reserved regions.
  if (group_->attached.empty()) {
    if (const int error = translateGroupBy(&hwpt); error != 0) {
      hwpt.ioas.table.unreserve(this);
      return error;
    }
    group_->hwpt = &hwpt;
  }
  ++hwpt.users;
  group_->attached.push_back(this);
  return 0;
}

PagingHwpt& Device::detachFrom() {
  PagingHwpt& hwpt = *group_->hwpt;
  std::erase(group_->attached, this);
  if (group_->attached.empty()) {
    (void)translateGroupBy(nullptr);
    group_->hwpt = nullptr;
  }
  hwpt.ioas.table.unreserve(this);
  return hwpt;
}

// Moves the whole group.
int Device::replaceWith(PagingHwpt& hwpt, PagingHwpt*& left) {
  if (group_->hwpt == nullptr || !attached()) return -EINVAL;
  left = nullptr;
  PagingHwpt& old = *group_->hwpt;
  if (&hwpt == &old) return 0;

  const bool moves = &hwpt.ioas != &old.ioas;
  const auto unreserveAll = [this](Ioas& ioas) {
    for (const Device* device : group_->attached) ioas.table.unreserve(device);
  };
  int error = 0;
  for (size_t at = 0; moves && error == 0 && at < group_->attached.size(); ++at) {
    error = group_->attached[at]->reserveFor(hwpt.ioas);
  }
  if (error == 0) error = translateGroupBy(&hwpt);
  if (error != 0) {
    // The kernel gives back the new space's ranges also when it is the old space too; so does this.
    unreserveAll(hwpt.ioas);
    return error;
  }
  if (moves) unreserveAll(old.ioas);
  group_->hwpt = &hwpt;
  const auto count = static_cast<unsigned>(group_->attached.size());
  hwpt.users += count;
  old.users -= count - 1;
  left = &old;
  return 0;
}

// --- attaching by id

int Device::join(PagingHwpt& hwpt, PagingHwpt*& left) {
  return attached() ? replaceWith(hwpt, left) : attachTo(hwpt);
}

// The first auto page table of the address space that takes the device, or a new one.
int Device::joinAuto(Ioas& ioas, uint32_t& ptId, PagingHwpt*& left) {
  for (PagingHwpt* hwpt : ioas.hwpts) {
    if (!hwpt->autoDomain) continue;
    const int error = join(*hwpt, left);
    if (error == 0) ptId = hwpt->id;
    if (error != -EINVAL) return error;
  }
  const bool attach = !attached();
  PagingHwpt* hwpt = nullptr;
  if (const int error = PagingHwpt::make(context, ioas, *this, 0, attach, hwpt); error != 0) return error;
  if (!attach) {
    if (const int error = replaceWith(*hwpt, left); error != 0) {
      context.objects.abort(*hwpt);
      return error;
    }
  }
  hwpt->autoDomain = true;
  ptId = hwpt->id;
  ObjectTable::publish(*hwpt);
  return 0;
}

// Gives up one use of a page table that the device has left.
void Device::put(PagingHwpt& hwpt) {
  --hwpt.users;
  if (hwpt.autoDomain) (void)context.remove(hwpt.id);  // -EBUSY: others are attached to it
}

int Device::change(uint32_t& ptId) {
  Object* const target = context.objects.find(ptId);
  if (target == nullptr) return -ENOENT;
  const bool wasAttached = attached();
  PagingHwpt* left = nullptr;
  int error = -EINVAL;
  if (target->kind == ObjectKind::pagingHwpt) error = join(static_cast<PagingHwpt&>(*target), left);
  if (target->kind == ObjectKind::ioas) error = joinAuto(static_cast<Ioas&>(*target), ptId, left);
  if (error != 0) return error;
  if (left != nullptr) put(*left);
  if (!wasAttached) ++users;
  return 0;
}

void Device::detach() {
  if (!attached()) return;
  put(detachFrom());
  --users;
}

// --- binding

int Device::bind(Context& context, iommu::Endpoint& endpoint, Device*& out) {
  std::shared_ptr<DeviceGroup> group = context.group(endpoint.group);
  // A device that could raise any interrupt by a write must not be in a program's hands.
  for (const iommu::Endpoint* member : endpoint.group.members) {
    if (!member->unit.isolatesInterrupts) return -EPERM;
  }
  if (const int error = endpoint.group.claim(&context); error != 0) return error;
  Device* const device = context.objects.create<Device>(context, endpoint, std::move(group));
  if (device == nullptr) {
    endpoint.group.release(&context);
    return -EBUSY;
  }
  ++device->users;
  ObjectTable::publish(*device);
  out = device;
  return 0;
}

void Device::unbind(Device& device) {
  device.detach();
  --device.users;
  (void)device.context.remove(device.id);
}

// --- what VFIO has of it

namespace {

class Binding final : public BoundDevice {
 public:
  Binding(std::shared_ptr<Context> context, Device& device) : context_(std::move(context)), device_(device) {}
  ~Binding() override { Device::unbind(device_); }
  Binding(const Binding&) = delete;
  Binding& operator=(const Binding&) = delete;

  [[nodiscard]] uint32_t id() const override { return device_.id; }
  [[nodiscard]] int attach(uint32_t& ptId) override { return device_.change(ptId); }
  void detach() override { device_.detach(); }

 private:
  const std::shared_ptr<Context> context_;
  Device& device_;
};

}  // namespace

int bind(const std::shared_ptr<File>& file, iommu::Endpoint& endpoint, std::unique_ptr<BoundDevice>& out) {
  std::shared_ptr<Context> context = std::dynamic_pointer_cast<Context>(file);
  if (context == nullptr) return -EBADFD;
  Device* device = nullptr;
  if (const int error = Device::bind(*context, endpoint, device); error != 0) return error;
  out = std::make_unique<Binding>(std::move(context), *device);
  return 0;
}

}  // namespace vfio::soft::iommufd
