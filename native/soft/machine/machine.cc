// Builds the machine from its topology (the default machine is a topology too), out of the parts in this
// folder.
#include "machine.h"

#include "../core/services.h"
#include "../files/tree.h"
#include "../iommufd/iommufd.h"
#include "../selftest/hooks.h"
#include "../topology/catalogue.h"
#include "../topology/default_topology.h"
#include "../topology/placement.h"
#include "../topology/topology.h"
#include "../vfio/container.h"
#include "hot_plug.h"

namespace vfio::soft::machine {

using files::Tree;
using topology::Topology;

namespace {

Topology topologyOf(const Services& host, const topology::Catalogue& models) {
  const auto& text = host.options().topology;
  return topology::readTopology(text ? std::string_view(*text) : topology::defaultTopology, models);
}

}  // namespace

// Each part gets the parts above it, and is destroyed before them. Only DriverFiles and DriverCore refer to
// each other.
struct Machine::Parts {
  Parts(Services& host, Tree& tree, const topology::SystemSpec& itsSystem,
        std::shared_ptr<const topology::Catalogue> itsModels)
      : system(itsSystem),
        models(std::move(itsModels)),
        systemFiles(tree),
        driverFiles(tree, core, systemFiles),
        groupFiles(tree),
        functionFiles(tree, groupFiles),
        mdevFiles(tree, groupFiles),
        vfioFiles(tree, system.deviceNodes),
        core([this](Function& f, Driver& d, bool bound) { driverFiles.driverChanged(f, d, bound); }),
        groups(groupFiles),
        vfio(host, groups, vfioFiles, driverFiles),
        buses(host, system, units, groups, core, functionFiles),
        virtuals(buses, units, core, functionFiles, vfio),
        mdevs(host, groups, units, mdevFiles, vfio),
        drivers(host, core, driverFiles, vfio, virtuals, mdevs),
        hotPlug(*models, buses, units, core, drivers, vfio, mdevs) {}

  void build(Services& host, Tree& tree, Topology& topology);
  void addNodes(Services& host, Tree& tree) const;

  const topology::SystemSpec system;
  const std::shared_ptr<const topology::Catalogue> models;
  sysfs::SystemFiles systemFiles;
  sysfs::DriverFiles driverFiles;
  sysfs::GroupFiles groupFiles;
  sysfs::FunctionFiles functionFiles;
  sysfs::MdevFiles mdevFiles;
  sysfs::VfioFiles vfioFiles;
  DriverCore core;
  Units units;
  IommuGroups groups;
  VfioDriver vfio;
  Buses buses;
  VirtualFunctions virtuals;
  MediatedDevices mdevs;
  BuiltinDrivers drivers;
  HotPlug hotPlug;
};

// Adds the device nodes that do not depend on devices.
void Machine::Parts::addNodes(Services& host, Tree& tree) const {
  constexpr unsigned misc = 10, iommuMinor = 126, vfioMinor = 196;
  constexpr uint32_t iommuMode = 0660, vfioMode = 0666;
  if (system.iommufd) {
    const auto* const hooks = host.options().selftest ? &selftest::hooks() : nullptr;
    tree.device(
        "/dev/iommu",
        [&host, hooks](int, std::shared_ptr<File>& out) {
          out = iommufd::openIommufd(host, hooks);
          return 0;
        },
        misc, iommuMinor, iommuMode);
  }
  tree.device(
      "/dev/vfio/vfio",
      [&host](int, std::shared_ptr<File>& out) {
        out = std::make_shared<cdev::Container>(host);
        return 0;
      },
      misc, vfioMinor, vfioMode);
}

void Machine::Parts::build(Services& host, Tree& tree, Topology& topology) {
  const auto order = place(topology);
  tree.permissions = system.user.has_value();
  tree.user = system.user.value_or(0);
  systemFiles.addClasses();
  driverFiles.addBus();
  systemFiles.addSystem(system, host.parameters());
  for (const auto& spec : topology.iommus) {
    const iommu::Unit& unit = units.add(system, spec);
    if (system.translates) systemFiles.addUnit(unit);
  }
  addNodes(host, tree);
  drivers.addAll(system);
  std::vector<Function*> functions(topology.devices.size());
  for (const size_t index : order) {
    auto& spec = topology.devices[index];
    functions[index] = &buses.add(spec, spec.behind ? functions[spec.parent] : nullptr);
  }
  buses.showAll();
  for (const size_t index : order) {
    const auto& spec = topology.devices[index];
    if (!drivers.start(*functions[index], spec))
      spec.refuse("driver", "a driver that takes this device", '"' + spec.driver->value_or("null") + '"');
  }
  for (const size_t index : order) {
    mdevs.check(topology.devices[index], [this](const std::string& name) { return drivers.named(name).dma; });
    mdevs.add(*functions[index], topology.devices[index]);
  }
}

Machine::Machine(Services& host, Tree& tree, std::shared_ptr<const topology::Catalogue> models) {
  Topology topology = topologyOf(host, *models);
  parts_ = std::make_unique<Parts>(host, tree, topology.system, std::move(models));
  parts_->build(host, tree, topology);
}

Machine::~Machine() = default;

void Machine::addDevice(const std::string& device, const devices::Maker& make) {
  parts_->hotPlug.addDevice(device, make);
}

int Machine::removeDevice(const std::string& bdf) { return parts_->hotPlug.removeDevice(bdf); }

uint64_t Machine::life(const std::string& bdf) const { return parts_->hotPlug.life(bdf); }

int Machine::bindDriver(const std::string& bdf, const std::string& driver, bool exclusive) {
  return parts_->hotPlug.bindDriver(bdf, driver, exclusive);
}

const iommu::Group* Machine::iommuGroup(int id) const { return parts_->groups.find(id); }

}  // namespace vfio::soft::machine
