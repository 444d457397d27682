// The machine as system software sees it: PCI functions, the drivers that hold them, IOMMU groups, and the
// sysfs and /dev trees that show all this.
#pragma once

#include <cerrno>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "../../backend.h"
#include "../core/file.h"
#include "../files/tree.h"

namespace vfio::soft {
class Host;
namespace iommu {
struct Group;
}
}  // namespace vfio::soft

namespace vfio::soft::machine {

class Machine {
 public:
  virtual ~Machine() = default;

  // As the host's (host.h).
  virtual void addDevice(const std::string& /*device*/) {}
  [[nodiscard]] virtual int removeDevice(const std::string& /*bdf*/) { return -ENODEV; }
  [[nodiscard]] virtual uint64_t life(const std::string& /*bdf*/) const { return 0; }
  [[nodiscard]] virtual int bindDriver(const std::string& /*bdf*/, const std::string& /*driver*/,
                                       bool /*exclusive*/) {
    return -ENODEV;
  }
  [[nodiscard]] virtual const iommu::Group* iommuGroup(int /*id*/) const { return nullptr; }

  // The paths of the host: /dev/iommu, /dev/vfio/..., /sys/bus/pci/..., /sys/kernel/iommu_groups/...,
  // /sys/class/... `open` gives 0 and a file, or -ENOENT, -EACCES, -EISDIR ...
  [[nodiscard]] virtual int open(const std::string& path, int flags, std::shared_ptr<File>& out) = 0;
  [[nodiscard]] virtual int readlink(const std::string& path, std::string& target) = 0;
  [[nodiscard]] virtual int list(const std::string& path, std::vector<std::string>& names) = 0;
  [[nodiscard]] virtual int status(const std::string& /*path*/, bool /*follow*/, files::Status& /*out*/) {
    return -ENOENT;
  }
  // As those of the backend.
  [[nodiscard]] virtual int readText(const std::string& /*path*/, std::string& /*text*/) { return -ENOENT; }
  [[nodiscard]] virtual int ownership(const std::string& /*path*/, Ownership& /*out*/) { return -ENOENT; }
  [[nodiscard]] virtual int own(const std::string& /*path*/, uint32_t /*uid*/, uint32_t /*mode*/) {
    return -ENOENT;
  }
  [[nodiscard]] virtual uint32_t user() const { return 0; }
  virtual void become(uint32_t /*uid*/) {}
};

// The machine of the host's topology. Throws std::invalid_argument where that is no topology, or can't be
// built.
[[nodiscard]] std::unique_ptr<Machine> makeMachine(Host& host);

}  // namespace vfio::soft::machine
