// The PCI buses of the machine and the functions on them.
//
// Life: a bus is made with its bridge, and lives as long as the machine. A function is made when the machine
// is built or when it is plugged in, and destroyed when it is unplugged.
#pragma once

#include <cstdint>
#include <list>
#include <map>
#include <memory>
#include <unordered_map>
#include <vector>

#include "../devices/network.h"
#include "../pci/function.h"
#include "../topology/placement.h"
#include "../topology/topology.h"
#include "driver.h"
#include "groups.h"
#include "sysfs/functions.h"
#include "units.h"

namespace vfio::soft::machine {

using pci::Bus;
using topology::DeviceSpec;

class Buses {
 public:
  Buses(Services& host, const topology::SystemSpec& system, Units& units, IommuGroups& groups,
        DriverCore& core, sysfs::FunctionFiles& files)
      : host_(host), system_(system), units_(units), groups_(groups), core_(core), files_(files) {}

  // Makes the function of a device that is placed. `bridge` is in front of its bus (null: a root bus);
  // `physical` is its physical function, if it is a virtual one.
  Function& add(DeviceSpec& spec, Function* bridge, Function* physical = nullptr);
  // Makes the function visible to system software: sysfs shows it, drivers can be bound to it.
  void show(Function& function);
  void showAll();
  // Destroys a function that no driver is bound to.
  void remove(Function& function);

  // Finds the bus for a new device, and fills its address. Throws std::invalid_argument.
  [[nodiscard]] const Bus& busFor(DeviceSpec& spec);
  // Finds the IOMMU and the group for a new device on this bus. Throws std::invalid_argument.
  void placeInGroup(DeviceSpec& spec, const Bus& itsBus);
  // The ranges of bus addresses that functions use.
  [[nodiscard]] std::vector<topology::Taken> taken() const;

 private:
  Bus& bus(uint8_t number, Function* bridge);

  Services& host_;
  const topology::SystemSpec& system_;
  Units& units_;
  IommuGroups& groups_;
  DriverCore& core_;
  sysfs::FunctionFiles& files_;
  pci::Fabric fabric_;
  devices::Network network_;
  std::map<uint8_t, Bus> buses_;  // by number
  using Functions = std::list<std::unique_ptr<Function>>;
  Functions functions_;
  std::unordered_map<const Function*, Functions::iterator> places_;  // their positions in that list
  uint64_t lives_ = 0;
};

}  // namespace vfio::soft::machine
