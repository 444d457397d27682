#include "device.h"

#include <algorithm>
#include <cerrno>

#include "../core/services.h"
#include "../iommu/model.h"
#include "access.h"
#include "context.h"
#include "fault_queue.h"
#include "hwpt.h"
#include "ioas.h"
#include "iommufd.h"
#include "vdevice.h"

namespace vfio::soft::iommufd {

Device::Device(Context& itsContext, iommu::Endpoint& itsEndpoint, std::shared_ptr<DeviceGroup> itsGroup)
    : Object(kKind), context(itsContext), endpoint(itsEndpoint), group_(std::move(itsGroup)) {}

Device::~Device() { group_->group.release(&context); }

bool Device::attached(uint32_t pasid) const {
  const auto found = group_->attached.find(pasid);
  return found != group_->attached.end() &&
         std::ranges::find(found->second.devices, this) != found->second.devices.end();
}

void Attach::take(iommu::Endpoint& from, std::vector<iommu::PageRequest> group) {
  hwpt->faultQueue->report(*this, from, std::move(group));
}

void Attach::forget(const iommu::Endpoint& from) {
  std::erase(requesters, &from);
  if (hwpt->faultQueue != nullptr) hwpt->faultQueue->forget(from);
}

// --- the steps

// Reserves, in the address space, the IOVAs that this device can't use.
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

// The members of the group that use attachments for this PASID, bound or not: those without PASIDs are
// skipped.
std::vector<iommu::Endpoint*> Device::usersOf(uint32_t pasid) const {
  std::vector<iommu::Endpoint*> all = group_->group.members;
  if (pasid != kNoPasid) {
    std::erase_if(all, [](const iommu::Endpoint* member) { return member->usablePasidBits() == 0; });
  }
  return all;
}

// Tables for PASIDs and the table for no PASID must be of the kind that can be combined.
int Device::checkCompatible(const Hwpt& hwpt, uint32_t pasid) const {
  const auto plain = group_->attached.find(kNoPasid);
  if (pasid == kNoPasid) {
    const bool others = group_->attached.upper_bound(kNoPasid) != group_->attached.end();
    return !hwpt.pasidCompatible && others ? -EINVAL : 0;
  }
  if (!hwpt.pasidCompatible) return -EINVAL;
  return plain != group_->attached.end() && !plain->second.hwpt->pasidCompatible ? -EINVAL : 0;
}

// Can this device's page requests go to the table's fault queue? A virtual function shares PCI's capability
// for them with its physical one, and the kernel knows no way to share it. Through 6.15 iommufd turned page
// requests on, for this device only. Since then the units' drivers do it, for each device.
int Device::checkRequests(const Hwpt& hwpt) const {
  if (hwpt.faultQueue == nullptr) return 0;
  const iommu::Endpoint* const physical = endpoint.physical;
  if (physical != nullptr && (physical->hasPri() || !context.host.since(6, 13))) return -EINVAL;
  if (context.host.since(6, 16)) return 0;
  const bool on = std::ranges::any_of(
      group_->attached, [](const auto& entry) { return entry.second.hwpt->faultQueue != nullptr; });
  return on ? 0 : endpoint.unit.model.enablesRequests(endpoint);
}

// Can all members of the group use this PASID, and is it free?
int Device::checkPasid(uint32_t pasid, bool replaces) const {
  if (!endpoint.unit.model.attachesPasids()) return -EOPNOTSUPP;
  const std::vector<iommu::Endpoint*> members = usersOf(pasid);
  const auto lacksIt = [pasid](const auto* member) { return pasid >> member->usablePasidBits() != 0; };
  if (std::ranges::any_of(members, lacksIt)) return -EINVAL;
  const auto usesIt = [pasid](const auto* member) { return member->hasPasid(pasid); };
  return !replaces && std::ranges::any_of(members, usesIt) ? -EBUSY : 0;
}

// Can the group be translated by this table? The order of the checks is the kernel's.
int Device::checkHardware(Hwpt& hwpt, uint32_t pasid, bool replaces) const {
  const bool late = context.host.since(6, 16);
  if (late) {
    if (const int error = checkRequests(hwpt); error != 0) return error;
  }
  if (const int error = checkCompatible(hwpt, pasid); error != 0) return error;
  if (!late) {
    if (const int error = checkRequests(hwpt); error != 0) return error;
  }
  if (pasid != kNoPasid) {
    if (const int error = checkPasid(pasid, replaces); error != 0) return error;
  }
  for (const iommu::Endpoint* member : usersOf(pasid)) {
    const iommu::Model& model = member->unit.model;
    if (const int error = hwpt.translation->suits(member->unit); error != 0) return error;
    if (const int error = hwpt.translation->admits(*member); error != 0) return error;
    if (pasid != kNoPasid) {
      const int error =
          model.servesPasid(*hwpt.translation, *hwpt.paging().domain, member->translation().get());
      if (error != 0) return error;
    }
    if (late && hwpt.faultQueue != nullptr) {
      if (const int error = model.enablesRequests(*member); error != 0) return error;
    }
    if (const int error = hwpt.translation->configures(member->unit); error != 0) return error;
  }
  return 0;
}

void Device::translateGroupBy(const Hwpt* hwpt, uint32_t pasid, Attach& by) const {
  iommu::Attachment to;
  if (hwpt != nullptr) {
    to.translation = hwpt->translation;
    if (hwpt->faultQueue != nullptr) to.pageRequests = &by;
  }
  const std::vector<iommu::Endpoint*> before = std::move(by.requesters);
  by.requesters.clear();
  const auto as = pasid == kNoPasid ? std::nullopt : std::optional(pasid);
  const auto requests = [this](const iommu::Endpoint* member) {
    return std::ranges::any_of(group_->attached, [member](const auto& entry) {
      const auto& all = entry.second.requesters;
      return std::ranges::find(all, member) != all.end();
    });
  };
  for (iommu::Endpoint* member : usersOf(pasid)) {
    // They are turned on once for all attachments here. A member that has none is left as it is.
    if (to.pageRequests != nullptr &&
        (requests(member) || std::ranges::find(before, member) != before.end() ||
         member->unit.model.enablesRequests(*member) == 0)) {
      by.requesters.push_back(member);
      member->requests.turnOn();
    }
    member->attach(as, to);
  }
  for (iommu::Endpoint* const member : before) member->requests.turnOff();
}

int Device::attachTo(Hwpt& hwpt, uint32_t pasid) {
  if (attached(pasid)) return -EBUSY;
  const auto found = group_->attached.find(pasid);
  const bool first = found == group_->attached.end();
  if (!first && found->second.hwpt != &hwpt) return -EINVAL;
  Ioas& ioas = hwpt.paging().ioas;
  if (pasid == kNoPasid) {
    if (const int error = reserveFor(ioas); error != 0) return error;
  }
  // The first device attaches the whole group; the others only add their reserved regions.
  if (first) {
    if (const int error = checkHardware(hwpt, pasid, false); error != 0) {
      if (pasid == kNoPasid) ioas.table.unreserve(this);
      return error;
    }
  }
  Attach& attach = group_->attached[pasid];
  if (first) {
    attach.hwpt = &hwpt;
    attach.reporter = this;
    translateGroupBy(&hwpt, pasid, attach);
  }
  ++hwpt.users;
  attach.devices.push_back(this);
  return 0;
}

Hwpt& Device::detachFrom(uint32_t pasid) {
  Attach& attach = group_->attached.at(pasid);
  Hwpt& hwpt = *attach.hwpt;
  std::erase(attach.devices, this);
  if (attach.devices.empty()) {
    translateGroupBy(nullptr, pasid, attach);
    if (hwpt.faultQueue != nullptr) hwpt.faultQueue->refuse(attach);
    group_->attached.erase(pasid);
  } else if (attach.reporter == this) {
    attach.reporter = attach.devices.front();
  }
  if (pasid == kNoPasid) hwpt.paging().ioas.table.unreserve(this);
  return hwpt;
}

// Moves the whole group.
int Device::replaceWith(Hwpt& hwpt, uint32_t pasid, Hwpt*& left) {
  left = nullptr;
  if (!attached(pasid)) return -EINVAL;
  Attach& attach = group_->attached.at(pasid);
  Hwpt& old = *attach.hwpt;
  if (&hwpt == &old) return 0;

  Ioas& to = hwpt.paging().ioas;
  Ioas& from = old.paging().ioas;
  const bool moves = pasid == kNoPasid && &to != &from;
  const auto unreserveAll = [&attach](Ioas& ioas) {
    for (const Device* device : attach.devices) ioas.table.unreserve(device);
  };
  int error = 0;
  for (size_t at = 0; moves && error == 0 && at < attach.devices.size(); ++at) {
    error = attach.devices[at]->reserveFor(to);
  }
  if (error == 0) error = checkHardware(hwpt, pasid, true);
  if (error != 0) {
    // The kernel drops the new space's reserved ranges even when the old space is the same one; so does
    // this.
    if (pasid == kNoPasid) unreserveAll(to);
    return error;
  }
  // What the unit's queue holds still goes to the old table's.
  translateGroupBy(&hwpt, pasid, attach);
  attach.hwpt = &hwpt;
  attach.reporter = this;
  if (old.faultQueue != nullptr) old.faultQueue->refuse(attach);
  if (moves) unreserveAll(from);
  const auto count = static_cast<unsigned>(attach.devices.size());
  hwpt.users += count;
  old.users -= count - 1;
  left = &old;
  return 0;
}

// --- attaching by id

int Device::join(Change how, Hwpt& hwpt, uint32_t pasid, Hwpt*& left) {
  return how == Change::replace ? replaceWith(hwpt, pasid, left) : attachTo(hwpt, pasid);
}

// The first auto page table of the address space that takes the device, or a new one.
int Device::joinAuto(Change how, Ioas& ioas, uint32_t pasid, uint32_t& ptId, Hwpt*& left) {
  for (PagingHwpt* hwpt : ioas.hwpts) {
    if (!hwpt->autoDomain) continue;
    const int error = join(how, *hwpt, pasid, left);
    if (error == 0) ptId = hwpt->id;
    if (error != -EINVAL) return error;
  }
  const bool attach = how == Change::attach;
  PagingHwpt* hwpt = nullptr;
  if (const int error = PagingHwpt::make(context, ioas, *this, 0, {}, attach ? &pasid : nullptr, hwpt);
      error != 0) {
    return error;
  }
  if (!attach) {
    if (const int error = replaceWith(*hwpt, pasid, left); error != 0) {
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
void Device::put(Hwpt& hwpt) {
  --hwpt.users;
  if (hwpt.kind == ObjectKind::pagingHwpt && static_cast<PagingHwpt&>(hwpt).autoDomain) {
    (void)context.remove(hwpt.id);  // -EBUSY: others are attached to it
  }
}

int Device::change(Change how, uint32_t& ptId, uint32_t pasid) {
  Object* const target = context.objects.find(ptId);
  if (target == nullptr) return -ENOENT;
  Hwpt* left = nullptr;
  int error = -EINVAL;
  if (target->kind == ObjectKind::pagingHwpt || target->kind == ObjectKind::nestedHwpt) {
    error = join(how, static_cast<Hwpt&>(*target), pasid, left);
  } else if (target->kind == ObjectKind::ioas) {
    error = joinAuto(how, static_cast<Ioas&>(*target), pasid, ptId, left);
  }
  if (error != 0) return error;
  if (left != nullptr) put(*left);
  if (how == Change::attach) ++users;
  return 0;
}

void Device::detach(uint32_t pasid) {
  if (!attached(pasid)) return;
  put(detachFrom(pasid));
  --users;
}

// --- binding

int Device::bind(Context& context, iommu::Endpoint& endpoint, Device*& out) {
  std::shared_ptr<DeviceGroup> group = context.group(endpoint.group);
  // A program must not control a device that could raise any interrupt by a write.
  for (const iommu::Endpoint* member : endpoint.group.members) {
    if (!member->unit.isolatesInterrupts && !member->host.parameters().unsafeInterrupts) return -EPERM;
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
  if (device.vdevice != nullptr) (void)device.context.objects.entomb(device.vdevice->id);
  std::vector<uint32_t> pasids;
  for (const auto& [pasid, attach] : device.group_->attached) pasids.push_back(pasid);
  // The attachment without a PASID ends last.
  for (const uint32_t pasid : pasids) {
    if (pasid != kNoPasid) device.detach(pasid);
  }
  device.detach(kNoPasid);
  --device.users;
  (void)device.context.remove(device.id);
}

// --- the handles that VFIO gets

namespace {

class Binding final : public BoundDevice {
 public:
  Binding(std::shared_ptr<Context> context, Device& device) : context_(std::move(context)), device_(device) {}
  ~Binding() override { Device::unbind(device_); }
  Binding(const Binding&) = delete;
  Binding& operator=(const Binding&) = delete;

  [[nodiscard]] uint32_t id() const override { return device_.id; }
  [[nodiscard]] int attach(uint32_t& ptId, uint32_t pasid) override {
    return device_.change(Device::Change::attach, ptId, pasid);
  }
  [[nodiscard]] int replace(uint32_t& ptId, uint32_t pasid) override {
    return device_.change(Device::Change::replace, ptId, pasid);
  }
  void detach(uint32_t pasid) override { device_.detach(pasid); }

 private:
  const std::shared_ptr<Context> context_;
  Device& device_;
};

// A mediated device: its driver reaches the program's memory through an access, and never a page table.
class Mediation final : public BoundDevice {
 public:
  // Takes over a claim on the group, if that has an owner.
  Mediation(std::shared_ptr<Context> context, iommu::Endpoint& endpoint, Access::Handle access)
      : context_(std::move(context)),
        endpoint_(endpoint),
        access_(std::move(access)),
        table_(std::make_shared<Table>(*access_)) {}
  ~Mediation() override {
    detach(0);
    endpoint_.group.release(context_.get());
  }
  Mediation(const Mediation&) = delete;
  Mediation& operator=(const Mediation&) = delete;

  [[nodiscard]] uint32_t id() const override { return access_->id; }
  // A mediated device attaches nothing with a PASID.
  [[nodiscard]] int attach(uint32_t& ptId, uint32_t /*pasid*/) override {
    const int error = access_->attach(ptId);
    if (error == 0) endpoint_.attach(std::nullopt, {.translation = table_});
    return error;
  }
  [[nodiscard]] int replace(uint32_t& ptId, uint32_t /*pasid*/) override { return access_->replace(ptId); }
  void detach(uint32_t /*pasid*/) override {
    endpoint_.attach(std::nullopt, {});
    access_->detach();
  }

 private:
  class Table final : public iommu::Translation {
   public:
    explicit Table(Access& access) : access_(access) {}
    [[nodiscard]] Reach reach(uint64_t iova, uint64_t limit, uint32_t access) override {
      return access_.ioas()->table.reachForAccess(iova, limit, access);
    }
    [[nodiscard]] int suits(const iommu::Unit& /*unit*/) const override { return 0; }

   private:
    Access& access_;
  };

  const std::shared_ptr<Context> context_;
  iommu::Endpoint& endpoint_;
  const Access::Handle access_;
  const std::shared_ptr<Table> table_;
};

}  // namespace

bool isIommufd(const File& file) { return dynamic_cast<const Context*>(&file) != nullptr; }

int bind(const std::shared_ptr<File>& file, iommu::Endpoint& endpoint, std::unique_ptr<BoundDevice>& out) {
  std::shared_ptr<Context> context = std::dynamic_pointer_cast<Context>(file);
  if (context == nullptr) return -EBADFD;
  if (endpoint.group.by == iommu::Confinement::driver) {
    if (endpoint.group.exclusive) {
      if (const int error = endpoint.group.claim(context.get()); error != 0) return error;
    }
    // Its driver pins nothing for longer than a transfer takes, so there is nothing to give back.
    auto access = Access::make(context, true, [](uint64_t, uint64_t) {});
    if (access == nullptr) {
      endpoint.group.release(context.get());
      return -EBUSY;
    }
    out = std::make_unique<Mediation>(std::move(context), endpoint, std::move(access));
    return 0;
  }
  Device* device = nullptr;
  if (const int error = Device::bind(*context, endpoint, device); error != 0) return error;
  out = std::make_unique<Binding>(std::move(context), *device);
  return 0;
}

}  // namespace vfio::soft::iommufd
