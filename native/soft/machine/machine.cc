// A machine built from its topology: the default one is a topology too.
#include "machine.h"

#include <algorithm>
#include <array>
#include <cerrno>
#include <chrono>
#include <cstring>
#include <iterator>
#include <list>
#include <map>
#include <unordered_map>

#include "../core/services.h"
#include "../devices/bridge.h"
#include "../devices/edu.h"
#include "../files/tree.h"
#include "../iommu/unit.h"
#include "../iommufd/iommufd.h"
#include "../pci/function.h"
#include "../pci/registers.h"
#include "../selftest/hooks.h"
#include "../topology/default_topology.h"
#include "../topology/placement.h"
#include "../vfio/container.h"
#include "../vfio/device.h"
#include "../vfio/group.h"
#include "driver.h"
#include "numbers.h"
#include "sysfs.h"

namespace vfio::soft::machine {

using namespace pci;
using namespace topology;
using files::Tree;

namespace {

iommu::Unit makeUnit(const Services& host, const SystemSpec& system, const UnitSpec& spec, size_t index) {
  iommu::UnitModel model = {.kind = *iommu::unitKind(spec.kind),
                            .index = static_cast<unsigned>(index),
                            .apertures = spec.apertures,
                            .reserved = spec.reserved,
                            .pageSizes = spec.pageSizes,
                            .pasidBits = spec.pasidBits,
                            .dirtyTracking = spec.dirtyTracking,
                            .commandQueues = spec.commandQueues.value_or(false),
                            .enforcesCoherency = spec.enforcesCoherency,
                            .isolatesInterrupts = spec.isolatesInterrupts};
  if (spec.pageRequests) model.pageRequests = iommu::pageRequestKind(*spec.pageRequests);
  if (spec.nesting) {
    auto& formats = model.nesting.emplace();
    for (const std::string& name : *spec.nesting) formats.push_back(*iommu::nestingFormat(name));
  }
  if (!system.remapsInterrupts) model.isolatesInterrupts = false;
  iommu::Unit unit = iommu::makeUnit(model);
  // Until 6.19 VT-d's driver marked every entry as present with the bit that says readable.
  unit.writableIsReadable = model.kind == iommu::UnitKind::vtd && !host.since(6, 19);
  return unit;
}

class TopologyMachine {
 public:
  TopologyMachine(Services& host, Tree& tree);

  void addDevice(const std::string& device);
  [[nodiscard]] int removeDevice(const std::string& bdf);
  [[nodiscard]] uint64_t life(const std::string& bdf) const;
  [[nodiscard]] int bindDriver(const std::string& bdf, const std::string& driver, bool exclusive);
  [[nodiscard]] const iommu::Group* iommuGroup(int id) const;

 private:
  Bus& bus(uint8_t number, Function* bridge);
  Function& add(DeviceSpec& spec, Function* bridge, Function* physical = nullptr);
  void show(Function& function);
  [[nodiscard]] int setVirtual(Function& physical, unsigned count);
  void addVirtual(Function& physical, unsigned index);
  [[nodiscard]] int removeVirtual(Function& physical);
  void remove(Function& function);
  iommu::Group& group(int id);
  [[nodiscard]] int lendGroup(Function& function);
  void takeGroupBack(const Function& function);
  void addDrivers();
  [[nodiscard]] Driver kernelDriver(std::string name, std::vector<Id> ids);
  [[nodiscard]] Driver vfioDriver(std::string name);
  [[nodiscard]] Driver& driver(const std::string& name);
  // Does the driver that it is to start on take it?
  [[nodiscard]] bool start(Function& function, const DeviceSpec& spec);
  [[nodiscard]] Bus& busFor(DeviceSpec& spec);
  void placeInGroup(DeviceSpec& spec, const Bus& itsBus);
  [[nodiscard]] std::shared_ptr<cdev::Group> vfioGroup(const Function& function);
  // Throws, before anything is made, where they can't be made.
  void checkMdevs(const DeviceSpec& spec);
  void addMdevs(Function& parent, const DeviceSpec& spec);
  [[nodiscard]] int removeMdev(const std::string& uuid);
  [[nodiscard]] int removeMdevs(const Function& parent);
  [[nodiscard]] int unregisterParent(Function& parent);
  [[nodiscard]] int askToLeave(Function& function);
  void nameGroup(iommu::Group& group);
  void unnameGroup(iommu::Group& group);
  void makeVfio(Function& function);
  [[nodiscard]] int probeVfio(Function& function);
  [[nodiscard]] int removeVfio(Function& function);

  Services& host_;
  Tree& tree_;
  DriverCore core_;
  Sysfs sysfs_;
  SystemSpec system_;
  std::list<iommu::Unit> units_;
  iommu::Unit noUnit_ = iommu::makeNoUnit();
  std::list<iommu::Group> groups_;  // those that are gone have no id: an open file may still know them
  std::map<int, iommu::Group*> groupsById_;
  Numbers groupNumbers_;
  Fabric fabric_;
  std::map<uint8_t, Bus> buses_;  // by number
  using Functions = std::list<std::unique_ptr<Function>>;
  Functions functions_;
  std::unordered_map<const Function*, Functions::iterator> places_;  // in that list
  // A mediated device, on a bus that nothing else is on.
  struct Mdev {
    Bus bus;
    Function* parent = nullptr;
    std::unique_ptr<Function> function{};
  };
  std::map<std::string, Mdev> mdevs_;                                  // by UUID
  std::unordered_map<const Function*, std::list<Function*>> mdevsOf_;  // by their parent, the oldest first
  Numbers vfioIndexes_;
  uint64_t lives_ = 0;
  // Unplugged while in use, with when the program was last told.
  std::map<const Function*, std::chrono::steady_clock::time_point> leaving_;
  std::map<int, std::shared_ptr<cdev::Group>> vfioGroups_;  // by the id of the IOMMU group
};

TopologyMachine::TopologyMachine(Services& host, Tree& tree)
    : host_(host),
      tree_(tree),
      core_([this](Function& f, Driver& d, bool bound) { sysfs_.driverChanged(f, d, bound); }),
      sysfs_(tree_, core_) {
  const auto& text = host.options().topology;
  Topology topology = readTopology(text ? std::string_view(*text) : defaultTopology);
  const auto order = place(topology);
  system_ = topology.system;
  tree_.permissions = system_.user.has_value();
  tree_.user = system_.user.value_or(0);
  sysfs_.addBus();
  sysfs_.addSystem(system_, host_.parameters());
  for (const auto& spec : topology.iommus) {
    units_.push_back(makeUnit(host, system_, spec, units_.size()));
    if (system_.translates) sysfs_.addUnit(units_.back());
  }
  constexpr unsigned misc = 10, iommuMinor = 126, vfioMinor = 196;
  constexpr uint32_t iommuMode = 0660, vfioMode = 0666;
  if (system_.iommufd) {
    tree_.device(
        "/dev/iommu",
        [this](int, std::shared_ptr<File>& out) {
          out = iommufd::openIommufd(host_, host_.options().selftest ? &selftest::hooks() : nullptr);
          return 0;
        },
        misc, iommuMinor, iommuMode);
  }
  tree_.device(
      "/dev/vfio/vfio",
      [this](int, std::shared_ptr<File>& out) {
        out = std::make_shared<cdev::Container>(host_);
        return 0;
      },
      misc, vfioMinor, vfioMode);
  addDrivers();
  std::vector<Function*> functions(topology.devices.size());
  for (const size_t index : order) {
    auto& spec = topology.devices[index];
    functions[index] = &add(spec, spec.behind ? functions[spec.parent] : nullptr);
  }
  for (const auto& function : functions_) show(*function);
  for (const size_t index : order) {
    const auto& spec = topology.devices[index];
    if (!start(*functions[index], spec))
      spec.refuse("driver", "a driver that takes this device", '"' + spec.driver->value_or("null") + '"');
  }
  for (const size_t index : order) {
    checkMdevs(topology.devices[index]);
    addMdevs(*functions[index], topology.devices[index]);
  }
}

Bus& TopologyMachine::bus(uint8_t number, Function* bridge) {
  return buses_.try_emplace(number, Bus{number, bridge, {}}).first->second;
}

iommu::Group& TopologyMachine::group(int id) {
  if (id == iommu::Group::kNone) {
    return groups_.emplace_back(
        iommu::Group{.id = id, .members = {}, .by = iommu::Confinement::none, .exclusive = false});
  }
  const auto known = groupsById_.find(id);
  if (known != groupsById_.end()) return *known->second;
  auto& added = groups_.emplace_back(iommu::Group{.id = id, .members = {}});
  groupNumbers_.take(static_cast<unsigned>(id));
  groupsById_.emplace(id, &added);
  sysfs_.addGroup(added);
  return added;
}

Function& TopologyMachine::add(DeviceSpec& spec, Function* bridge, Function* physical) {
  const bool isBridge = spec.kind != PortKind::endpoint;
  const bool isPort = isBridge && spec.kind != PortKind::conventionalBridge;
  auto& itsBus = bus(spec.address.bus, bridge);
  const bool first = itsBus.functions.empty();
  const auto command = static_cast<uint16_t>(
      physical ? 0 : commandIo | commandMemory | commandSerr | (isPort ? commandMaster : 0));
  auto& unit = spec.translated ? *std::next(units_.begin(), static_cast<std::ptrdiff_t>(spec.unit)) : noUnit_;
  auto& itsGroup = group(spec.groupId);
  try {
    functions_.push_back(std::make_unique<Function>(
        host_,
        Function::Place{&itsBus, spec.address.devfn, spec.requesterId, spec.interrupt, spec.placed, command,
                        spec.isolation(), spec.sriov ? &*spec.sriov : nullptr, physical},
        std::move(spec.model), unit, itsGroup));
  } catch (...) {
    if (itsGroup.members.empty() && itsGroup.id != iommu::Group::kNone) unnameGroup(itsGroup);
    throw;
  }
  auto& added = *functions_.back();
  places_.emplace(&added, std::prev(functions_.end()));
  added.life = ++lives_;
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
  // The kernel lists the bus reset of what was alone on its bus when it was found, even if it is no longer.
  if (bridge && first) added.resetMethods.emplace_back("bus");
  if (isBridge) {
    added.secondary = &bus(spec.secondary, &added);
    added.config.set(regPrimaryBus, 1, spec.address.bus);
    added.config.set(regSecondaryBus, 1, spec.secondary);
    added.config.set(regSubordinateBus, 1, spec.subordinate);
  }
  return added;
}

namespace {

// The kernel's drivers that are made from vfio-pci for devices of one kind, by their names in sysfs. Binding,
// nodes and ownership are as with vfio-pci; what they add (migration, regions) is not modelled.
constexpr std::array<std::string_view, 8> variantDrivers = {
    "hisi_acc_vfio_pci", "ism_vfio_pci", "mlx5_vfio_pci",   "nvgrace_gpu_vfio_pci",
    "pds_vfio_pci",      "qat_vfio_pci", "virtio_vfio_pci", "xe-vfio-pci"};

}  // namespace

// A driver that keeps its devices for the kernel. Without it they are parked: no DMA comes from them.
Driver TopologyMachine::kernelDriver(std::string name, std::vector<Id> ids) {
  const auto master = [](Function& function, bool on) {
    const unsigned others = function.command() & ~unsigned{commandMaster};
    function.configWrite(regCommand, 2, others | (on ? commandMaster | commandMemory : 0U));
    return 0;
  };
  return {.name = std::move(name),
          .ids = std::move(ids),
          .dma = true,
          .probe =
              [master](Function& function) {
                ++function.enableCount;
                return master(function, true);
              },
          .remove =
              [this, master](Function& function) {
                if (const int failed = unregisterParent(function)) return failed;
                --function.enableCount;
                return master(function, false);
              }};
}

// A driver of VFIO: what it has is for programs.
Driver TopologyMachine::vfioDriver(std::string name) {
  return {.name = std::move(name),
          .ids = {},
          .probe = [this](Function& function) { return probeVfio(function); },
          .remove = [this](Function& function) { return removeVfio(function); }};
}

// The one of that name; a new one is a variant of vfio-pci, or does DMA for the kernel.
Driver& TopologyMachine::driver(const std::string& name) {
  if (Driver* const known = core_.driver(name)) return *known;
  const bool isVariant = std::ranges::find(variantDrivers, name) != variantDrivers.end();
  Driver& added = core_.add(isVariant ? vfioDriver(name) : kernelDriver(name, {}));
  sysfs_.addDriver(added);
  return added;
}

bool TopologyMachine::start(Function& function, const DeviceSpec& spec) {
  if (!spec.driver) {
    (void)core_.probe(function.bdf);  // or it stays without a driver
    return true;
  }
  if (!*spec.driver) return true;
  Driver& wanted = driver(**spec.driver);
  const auto fits = [&function](const Id& id) { return id.matches(function); };
  if (std::none_of(wanted.ids.begin(), wanted.ids.end(), fits)) function.driverOverride = wanted.name;
  return core_.probe(function.bdf) == 0 && function.driver == &wanted;
}

// ---------------------------------------------------------------- hot-plug

const iommu::Group* TopologyMachine::iommuGroup(int id) const {
  const auto found = groupsById_.find(id);
  return found == groupsById_.end() ? nullptr : found->second;
}

// The bus that a new device is on; its address is known from here on.
Bus& TopologyMachine::busFor(DeviceSpec& spec) {
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
    if (other->devfn == spec.address.devfn) refuseAddress("an address that nobody else has");
  }
  checkPlace(spec, found->bridge ? std::optional(found->bridge->isolation.kind) : std::nullopt);
  return *found;
}

void TopologyMachine::placeInGroup(DeviceSpec& spec, const Bus& itsBus) {
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
  const iommu::Unit* unit = &units_.front();
  if (itsBus.bridge) {
    newcomer.bridge = &itsBus.bridge->isolation;
    if (itsBus.bridge->translated) unit = &itsBus.bridge->endpoint->unit;
  }
  const auto ours =
      std::find_if(units_.begin(), units_.end(), [unit](const auto& each) { return &each == unit; });
  spec.unit = spec.iommu.value_or(static_cast<size_t>(std::distance(units_.begin(), ours)));
  const auto known = fabric_.groupFor(newcomer);
  const int wanted = spec.group.value_or(known.value_or(static_cast<int>(groupNumbers_.lowest())));
  if (spec.group && (known ? *known != wanted : iommuGroup(wanted) != nullptr))
    spec.refuse("group", "a number for one group", std::to_string(wanted) + ", which differs or is taken");
  spec.groupId = wanted;
  if (!known) return;
  const iommu::Unit& theirs = iommuGroup(*known)->members.front()->unit;
  if (&theirs != &*std::next(units_.begin(), static_cast<std::ptrdiff_t>(spec.unit)))
    spec.refuse("iommu", "that of its group, " + theirs.name, std::to_string(spec.unit));
}

// As the kernel finds one that was plugged in. If its driver doesn't take it, because a user owns the group
// for one, it stays without.
void TopologyMachine::addDevice(const std::string& device) {
  DeviceSpec spec = readDevice(device, units_.size());
  if (spec.kind != PortKind::endpoint)
    spec.refuse("model", "a device that is no bridge (which needs buses of its own)", "one");
  const Bus& itsBus = busFor(spec);
  placeInGroup(spec, itsBus);
  std::vector<Taken> taken;
  for (const auto& function : functions_) {
    for (const auto& bar : function->resources) {
      if (bar.address != 0) taken.push_back({bar.kind, bar.address, bar.size});
    }
  }
  place(spec, taken);
  checkMdevs(spec);
  Function& added = add(spec, itsBus.bridge);
  show(added);
  (void)start(added, spec);
  addMdevs(added, spec);
}

// Unplugged while in use: nobody else can open it, and who has it is told at once, and again every ten
// seconds.
int TopologyMachine::askToLeave(Function& function) {
  constexpr std::chrono::seconds patience(10);
  const auto now = std::chrono::steady_clock::now();
  const auto [told, isNew] = leaving_.try_emplace(&function, now);
  if (isNew) {
    sysfs_.hideVfio(function, cdev::Device::of(function)->index);
    if (function.driver) sysfs_.driverChanged(function, *function.driver, false);
  }
  if (!isNew && now - told->second < patience) return -EBUSY;
  told->second = now;
  function.vfio->requestRelease();
  return -EBUSY;
}

void TopologyMachine::show(Function& function) {
  sysfs_.addFunction(function);
  if (function.sriov)
    sysfs_.addSriov(function, [](Function& physical, unsigned count) {
      return physical.driver->setVirtual(physical, count);
    });
  core_.addFunction(function);
}

uint64_t TopologyMachine::life(const std::string& bdf) const {
  const Function* function = core_.find(bdf);
  return function ? function->life : 0;
}

int TopologyMachine::removeDevice(const std::string& bdf) {
  Function* function = core_.find(bdf);
  if (!function) return -ENODEV;
  if (function->secondary) {
    // The last first: virtual functions before the physical one, which would take them along.
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
  if (const int failed = removeMdevs(*function)) return failed;
  if (function->vfio && function->vfio->inUse()) return askToLeave(*function);
  if (function->driver) {
    if (const int failed = core_.unbind(*function->driver, bdf)) return failed;
  }
  remove(*function);
  return 0;
}

// One that has no driver.
void TopologyMachine::remove(Function& function) {
  leaving_.erase(&function);
  core_.removeFunction(function);
  if (function.physical) {
    auto& siblings = function.physical->sriov->functions;
    const auto place = std::find(siblings.begin(), siblings.end(), &function);
    sysfs_.removeVirtual(function, static_cast<unsigned>(std::distance(siblings.begin(), place)));
    *place = nullptr;
  }
  sysfs_.removeFunction(function);
  if (function.translated) fabric_.remove(function.isolation);
  iommu::Group& group = function.endpoint->group;
  const auto place = places_.find(&function);
  functions_.erase(place->second);
  places_.erase(place);
  if (group.members.empty() && group.id != iommu::Group::kNone) unnameGroup(group);
}

// ---------------------------------------------------------------- virtual functions

int TopologyMachine::setVirtual(Function& physical, unsigned count) {
  if (count == 0) return removeVirtual(physical);
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
    for (unsigned i = 0; i < count; ++i) addVirtual(physical, i);
  } catch (...) {
    (void)removeVirtual(physical);  // nobody has one open yet
    throw;
  }
  return 0;
}

void TopologyMachine::addVirtual(Function& physical, unsigned index) {
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
    const auto itsUnit = std::ranges::find_if(
        units_, [&physical](const auto& unit) { return &unit == &physical.endpoint->unit; });
    spec.iommu = static_cast<size_t>(std::distance(units_.begin(), itsUnit));
    placeInGroup(spec, physical.bus);
  }
  Function& added = add(spec, physical.bus.bridge, &physical);
  physical.sriov->functions[index] = &added;
  show(added);
  sysfs_.addVirtual(added, index);
  // What vfio-pci makes, it takes.
  if (physical.vfio) added.driverOverride = physical.driver->name;
  (void)core_.probe(added.bdf);
}

// All of them, or none while somebody has one open.
int TopologyMachine::removeVirtual(Function& physical) {
  if (!physical.sriov || physical.sriov->count == 0) return 0;
  bool open = false;
  for (const auto* each : physical.sriov->functions) {
    if (!each || !each->vfio || !each->vfio->inUse()) continue;
    each->vfio->requestRelease();
    open = true;
  }
  if (open) return -EBUSY;
  const auto functions = physical.sriov->functions;
  for (auto* each : functions) {
    if (!each) continue;
    if (each->driver) (void)core_.unbind(*each->driver, each->bdf);
    remove(*each);
  }
  const unsigned at = physical.config.findExtended(extendedSriov);
  physical.config.write(at + sriovControl, 2, 0);
  physical.config.write(at + sriovNumVfs, 2, 0);
  physical.sriov->functions.clear();
  physical.sriov->count = 0;
  return 0;
}

int TopologyMachine::bindDriver(const std::string& bdf, const std::string& name, bool exclusive) {
  Function* function = core_.find(bdf);
  if (!function) return -ENODEV;
  Driver& wanted = driver(name);
  Driver* had = function->driver;
  iommu::Group& group = function->endpoint->group;
  // Its own page table would be the others' too.
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

// ---------------------------------------------------------------- mediated devices

void TopologyMachine::checkMdevs(const DeviceSpec& spec) {
  if (spec.mdevs.empty()) return;
  const auto name = spec.driver.value_or(std::nullopt);
  if (!name || !driver(*name).dma) {
    spec.refuse("driver", "a driver of the host, which makes the mdevs",
                name ? '"' + *name + '"' : "nothing");
  }
  for (auto uuid = spec.mdevs.begin(); uuid != spec.mdevs.end(); ++uuid) {
    if (std::find(spec.mdevs.begin(), uuid, *uuid) != uuid || mdevs_.contains(*uuid))
      spec.refuse("mdevs", "UUIDs that nobody else has", '"' + *uuid + '"');
  }
}

// They are isolated by their parent's driver, so each has a group of its own, wherever the parent is (A6); or
// one for all of them, if that driver does not keep them apart (E4).
void TopologyMachine::addMdevs(Function& parent, const DeviceSpec& spec) {
  if (spec.mdevs.empty() || !parent.driver) return;
  parent.isParent = true;
  sysfs_.addMdevParent(parent);
  iommu::Group* shared = nullptr;
  for (const std::string& uuid : spec.mdevs) {
    auto* group = shared;
    if (group == nullptr) {
      group = &groups_.emplace_back(iommu::Group{.id = iommu::Group::kNone,
                                                 .members = {},
                                                 .by = iommu::Confinement::driver,
                                                 .exclusive = !spec.mdevsIsolated});
      nameGroup(*group);
    }
    if (!spec.mdevsIsolated) shared = group;
    Mdev& mdev = mdevs_.emplace(uuid, Mdev{.bus = {}, .parent = &parent}).first->second;
    // Where its registers are, and which line its pin leads to, is its driver's business and no bus's.
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
                                               devices::makeEdu(), noUnit_, *group);
    Function& function = *mdev.function;
    mdevsOf_[&parent].push_back(&function);
    function.translated = false;
    function.path = parent.path + "/" + uuid;
    sysfs_.addMdev(function, parent, [this, uuid] { return removeMdev(uuid); });
    makeVfio(function);
  }
}

// A program that has it open is told, as with other devices: -EBUSY.
int TopologyMachine::removeMdev(const std::string& uuid) {
  const auto found = mdevs_.find(uuid);
  const Function& parent = *found->second.parent;
  Function& function = *found->second.function;
  if (const int failed = removeVfio(function)) return failed;
  leaving_.erase(&function);
  iommu::Group& group = function.endpoint->group;
  sysfs_.removeMdev(function, parent);
  mdevsOf_[&parent].remove(&function);
  if (mdevsOf_[&parent].empty()) mdevsOf_.erase(&parent);
  mdevs_.erase(found);
  if (group.members.empty()) unnameGroup(group);
  return 0;
}

int TopologyMachine::removeMdevs(const Function& parent) {
  for (;;) {
    const auto left = mdevsOf_.find(&parent);
    if (left == mdevsOf_.end()) return 0;
    Function& next = *left->second.front();
    const std::string uuid = next.bdf;
    if (next.vfio->inUse()) return askToLeave(next);
    if (const int failed = removeMdev(uuid)) return failed;
  }
}

// They go with the driver that made them. The kernel makes the writer of `unbind` wait for who has one open;
// here it gets EBUSY, all of them stay, and the program is told once.
int TopologyMachine::unregisterParent(Function& parent) {
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
  if (const int failed = removeMdevs(parent)) return failed;
  sysfs_.removeMdevParent(parent);
  parent.isParent = false;
  return 0;
}

void TopologyMachine::addDrivers() {
  if (system_.vfioPci) {
    Driver& vfio = core_.add(vfioDriver("vfio-pci"));
    vfio.setVirtual = [this](Function& function, unsigned count) {
      return host_.parameters().sriov ? setVirtual(function, count) : -ENOENT;
    };
    sysfs_.addDriver(vfio);
  }
  sysfs_.addDriver(core_.add({.name = "pci-stub", .ids = {}}));
  sysfs_.addDriver(core_.add({.name = "pcieport",
                              .ids = {{.classCode = 0x060400, .classMask = 0xffffff}},
                              .probe =
                                  [](Function& function) {
                                    // Ports only: the bridge to a conventional bus is none, nor is an
                                    // endpoint.
                                    if (function.isolation.kind == PortKind::conventionalBridge ||
                                        function.isolation.kind == PortKind::endpoint)
                                      return -ENODEV;
                                    ++function.enableCount;
                                    return 0;
                                  },
                              .remove =
                                  [](Function& function) {
                                    --function.enableCount;
                                    return 0;
                                  }}));
  Driver& nvme = core_.add(kernelDriver("nvme", {{.classCode = 0x010802, .classMask = 0xffffff}}));
  nvme.setVirtual = [this](Function& function, unsigned count) { return setVirtual(function, count); };
  sysfs_.addDriver(nvme);
}

// A function without IOMMU is in no group, which VFIO doesn't take unless it is told that it doesn't matter.
// Then it makes one, for this function alone and for as long as it holds it.
int TopologyMachine::lendGroup(Function& function) {
  if (!host_.parameters().unsafeNoIommu) return -EINVAL;
  nameGroup(function.endpoint->group);
  sysfs_.enterGroup(function);
  return 0;
}

// With the lowest number that is free.
void TopologyMachine::nameGroup(iommu::Group& group) {
  group.id = static_cast<int>(groupNumbers_.take());
  groupsById_.emplace(group.id, &group);
  sysfs_.addGroup(group);
}

void TopologyMachine::unnameGroup(iommu::Group& group) {
  sysfs_.removeGroup(group);
  groupsById_.erase(group.id);
  groupNumbers_.giveBack(static_cast<unsigned>(group.id));
  group.id = iommu::Group::kNone;
}

void TopologyMachine::takeGroupBack(const Function& function) {
  sysfs_.leaveGroup(function);
  unnameGroup(function.endpoint->group);
}

// The group that VFIO has for the function, made with the first that needs it.
std::shared_ptr<cdev::Group> TopologyMachine::vfioGroup(const Function& function) {
  iommu::Group& group = function.endpoint->group;
  auto& slot = vfioGroups_[group.id];
  if (!slot) {
    slot = std::make_shared<cdev::Group>(host_, group);
    sysfs_.addVfioGroup(slot->name(),
                        [made = slot.get()](int, std::shared_ptr<File>& out) { return made->open(out); });
  }
  return slot;
}

int TopologyMachine::probeVfio(Function& function) {
  if (function.isBridge()) return -EINVAL;
  if (function.sriov && function.sriov->count != 0) return -EBUSY;  // who has them open can't be told
  if (!function.translated) {
    if (const int failed = lendGroup(function)) return failed;
  }
  makeVfio(function);
  return 0;
}

void TopologyMachine::makeVfio(Function& function) {
  const unsigned index = vfioIndexes_.take();
  auto device = std::make_unique<cdev::Device>(host_, function, index, vfioGroup(function));
  cdev::Device& made = *device;
  function.vfio = std::move(device);
  sysfs_.addVfio(function, index, [&made](int, std::shared_ptr<File>& out) {
    out = made.open();
    return 0;
  });
}

// The kernel makes the writer of `unbind` wait until the program has let go, and tells the program meanwhile.
// A wait under the host's lock would be for ever: here the writer gets EBUSY, and the program is told once.
int TopologyMachine::removeVfio(Function& function) {
  if (const int failed = removeVirtual(function)) return failed;
  if (function.vfio->inUse()) {
    function.vfio->requestRelease();
    return -EBUSY;
  }
  const auto& device = *cdev::Device::of(function);
  sysfs_.removeVfio(function, device.index);
  vfioIndexes_.giveBack(device.index);
  const auto group = device.group;
  const std::string name = group->name();
  function.vfio.reset();
  if (group->empty()) {
    sysfs_.removeVfioGroup(name);
    vfioGroups_.erase(function.endpoint->group.id);
  }
  if (function.endpoint->group.by == iommu::Confinement::none) takeGroupBack(function);
  return 0;
}

}  // namespace

struct Machine::Parts final : TopologyMachine {
  using TopologyMachine::TopologyMachine;
};

Machine::Machine(Services& host, Tree& tree) : parts_(std::make_unique<Parts>(host, tree)) {}

Machine::~Machine() = default;

void Machine::addDevice(const std::string& device) { parts_->addDevice(device); }

int Machine::removeDevice(const std::string& bdf) { return parts_->removeDevice(bdf); }

uint64_t Machine::life(const std::string& bdf) const { return parts_->life(bdf); }

int Machine::bindDriver(const std::string& bdf, const std::string& driver, bool exclusive) {
  return parts_->bindDriver(bdf, driver, exclusive);
}

const iommu::Group* Machine::iommuGroup(int id) const { return parts_->iommuGroup(id); }

}  // namespace vfio::soft::machine
