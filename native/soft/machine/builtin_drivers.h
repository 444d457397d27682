// The drivers of the machine's kernel: those that it starts with, and others, which are made by their names.
//
// Life: a driver is made when it is first named, and lives as long as the machine.
#pragma once

#include <string>
#include <vector>

#include "../pci/function.h"
#include "../topology/topology.h"
#include "driver.h"
#include "mdev.h"
#include "sriov.h"
#include "sysfs/drivers.h"
#include "vfio_driver.h"

namespace vfio::soft::machine {

class BuiltinDrivers {
 public:
  BuiltinDrivers(Services& host, DriverCore& core, sysfs::DriverFiles& files, VfioDriver& vfio,
                 VirtualFunctions& virtuals, MediatedDevices& mdevs)
      : host_(host), core_(core), files_(files), vfio_(vfio), virtuals_(virtuals), mdevs_(mdevs) {}

  // Adds the drivers that the kernel starts with.
  void addAll(const topology::SystemSpec& system);
  // The driver of that name. A new one is a variant of vfio-pci, or else does DMA for the kernel.
  [[nodiscard]] Driver& named(const std::string& name);
  // Binds a device to the driver that its description names, or that matches. False: the named driver doesn't
  // take it.
  [[nodiscard]] bool start(Function& function, const topology::DeviceSpec& spec);

 private:
  [[nodiscard]] Driver kernelDriver(std::string name, std::vector<Id> ids);
  [[nodiscard]] Driver vfioDriver(std::string name);

  Services& host_;
  DriverCore& core_;
  sysfs::DriverFiles& files_;
  VfioDriver& vfio_;
  VirtualFunctions& virtuals_;
  MediatedDevices& mdevs_;
};

}  // namespace vfio::soft::machine
