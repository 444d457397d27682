#include "mdev.h"

#include <algorithm>
#include <cerrno>

#include "../core/services.h"
#include "../devices/edu.h"

namespace vfio::soft::machine {

void MediatedDevices::check(const topology::DeviceSpec& spec,
                            const std::function<bool(const std::string&)>& doesDma) const {
  if (spec.mdevs.empty()) return;
  const auto name = spec.driver.value_or(std::nullopt);
  if (!name || !doesDma(*name)) {
    spec.refuse("driver", "a driver of the host, which makes the mdevs",
                name ? '"' + *name + '"' : "nothing");
  }
  for (auto uuid = spec.mdevs.begin(); uuid != spec.mdevs.end(); ++uuid) {
    if (std::find(spec.mdevs.begin(), uuid, *uuid) != uuid || mdevs_.contains(*uuid))
      spec.refuse("mdevs", "UUIDs that no other device has", '"' + *uuid + '"');
  }
}

// The parent's driver isolates them, so each is in a group of its own, whichever group the parent is in
// (requirement A6). If that driver does not isolate them from each other, they are all in one group
// (requirement E4).
void MediatedDevices::add(Function& parent, const topology::DeviceSpec& spec) {
  if (spec.mdevs.empty() || !parent.driver) return;
  parent.isParent = true;
  files_.addMdevParent(parent);
  iommu::Group* shared = nullptr;
  for (const std::string& uuid : spec.mdevs) {
    auto* group = shared;
    if (group == nullptr) group = &groups_.addOfDriver(!spec.mdevsIsolated);
    if (!spec.mdevsIsolated) shared = group;
    Mdev& mdev = mdevs_.emplace(uuid, Mdev{.bus = {}, .parent = &parent}).first->second;
    // Its driver emulates its registers and its interrupt pin, so that this bus address and line have no
    // effect.
    constexpr uint64_t anywhere = 0xfe000000;
    constexpr unsigned line = 11;
    mdev.function = std::make_unique<Function>(host_,
                                               Function::Place{.bus = &mdev.bus,
                                                               .devfn = 0,
                                                               .requesterId = 0,
                                                               .interrupt = line,
                                                               .addresses = {anywhere},
                                                               .command = 0,
                                                               .name = uuid},
                                               devices::makeEdu(), units_.none(), *group);
    Function& function = *mdev.function;
    mdevsOf_[&parent].push_back(&function);
    function.translated = false;
    function.path = parent.path + "/" + uuid;
    files_.addMdev(function, parent, [this, uuid] { return remove(uuid); });
    vfio_.make(function);
  }
}

// 0, or -EBUSY while a program has it open, which is told, as with other devices.
int MediatedDevices::remove(const std::string& uuid) {
  const auto found = mdevs_.find(uuid);
  const Function& parent = *found->second.parent;
  Function& function = *found->second.function;
  if (const int failed = vfio_.remove(function)) return failed;
  vfio_.forget(function);
  iommu::Group& group = function.endpoint->group;
  files_.removeMdev(function, parent);
  mdevsOf_[&parent].remove(&function);
  if (mdevsOf_[&parent].empty()) mdevsOf_.erase(&parent);
  mdevs_.erase(found);
  groups_.dropIfEmpty(group);
  return 0;
}

int MediatedDevices::removeAll(const Function& parent) {
  for (;;) {
    const auto left = mdevsOf_.find(&parent);
    if (left == mdevsOf_.end()) return 0;
    Function& next = *left->second.front();
    const std::string uuid = next.bdf;
    if (next.vfio->inUse()) return vfio_.askToLeave(next);
    if (const int failed = remove(uuid)) return failed;
  }
}

int MediatedDevices::unregister(Function& parent) {
  if (!parent.isParent) return 0;
  bool open = false;
  if (const auto its = mdevsOf_.find(&parent); its != mdevsOf_.end()) {
    for (const Function* each : its->second) {
      if (!each->vfio->inUse()) continue;
      each->vfio->requestRelease();
      open = true;
    }
  }
  if (open) return -EBUSY;
  if (const int failed = removeAll(parent)) return failed;
  files_.removeMdevParent(parent);
  parent.isParent = false;
  return 0;
}

}  // namespace vfio::soft::machine
