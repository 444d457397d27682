// Makes and removes virtual functions, as a write to the file sriov_numvfs does.
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

  // Makes `count` virtual functions while there are none, or removes all (0): 0 or -errno.
  [[nodiscard]] int set(Function& physical, unsigned count);
  // Removes all of them: 0, or -EBUSY while a program has one open.
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
