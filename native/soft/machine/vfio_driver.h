// Binds functions to VFIO, for vfio-pci, its variants, and the drivers of mediated devices.
//
// Life: a VFIO device (cdev::Device) is made when the driver is bound to a function and destroyed when it is
// unbound. The VFIO group is made with its first device and destroyed with the last one, or when the last
// file that refers to it is closed.
#pragma once

#include <chrono>
#include <map>
#include <memory>

#include "../pci/function.h"
#include "../vfio/group.h"
#include "driver.h"
#include "groups.h"
#include "numbers.h"
#include "sysfs/drivers.h"
#include "sysfs/vfio.h"

namespace vfio::soft::machine {

class VfioDriver {
 public:
  VfioDriver(Services& host, IommuGroups& groups, sysfs::VfioFiles& files, sysfs::DriverFiles& drivers)
      : host_(host), groups_(groups), files_(files), drivers_(drivers) {}

  // Binds: 0 or -errno.
  [[nodiscard]] int probe(Function& function);
  void make(Function& function);
  // Unbinds: 0, or -EBUSY while a program has the device open. In the kernel the writer of `unbind` waits
  // until the program has closed the device, and the program is told meanwhile. Under the host's lock such a
  // wait would never end: here the writer gets EBUSY, and the program is told once.
  [[nodiscard]] int remove(Function& function);

  // Call this when a device is unplugged while a program has it open. It can't be opened any more, and the
  // program is told at once, and again every ten seconds. Returns -EBUSY.
  [[nodiscard]] int askToLeave(Function& function);
  // Call this before a function is destroyed.
  void forget(const Function& function) { leaving_.erase(&function); }

 private:
  [[nodiscard]] std::shared_ptr<cdev::Group> group(const Function& function);

  Services& host_;
  IommuGroups& groups_;
  sysfs::VfioFiles& files_;
  sysfs::DriverFiles& drivers_;
  Numbers indexes_;
  // The functions that were unplugged while open, and when their programs were last told.
  std::map<const Function*, std::chrono::steady_clock::time_point> leaving_;
  std::map<int, std::shared_ptr<cdev::Group>> vfioGroups_;  // by the id of the IOMMU group
};

}  // namespace vfio::soft::machine
