// The default machine: the reference guest, without what nobody drives from user space.
//
//   0000:00:00.0  host bridge                                     group 0
//   0000:00:10.0  edu                                             group 2
//   0000:00:11.0  root port, nothing behind it yet                group 3   pcieport
//   0000:00:12.0  root port                                       group 4   pcieport
//   0000:00:14.0  ivshmem: MSI-X, and BAR2 is plain memory        group 5
//   0000:02:00.0  bridge to a conventional bus, below 12.0        group 7
//   0000:03:01.0, 0000:03:02.0  edu, behind it: indistinguishable to the IOMMU, so in its group
//
// Numbers of groups follow the guest; 1 and 6 are functions that are not here.
#include "machine.h"

#include <cerrno>
#include <list>
#include <set>

#include "../devices/bridge.h"
#include "../devices/edu.h"
#include "../devices/ivshmem.h"
#include "../host.h"
#include "../iommufd/iommufd.h"
#include "../vfio/device.h"
#include "driver.h"
#include "function.h"
#include "registers.h"
#include "sysfs.h"
#include "tree.h"

namespace vfio::soft::pci {

namespace {

constexpr devices::Description hostBridge{.vendor = 0x8086,
                                          .device = 0x29c0,
                                          .subsystemVendor = 0x1af4,
                                          .subsystem = 0x1100,
                                          .classCode = 0x060000};
constexpr devices::Description rootPort{.vendor = 0x1b36,
                                        .device = 0x000c,
                                        .subsystemVendor = 0x1b36,
                                        .classCode = 0x060400,
                                        .bars = {{{.kind = devices::BarKind::memory32, .size = 4096}}},
                                        .interruptPin = 1,
                                        .express = true};
constexpr devices::Description conventionalBridge{
    .vendor = 0x1b36,
    .device = 0x000e,
    .classCode = 0x060400,
    .bars = {{{.kind = devices::BarKind::memory64, .size = 256}}},
    .interruptPin = 1,
    .express = true};

class DefaultMachine final : public Machine {
 public:
  explicit DefaultMachine(Host& host);

  [[nodiscard]] int open(const std::string& path, int flags, std::shared_ptr<File>& out) override {
    return tree_.open(path, flags, out);
  }
  [[nodiscard]] int readlink(const std::string& path, std::string& target) override {
    return tree_.readlink(path, target);
  }
  [[nodiscard]] int list(const std::string& path, std::vector<std::string>& names) override {
    return tree_.list(path, names);
  }

 private:
  Bus& addBus(uint8_t number, Function* bridge);
  Function& add(const Function::Place& place, std::unique_ptr<devices::Device> model, int group);
  iommu::Group& group(int id);
  void addDrivers();
  [[nodiscard]] int probeVfio(Function& function);
  [[nodiscard]] int removeVfio(Function& function);

  Host& host_;
  Tree tree_;
  DriverCore core_;
  Sysfs sysfs_;
  iommu::Unit unit_;
  std::list<iommu::Group> groups_;
  std::list<Bus> buses_;
  std::list<std::unique_ptr<Function>> functions_;
  std::set<unsigned> vfioIndexes_;
};

DefaultMachine::DefaultMachine(Host& host)
    : host_(host),
      core_([this](Function& f, Driver& d, bool bound) { sysfs_.driverChanged(f, d, bound); }),
      sysfs_(tree_, core_),
      unit_{.name = "dmar0",
            .aperture = {0, (uint64_t{1} << 48) - 1},
            .pageSizes = uint64_t{1} << 12 | uint64_t{1} << 21 | uint64_t{1} << 30,
            .reserved = {{{0xfee00000, 0xfeefffff}, iommu::ReservedKind::msi}},
            .enforcesCoherency = true,
            .isolatesInterrupts = true,
            .tracksDirty = false} {
  sysfs_.addBus();
  sysfs_.addUnit(unit_);
  tree_.device("/dev/iommu", [this](int, std::shared_ptr<File>& out) {
    out = iommufd::openIommufd(host_);
    return 0;
  });
  // Containers are not served yet: as on a kernel whose container module is missing.
  tree_.device("/dev/vfio/vfio", [](int, std::shared_ptr<File>&) { return -ENODEV; });
  addDrivers();

  using devices::makeEdu;
  using devices::makePassive;
  constexpr uint16_t decoding = commandIo | commandMemory | commandSerr;
  Bus& root = addBus(0, nullptr);
  add({&root, 0x00, 0x0000, 0, {}, decoding}, makePassive(hostBridge), 0);
  add({&root, 0x80, 0x0080, 10, {0xfe400000}, decoding}, makeEdu(), 2);
  auto& port1 =
      add({&root, 0x88, 0x0088, 22, {0xfe501000}, decoding | commandMaster}, makePassive(rootPort), 3);
  auto& port2 =
      add({&root, 0x90, 0x0090, 22, {0xfe502000}, decoding | commandMaster}, makePassive(rootPort), 4);
  add({&root, 0xa0, 0x00a0, 0, {0xfe503000, 0xfe504000, 0xfea00000}, decoding}, devices::makeSharedMemory(),
      5);
  addBus(1, &port1);
  Bus& behindPort = addBus(2, &port2);
  auto& bridge =
      add({&behindPort, 0x00, 0x0200, 11, {0xfe000000}, decoding}, makePassive(conventionalBridge), 7);
  Bus& conventional = addBus(3, &bridge);
  // The bridge takes over their transactions, with its secondary bus and device 0 for an id.
  auto& first = add({&conventional, 0x08, 0x0300, 11, {0xfde00000}, decoding}, makeEdu(), 7);
  add({&conventional, 0x10, 0x0300, 10, {0xfdf00000}, decoding}, makeEdu(), 7);
  // Found while it was alone on its bus, so the kernel lists the bus reset; it works no longer.
  first.resetMethods = {"bus"};
  bridge.resetMethods = {"pm", "bus"};

  const auto numberBuses = [](Function& function, uint8_t secondary, uint8_t subordinate) {
    function.config.set(regPrimaryBus, 1, function.bus.number);
    function.config.set(regSecondaryBus, 1, secondary);
    function.config.set(regSubordinateBus, 1, subordinate);
  };
  numberBuses(port1, 1, 1);
  numberBuses(port2, 2, 3);
  numberBuses(bridge, 3, 3);
  for (const auto& function : functions_) {
    sysfs_.addFunction(*function);
    core_.addFunction(*function);
  }
  core_.probeAll();
}

Bus& DefaultMachine::addBus(uint8_t number, Function* bridge) {
  return buses_.emplace_back(Bus{number, bridge, {}});
}

iommu::Group& DefaultMachine::group(int id) {
  for (auto& group : groups_) {
    if (group.id == id) return group;
  }
  auto& added = groups_.emplace_back(iommu::Group{.id = id, .members = {}});
  sysfs_.addGroup(added);
  return added;
}

Function& DefaultMachine::add(const Function::Place& place, std::unique_ptr<devices::Device> model,
                              int group) {
  auto& added = *functions_.emplace_back(
      std::make_unique<Function>(host_, place, std::move(model), unit_, this->group(group)));
  const auto* bridge = place.bus->bridge;
  added.path = (bridge ? bridge->path : "/sys/devices/pci0000:00") + "/" + added.bdf;
  return added;
}

void DefaultMachine::addDrivers() {
  sysfs_.addDriver(core_.add({.name = "vfio-pci",
                              .ids = {},
                              .probe = [this](Function& function) { return probeVfio(function); },
                              .remove = [this](Function& function) { return removeVfio(function); }}));
  sysfs_.addDriver(core_.add({.name = "pci-stub", .ids = {}}));
  sysfs_.addDriver(core_.add({.name = "pcieport",
                              .ids = {{.classCode = 0x060400, .classMask = 0xffffff}},
                              .probe =
                                  [](Function& function) {
                                    // Ports only: the bridge to a conventional bus is none.
                                    if (function.description().device != rootPort.device) return -ENODEV;
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

int DefaultMachine::probeVfio(Function& function) {
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
int DefaultMachine::removeVfio(Function& function) {
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

std::unique_ptr<Machine> makeDefaultMachine(Host& host) { return std::make_unique<DefaultMachine>(host); }

}  // namespace vfio::soft::pci
