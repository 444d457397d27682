// Turning virtual functions on and off, as the file sriov_numvfs does it.
#pragma once

#include "../pci/function.h"
#include "buses.h"
#include "driver.h"
#include "sysfs/functions.h"
#include "units.h"
#include "vfio_driver.h"

namespace vfio::soft::machine {

class VirtualFunctions {
 public:
  VirtualFunctions(Buses& buses, Units& units, DriverCore& core, sysfs::FunctionFiles& files,
                   VfioDriver& vfio)
      : buses_(buses), units_(units), core_(core), files_(files), vfio_(vfio) {}

  // So many, none of which is on, or (0) none: 0 or -errno.
  [[nodiscard]] int set(Function& physical, unsigned count);
  // All of them off: 0, or -EBUSY while a program has one open.
  [[nodiscard]] int removeAll(Function& physical);

 private:
  void add(Function& physical, unsigned index);

  Buses& buses_;
  Units& units_;
  DriverCore& core_;
  sysfs::FunctionFiles& files_;
  VfioDriver& vfio_;
};

}  // namespace vfio::soft::machine
