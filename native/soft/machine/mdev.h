// Mediated devices: shares of a device that a driver of the host makes, each of which looks like a function
// of its own to the program.
//
// Life: made once their parent is bound to its first driver, destroyed by their file `remove`, or before that
// driver is unbound.
#pragma once

#include <functional>
#include <list>
#include <map>
#include <memory>
#include <string>
#include <unordered_map>

#include "../pci/function.h"
#include "../topology/topology.h"
#include "groups.h"
#include "sysfs/mdevs.h"
#include "units.h"
#include "vfio_driver.h"

namespace vfio::soft::machine {

class MediatedDevices {
 public:
  MediatedDevices(Services& host, IommuGroups& groups, Units& units, sysfs::MdevFiles& files,
                  VfioDriver& vfio)
      : host_(host), groups_(groups), units_(units), files_(files), vfio_(vfio) {}

  // Throws std::invalid_argument, before anything is made, where they can't be made. `doesDma`: is a driver
  // of this name one of the host's?
  void check(const topology::DeviceSpec& spec, const std::function<bool(const std::string&)>& doesDma) const;
  void add(Function& parent, const topology::DeviceSpec& spec);
  // All of a parent's, one after the other: 0, or -EBUSY while a program has one open.
  [[nodiscard]] int removeAll(const Function& parent);
  // The driver is unbound from their parent: 0 or -EBUSY. They are destroyed with the driver that made them.
  // The kernel makes the writer of `unbind` wait for programs that have one open; here it gets EBUSY, all of
  // them stay, and the programs are told once.
  [[nodiscard]] int unregister(Function& parent);

 private:
  // A mediated device, on a bus that nothing else is on.
  struct Mdev {
    pci::Bus bus;
    Function* parent = nullptr;
    std::unique_ptr<Function> function{};
  };
  [[nodiscard]] int remove(const std::string& uuid);

  Services& host_;
  IommuGroups& groups_;
  Units& units_;
  sysfs::MdevFiles& files_;
  VfioDriver& vfio_;
  std::map<std::string, Mdev> mdevs_;                                  // by UUID
  std::unordered_map<const Function*, std::list<Function*>> mdevsOf_;  // by their parent, the oldest first
};

}  // namespace vfio::soft::machine
