// Mediated devices: shares of a device, made by its host driver. To a program each looks like a PCI function
// of its own.
//
// Life: made when their parent is bound to its first driver; destroyed by a write to their file `remove`, or
// before that driver is unbound.
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

  // Throws std::invalid_argument if they can't be made; nothing is made before that. `doesDma`: whether the
  // driver of this name does DMA for the kernel.
  void check(const topology::DeviceSpec& spec, const std::function<bool(const std::string&)>& doesDma) const;
  void add(Function& parent, const topology::DeviceSpec& spec);
  // Removes all those of a parent, one after the other: 0, or -EBUSY while a program has one open.
  [[nodiscard]] int removeAll(const Function& parent);
  // Call this before the driver is unbound from their parent, which destroys them: 0 or -EBUSY. In the kernel
  // the writer of `unbind` waits for programs that have one open. Here it gets EBUSY, none is destroyed, and
  // the programs are told once.
  [[nodiscard]] int unregister(Function& parent);

 private:
  // A mediated device, alone on a bus of its own.
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
  std::unordered_map<const Function*, std::list<Function*>> mdevsOf_;  // by parent, the oldest first
};

}  // namespace vfio::soft::machine
