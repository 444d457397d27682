#include "hot_plug.h"

#include <cerrno>
#include <utility>

#include "../topology/catalogue.h"
#include "../topology/placement.h"
#include "../topology/topology.h"

namespace vfio::soft::machine {

using pci::PortKind;

void HotPlug::addDevice(const std::string& device, const devices::Maker& make) {
  topology::Catalogue models = models_;
  if (make) models.add("simulated", topology::simulatedModel(make));
  topology::DeviceSpec spec = topology::readDevice(device, units_.size(), models);
  if (spec.kind != PortKind::endpoint)
    spec.refuse("model", "a device that is no bridge (which needs buses of its own)", "one");
  const Bus& itsBus = buses_.busFor(spec);
  buses_.placeInGroup(spec, itsBus);
  topology::place(spec, buses_.taken());
  mdevs_.check(spec, [this](const std::string& name) { return drivers_.named(name).dma; });
  Function& added = buses_.add(spec, itsBus.bridge);
  buses_.show(added);
  (void)drivers_.start(added, spec);
  mdevs_.add(added, spec);
}

uint64_t HotPlug::life(const std::string& bdf) const {
  const Function* function = core_.find(bdf);
  return function ? function->life : 0;
}

int HotPlug::removeDevice(const std::string& bdf) {
  Function* function = core_.find(bdf);
  if (!function) return -ENODEV;
  if (function->secondary) {
    // Removes the last one first: virtual functions come after their physical function, and would be removed
    // with it.
    const auto& below = function->secondary->functions;
    while (!below.empty()) {
      if (const int failed = removeDevice(below.back()->bdf)) return failed;
    }
  }
  if (function->sriov) {
    const auto virtuals = function->sriov->functions;
    for (const auto* each : virtuals) {
      if (!each) continue;
      if (const int failed = removeDevice(each->bdf)) return failed;
    }
  }
  if (const int failed = mdevs_.removeAll(*function)) return failed;
  if (function->vfio && function->vfio->inUse()) return vfio_.askToLeave(*function);
  if (function->busy()) return -EBUSY;
  if (function->driver) {
    if (const int failed = core_.unbind(*function->driver, bdf)) return failed;
  }
  vfio_.forget(*function);
  buses_.remove(*function);
  return 0;
}

int HotPlug::bindDriver(const std::string& bdf, const std::string& name, bool exclusive) {
  Function* function = core_.find(bdf);
  if (!function) return -ENODEV;
  Driver& wanted = drivers_.named(name);
  Driver* had = function->driver;
  iommu::Group& group = function->endpoint->group;
  // A group has one page table, so `exclusive` is possible only if this device is alone in its group.
  if (exclusive && (!wanted.dma || !function->translated || group.members.size() != 1)) return -EINVAL;
  if (had == &wanted) {
    group.kernelTable |= exclusive;
    return 0;
  }
  if (wanted.dma && group.owner != nullptr) return -EBUSY;
  if (had) {
    if (const int failed = core_.unbind(*had, bdf)) return failed;
  }
  const auto before = std::exchange(function->driverOverride, name);
  const int failed = core_.bind(wanted, bdf);
  if (failed == 0) {
    group.kernelTable |= exclusive;
    return 0;
  }
  function->driverOverride = had ? had->name : before;
  if (had) (void)core_.bind(*had, bdf);
  function->driverOverride = before;
  return failed;
}

}  // namespace vfio::soft::machine
