// The files of the PCI bus and its drivers: bind, unbind, probe, and links to the functions that are bound.
#pragma once

#include "../driver.h"
#include "system.h"
#include "text.h"

namespace vfio::soft::machine::sysfs {

class DriverFiles {
 public:
  DriverFiles(Tree& tree, DriverCore& core, SystemFiles& system)
      : tree_(tree), core_(core), system_(system) {}

  void addBus();
  void addDriver(Driver& driver);
  // This driver was bound to the function, or unbound from it.
  void driverChanged(pci::Function& function, Driver& driver, bool bound);

 private:
  Tree& tree_;
  DriverCore& core_;
  SystemFiles& system_;
};

}  // namespace vfio::soft::machine::sysfs
