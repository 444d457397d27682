#include "buses.h"

#include <algorithm>
#include <cstring>
#include <iterator>
#include <optional>

#include "../core/services.h"
#include "../pci/registers.h"

namespace vfio::soft::machine {

using namespace pci;
using topology::checkPlace;

Bus& Buses::bus(uint8_t number, Function* bridge) {
  return buses_.try_emplace(number, Bus{number, bridge, {}}).first->second;
}

Function& Buses::add(DeviceSpec& spec, Function* bridge, Function* physical) {
  const bool isBridge = spec.kind != PortKind::endpoint;
  const bool isPort = isBridge && spec.kind != PortKind::conventionalBridge;
  auto& itsBus = bus(spec.address.bus, bridge);
  const bool first = itsBus.functions.empty();
  const auto command = static_cast<uint16_t>(
      physical ? 0 : commandIo | commandMemory | commandSerr | (isPort ? commandMaster : 0));
  auto& unit = spec.translated ? units_.at(spec.unit) : units_.none();
  auto& itsGroup = groups_.get(spec.groupId);
  auto* const station = dynamic_cast<devices::Station*>(spec.model.get());
  try {
    functions_.push_back(std::make_unique<Function>(host_,
                                                    Function::Place{&itsBus,
                                                                    spec.address.devfn,
                                                                    spec.requesterId,
                                                                    spec.interrupt,
                                                                    spec.placed,
                                                                    command,
                                                                    spec.isolation(),
                                                                    spec.sriov ? &*spec.sriov : nullptr,
                                                                    physical,
                                                                    {},
                                                                    spec.pasidBits,
                                                                    spec.pageRequests},
                                                    std::move(spec.model), unit, itsGroup));
  } catch (...) {
    groups_.dropIfEmpty(itsGroup);
    throw;
  }
  auto& added = *functions_.back();
  places_.emplace(&added, std::prev(functions_.end()));
  added.life = ++lives_;
  if (station) station->connect(network_, added.bdf);
  added.translated = spec.translated;
  if (added.translated) {
    added.isolation.group = spec.groupId;
    fabric_.add(added.isolation);
  }
  added.use = spec.use;
  added.endpoint->pasidBits = spec.pasidBits;
  added.endpoint->pageRequests = spec.pageRequests;
  const std::string root = "/sys/devices/pci" + spec.address.text().substr(0, std::strlen("0000:00"));
  added.path = (bridge ? bridge->path : root) + "/" + added.bdf;
  if (added.hasFunctionReset()) added.resetMethods.emplace_back("flr");
  if (spec.kind == PortKind::conventionalBridge) added.resetMethods.emplace_back("pm");
  // The kernel lists the bus reset for a function that was alone on its bus when it was found, even if others
  // are there now.
  if (bridge && first) added.resetMethods.emplace_back("bus");
  if (isBridge) {
    added.secondary = &bus(spec.secondary, &added);
    added.config.set(regPrimaryBus, 1, spec.address.bus);
    added.config.set(regSecondaryBus, 1, spec.secondary);
    added.config.set(regSubordinateBus, 1, spec.subordinate);
  }
  return added;
}

void Buses::show(Function& function) {
  files_.addFunction(function);
  if (function.sriov)
    files_.addSriov(function, [](Function& physical, unsigned count) {
      return physical.driver->setVirtual(physical, count);
    });
  core_.addFunction(function);
}

void Buses::showAll() {
  for (const auto& function : functions_) show(*function);
}

void Buses::remove(Function& function) {
  core_.removeFunction(function);
  if (function.physical) {
    auto& siblings = function.physical->sriov->functions;
    const auto place = std::find(siblings.begin(), siblings.end(), &function);
    files_.removeVirtual(function, static_cast<unsigned>(std::distance(siblings.begin(), place)));
    *place = nullptr;
  }
  files_.removeFunction(function);
  if (function.translated) fabric_.remove(function.isolation);
  iommu::Group& group = function.endpoint->group;
  const auto place = places_.find(&function);
  functions_.erase(place->second);
  places_.erase(place);
  groups_.dropIfEmpty(group);
}

const Bus& Buses::busFor(DeviceSpec& spec) {
  const auto refuseAddress = [&spec](const char* expected) {
    spec.refuse("bdf", expected, '"' + spec.address.text() + '"');
  };
  Bus* found = nullptr;
  if (spec.behind) {
    const Function* bridge = core_.find(spec.behind->text());
    if (bridge) found = bridge->secondary;
    if (!found)
      spec.refuse("behind", "the address of a bridge or port that is there", '"' + spec.behind->text() + '"');
    spec.address = {found->number, static_cast<uint8_t>(spec.slot << 3 | spec.function)};
  }
  if (spec.bdf) spec.address = *spec.bdf;
  const auto itsBus = buses_.find(spec.address.bus);
  if (!found && itsBus != buses_.end()) found = &itsBus->second;
  if (!found || found->number != spec.address.bus) refuseAddress("an address on a bus that is there");
  if ((spec.address.devfn & 7) != 0) refuseAddress("function 0, with which a device is found");
  for (const auto* other : found->functions) {
    if (other->devfn == spec.address.devfn) refuseAddress("an address that no other device has");
  }
  checkPlace(spec, found->bridge ? std::optional(found->bridge->isolation.kind) : std::nullopt);
  return *found;
}

void Buses::placeInGroup(DeviceSpec& spec, const Bus& itsBus) {
  spec.requesterId = static_cast<uint16_t>(spec.address.bus << 8 | spec.address.devfn);
  for (const Function* bridge = itsBus.bridge; bridge; bridge = bridge->bus.bridge) {
    if (bridge->isolation.kind == PortKind::conventionalBridge)
      spec.requesterId = static_cast<uint16_t>(bridge->secondary->number << 8);
  }
  if (!system_.translates || (itsBus.bridge && !itsBus.bridge->translated && !spec.iommu))
    spec.translated = false;
  if (!spec.translated) {
    if (spec.group) spec.refuse("group", "nothing (no IOMMU translates it)", std::to_string(*spec.group));
    return;
  }
  Isolation newcomer = spec.isolation();
  const iommu::Unit* unit = &units_.at(0);
  if (itsBus.bridge) {
    newcomer.bridge = &itsBus.bridge->isolation;
    if (itsBus.bridge->translated) unit = &itsBus.bridge->endpoint->unit;
  }
  spec.unit = spec.iommu.value_or(units_.indexOf(*unit));
  const auto known = fabric_.groupFor(newcomer);
  const int wanted = spec.group.value_or(known.value_or(static_cast<int>(groups_.lowest())));
  if (spec.group && (known ? *known != wanted : groups_.find(wanted) != nullptr))
    spec.refuse("group", "a number for one group", std::to_string(wanted) + ", which differs or is taken");
  spec.groupId = wanted;
  if (!known) return;
  const iommu::Unit& theirs = groups_.find(*known)->members.front()->unit;
  if (&theirs != &units_.at(spec.unit))
    spec.refuse("iommu", "that of its group, " + theirs.name, std::to_string(spec.unit));
}

std::vector<topology::Taken> Buses::taken() const {
  std::vector<topology::Taken> taken;
  for (const auto& function : functions_) {
    for (const auto& bar : function->resources) {
      if (bar.address != 0) taken.push_back({bar.kind, bar.address, bar.size});
    }
  }
  return taken;
}

}  // namespace vfio::soft::machine
