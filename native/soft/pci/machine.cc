// A machine built from its topology: the default one is a topology too.
#include "machine.h"

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <iterator>
#include <list>
#include <set>

#include "../devices/bridge.h"
#include "../host.h"
#include "../iommu/unit.h"
#include "../iommufd/iommufd.h"
#include "../vfio/device.h"
#include "default_topology.h"
#include "driver.h"
#include "function.h"
#include "placement.h"
#include "registers.h"
#include "sysfs.h"
#include "tree.h"

namespace vfio::soft::pci {

namespace {

iommu::Unit makeUnit(const Host& host, const UnitSpec& spec, size_t index) {
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
  iommu::Unit unit = iommu::makeUnit(model);
  // Until 6.19 VT-d's driver marked every entry as present with the bit that says readable.
  unit.writableIsReadable = model.kind == iommu::UnitKind::vtd && !host.since(6, 19);
  return unit;
}

class TopologyMachine final : public Machine {
 public:
  explicit TopologyMachine(Host& host);

  [[nodiscard]] int open(const std::string& path, int flags, std::shared_ptr<File>& out) override {
    return tree_.open(path, flags, out);
  }
  [[nodiscard]] int readlink(const std::string& path, std::string& target) override {
    return tree_.readlink(path, target);
  }
  [[nodiscard]] int list(const std::string& path, std::vector<std::string>& names) override {
    return tree_.list(path, names);
  }
  [[nodiscard]] int status(const std::string& path, bool follow, Status& out) override {
    return tree_.status(path, follow, out);
  }

 private:
  Bus& bus(uint8_t number, Function* bridge);
  Function& add(DeviceSpec& spec, Function* bridge);
  iommu::Group& group(int id);
  void addDrivers();
  void start(Function& function, const DeviceSpec& spec);
  [[nodiscard]] int probeVfio(Function& function);
  [[nodiscard]] int removeVfio(Function& function);

  Host& host_;
  Tree tree_;
  DriverCore core_;
  Sysfs sysfs_;
  std::list<iommu::Unit> units_;
  std::list<iommu::Group> groups_;
  std::list<Bus> buses_;
  std::list<std::unique_ptr<Function>> functions_;
  std::set<unsigned> vfioIndexes_;
};

TopologyMachine::TopologyMachine(Host& host)
    : host_(host),
      core_([this](Function& f, Driver& d, bool bound) { sysfs_.driverChanged(f, d, bound); }),
      sysfs_(tree_, core_) {
  const std::string& text = host.options().topology;
  Topology topology = readTopology(text.empty() ? defaultTopology : text);
  const auto order = place(topology);
  sysfs_.addBus();
  for (const auto& spec : topology.iommus) {
    sysfs_.addUnit(units_.emplace_back(makeUnit(host, spec, units_.size())));
  }
  constexpr unsigned misc = 10, iommuMinor = 126, vfioMinor = 196;
  tree_.device(
      "/dev/iommu",
      [this](int, std::shared_ptr<File>& out) {
        out = iommufd::openIommufd(host_);
        return 0;
      },
      misc, iommuMinor);
  // Containers are not served yet: as on a kernel whose container module is missing.
  tree_.device(
      "/dev/vfio/vfio", [](int, std::shared_ptr<File>&) { return -ENODEV; }, misc, vfioMinor);
  addDrivers();
  std::vector<Function*> functions(topology.devices.size());
  for (const size_t index : order) {
    auto& spec = topology.devices[index];
    functions[index] = &add(spec, spec.behind ? functions[spec.parent] : nullptr);
  }
  for (const auto& function : functions_) {
    sysfs_.addFunction(*function);
    core_.addFunction(*function);
  }
  for (const size_t index : order) start(*functions[index], topology.devices[index]);
}

Bus& TopologyMachine::bus(uint8_t number, Function* bridge) {
  const auto found =
      std::find_if(buses_.begin(), buses_.end(), [number](const Bus& bus) { return bus.number == number; });
  return found != buses_.end() ? *found : buses_.emplace_back(Bus{number, bridge, {}});
}

iommu::Group& TopologyMachine::group(int id) {
  for (auto& group : groups_) {
    if (group.id == id) return group;
  }
  auto& added = groups_.emplace_back(iommu::Group{.id = id, .members = {}});
  sysfs_.addGroup(added);
  return added;
}

Function& TopologyMachine::add(DeviceSpec& spec, Function* bridge) {
  const bool isBridge = spec.kind != PortKind::endpoint;
  const bool isPort = isBridge && spec.kind != PortKind::conventionalBridge;
  auto& itsBus = bus(spec.address.bus, bridge);
  const bool first = itsBus.functions.empty();
  const auto command =
      static_cast<uint16_t>(commandIo | commandMemory | commandSerr | (isPort ? commandMaster : 0));
  auto& unit = *std::next(units_.begin(), static_cast<std::ptrdiff_t>(spec.unit));
  auto& added = *functions_.emplace_back(
      std::make_unique<Function>(host_,
                                 Function::Place{&itsBus, spec.address.devfn, spec.requesterId,
                                                 spec.interrupt, spec.placed, command, spec.isolation()},
                                 std::move(spec.model), unit, group(spec.groupId)));
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

// Gives a function to the driver that it starts on.
void TopologyMachine::start(Function& function, const DeviceSpec& spec) {
  if (!spec.driver) {
    if (core_.probe(function.bdf) != 0) return;  // stays without a driver
    return;
  }
  if (!*spec.driver) return;
  const std::string& name = **spec.driver;
  const auto& drivers = core_.drivers();
  const auto found =
      std::find_if(drivers.begin(), drivers.end(), [&name](const auto& each) { return each->name == name; });
  Driver* driver = found == drivers.end() ? nullptr : found->get();
  if (!driver) {
    driver = &core_.add({.name = name, .ids = {}, .dma = true});
    sysfs_.addDriver(*driver);
  }
  const auto fits = [&function](const Id& id) { return id.matches(function); };
  if (std::none_of(driver->ids.begin(), driver->ids.end(), fits)) function.driverOverride = name;
  if (core_.probe(function.bdf) != 0 || function.driver != driver)
    spec.refuse("driver", "a driver that takes this device", '"' + name + '"');
}

void TopologyMachine::addDrivers() {
  sysfs_.addDriver(core_.add({.name = "vfio-pci",
                              .ids = {},
                              .probe = [this](Function& function) { return probeVfio(function); },
                              .remove = [this](Function& function) { return removeVfio(function); }}));
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
  // A driver that keeps the device for the kernel.
  sysfs_.addDriver(
      core_.add({.name = "nvme", .ids = {{.classCode = 0x010802, .classMask = 0xffffff}}, .dma = true}));
}

int TopologyMachine::probeVfio(Function& function) {
  if (function.isBridge()) return -EINVAL;
  unsigned index = 0;
  while (vfioIndexes_.contains(index)) ++index;
  vfioIndexes_.insert(index);
  function.vfio = std::make_unique<cdev::Device>(host_, function, index);
  sysfs_.addVfio(function, index, [&function](int, std::shared_ptr<File>& out) {
    out = function.vfio->open();
    return 0;
  });
  return 0;
}

// The kernel makes the writer of `unbind` wait until the program has let go, and tells the program meanwhile.
// A wait under the host's lock would be for ever: here the writer gets EBUSY, and the program is told once.
int TopologyMachine::removeVfio(Function& function) {
  if (function.vfio->inUse()) {
    function.vfio->requestRelease();
    return -EBUSY;
  }
  sysfs_.removeVfio(function, function.vfio->index);
  vfioIndexes_.erase(function.vfio->index);
  function.vfio.reset();
  return 0;
}

}  // namespace

std::unique_ptr<Machine> makeMachine(Host& host) { return std::make_unique<TopologyMachine>(host); }

}  // namespace vfio::soft::pci
