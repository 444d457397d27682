#include "sriov.h"

#include <algorithm>
#include <cerrno>

#include "../devices/bridge.h"
#include "../pci/registers.h"

namespace vfio::soft::machine {

using namespace pci;

int VirtualFunctions::set(Function& physical, unsigned count) {
  if (count == 0) return removeAll(physical);
  const auto taken = [&physical](unsigned index) {
    const auto devfn = physical.sriov->spec.devfn(physical.devfn, index);
    return std::ranges::any_of(physical.bus.functions,
                               [devfn](const Function* other) { return other->devfn == devfn; });
  };
  for (unsigned i = 0; i < count; ++i) {
    if (taken(i)) return -EBUSY;  // something was plugged in there
  }
  const unsigned at = physical.config.findExtended(extendedSriov);
  physical.config.write(at + sriovNumVfs, 2, count);
  physical.config.write(at + sriovControl, 2, sriovEnable | sriovMemory);
  physical.sriov->functions.assign(count, nullptr);
  physical.sriov->count = count;
  try {
    for (unsigned i = 0; i < count; ++i) add(physical, i);
  } catch (...) {
    (void)removeAll(physical);  // nobody has one open yet
    throw;
  }
  return 0;
}

void VirtualFunctions::add(Function& physical, unsigned index) {
  const auto& sriov = physical.sriov->spec;
  DeviceSpec spec;
  spec.model = devices::makePassive(sriov.description);
  spec.address = {physical.bus.number, static_cast<uint8_t>(sriov.devfn(physical.devfn, index))};
  spec.translated = physical.translated;
  for (unsigned i = 0; i < sriov.placed.size(); ++i) {
    if (sriov.placed[i] != 0) spec.placed[i] = sriov.placed[i] + index * sriov.description.bars[i].size;
  }
  spec.requesterId = static_cast<uint16_t>(spec.address.bus << 8 | spec.address.devfn);
  spec.groupId = iommu::Group::kNone;
  if (spec.translated) {
    spec.iommu = units_.indexOf(physical.endpoint->unit);
    buses_.placeInGroup(spec, physical.bus);
  }
  Function& added = buses_.add(spec, physical.bus.bridge, &physical);
  physical.sriov->functions[index] = &added;
  buses_.show(added);
  files_.addVirtual(added, index);
  // What vfio-pci makes, it takes.
  if (physical.vfio) added.driverOverride = physical.driver->name;
  (void)core_.probe(added.bdf);
}

int VirtualFunctions::removeAll(Function& physical) {
  if (!physical.sriov || physical.sriov->count == 0) return 0;
  bool open = false;
  for (const auto* each : physical.sriov->functions) {
    if (!each) continue;
    open |= each->busy();
    if (!each->vfio || !each->vfio->inUse()) continue;
    each->vfio->requestRelease();
    open = true;
  }
  if (open) return -EBUSY;
  const auto functions = physical.sriov->functions;
  for (auto* each : functions) {
    if (!each) continue;
    if (each->driver) (void)core_.unbind(*each->driver, each->bdf);
    vfio_.forget(*each);
    buses_.remove(*each);
  }
  const unsigned at = physical.config.findExtended(extendedSriov);
  physical.config.write(at + sriovControl, 2, 0);
  physical.config.write(at + sriovNumVfs, 2, 0);
  physical.sriov->functions.clear();
  physical.sriov->count = 0;
  return 0;
}

}  // namespace vfio::soft::machine
