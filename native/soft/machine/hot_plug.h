// Hot-plug: devices are plugged in, unplugged, and bound to other drivers while the machine runs.
#pragma once

#include <cstdint>
#include <string>

#include "../topology/catalogue.h"
#include "builtin_drivers.h"
#include "buses.h"
#include "driver.h"
#include "mdev.h"
#include "vfio_driver.h"

namespace vfio::soft::machine {

class HotPlug {
 public:
  HotPlug(const topology::Catalogue& models, Buses& buses, Units& units, DriverCore& core,
          BuiltinDrivers& drivers, VfioDriver& vfio, MediatedDevices& mdevs)
      : models_(models),
        buses_(buses),
        units_(units),
        core_(core),
        drivers_(drivers),
        vfio_(vfio),
        mdevs_(mdevs) {}

  // Plugs a device in, which the kernel finds. If its driver doesn't take it, because a user owns the group
  // for example, it is left without a driver.
  void addDevice(const std::string& device, const devices::Maker& make);
  // The other calls are described in host.h.
  [[nodiscard]] int removeDevice(const std::string& bdf);
  [[nodiscard]] uint64_t life(const std::string& bdf) const;
  [[nodiscard]] int bindDriver(const std::string& bdf, const std::string& name, bool exclusive);

 private:
  const topology::Catalogue& models_;
  Buses& buses_;
  Units& units_;
  DriverCore& core_;
  BuiltinDrivers& drivers_;
  VfioDriver& vfio_;
  MediatedDevices& mdevs_;
};

}  // namespace vfio::soft::machine
