#include "builtin_drivers.h"

#include <algorithm>
#include <array>
#include <cerrno>
#include <string_view>

#include "../core/services.h"
#include "../pci/registers.h"

namespace vfio::soft::machine {

using namespace pci;

namespace {

// The kernel's drivers that are made from vfio-pci for devices of one kind, by their names in sysfs. Binding,
// nodes and ownership are the same as with vfio-pci; the features that they add (migration, regions) are not
// modelled.
constexpr std::array<std::string_view, 8> variantDrivers = {
    "hisi_acc_vfio_pci", "ism_vfio_pci", "mlx5_vfio_pci",   "nvgrace_gpu_vfio_pci",
    "pds_vfio_pci",      "qat_vfio_pci", "virtio_vfio_pci", "xe-vfio-pci"};

}  // namespace

// A driver that uses its devices for the kernel. When it is unbound, it turns bus mastering off: the device
// does no more DMA.
Driver BuiltinDrivers::kernelDriver(std::string name, std::vector<Id> ids) {
  const auto master = [](Function& function, bool on) {
    const unsigned others = function.command() & ~unsigned{commandMaster};
    function.configWrite(regCommand, 2, others | (on ? commandMaster | commandMemory : 0U));
    return 0;
  };
  return {.name = std::move(name),
          .ids = std::move(ids),
          .dma = true,
          .probe =
              [master](Function& function) {
                ++function.enableCount;
                return master(function, true);
              },
          .remove =
              [this, master](Function& function) {
                if (const int failed = mdevs_.unregister(function)) return failed;
                --function.enableCount;
                return master(function, false);
              }};
}

// A driver of VFIO: programs use the devices that are bound to it.
Driver BuiltinDrivers::vfioDriver(std::string name) {
  return {.name = std::move(name),
          .ids = {},
          .probe = [this](Function& function) { return vfio_.probe(function); },
          .remove =
              [this](Function& function) {
                if (const int failed = virtuals_.removeAll(function)) return failed;
                return vfio_.remove(function);
              }};
}

Driver& BuiltinDrivers::named(const std::string& name) {
  if (Driver* const known = core_.driver(name)) return *known;
  const bool isVariant = std::ranges::find(variantDrivers, name) != variantDrivers.end();
  Driver& added = core_.add(isVariant ? vfioDriver(name) : kernelDriver(name, {}));
  files_.addDriver(added);
  return added;
}

bool BuiltinDrivers::start(Function& function, const topology::DeviceSpec& spec) {
  if (!spec.driver) {
    (void)core_.probe(function.bdf);  // if this fails, the device has no driver
    return true;
  }
  if (!*spec.driver) return true;
  Driver& wanted = named(**spec.driver);
  const auto fits = [&function](const Id& id) { return id.matches(function); };
  if (std::none_of(wanted.ids.begin(), wanted.ids.end(), fits)) function.driverOverride = wanted.name;
  return core_.probe(function.bdf) == 0 && function.driver == &wanted;
}

void BuiltinDrivers::addAll(const topology::SystemSpec& system) {
  if (system.vfioPci) {
    Driver& vfio = core_.add(vfioDriver("vfio-pci"));
    vfio.setVirtual = [this](Function& function, unsigned count) {
      return host_.parameters().sriov ? virtuals_.set(function, count) : -ENOENT;
    };
    files_.addDriver(vfio);
  }
  files_.addDriver(core_.add({.name = "pci-stub", .ids = {}}));
  files_.addDriver(core_.add({.name = "pcieport",
                              .ids = {{.classCode = 0x060400, .classMask = 0xffffff}},
                              .probe =
                                  [](Function& function) {
                                    // Ports only: a bridge to a conventional bus is not a port, nor is an
                                    // endpoint.
                                    if (function.isolation.kind == PortKind::conventionalBridge ||
                                        function.isolation.kind == PortKind::endpoint)
                                      return -ENODEV;
                                    ++function.enableCount;
                                    return 0;
                                  },
                              .remove =
                                  [](Function& function) {
                                    --function.enableCount;
                                    return 0;
                                  }}));
  Driver& nvme = core_.add(kernelDriver("nvme", {{.classCode = 0x010802, .classMask = 0xffffff}}));
  nvme.setVirtual = [this](Function& function, unsigned count) { return virtuals_.set(function, count); };
  files_.addDriver(nvme);
}

}  // namespace vfio::soft::machine
