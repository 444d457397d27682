// The machine as system software sees it: PCI functions, the drivers that are bound to them, IOMMU groups. It
// shows all this in the host's file tree, and opens the device nodes there.
//
// Life: the host makes and destroys it.
#pragma once

#include <cstdint>
#include <memory>
#include <string>

#include "../../device_model.h"

namespace vfio::soft {
class Services;
namespace files {
class Tree;
}
namespace iommu {
struct Group;
}
namespace topology {
class Catalogue;
}
}  // namespace vfio::soft

namespace vfio::soft::machine {

class Machine {
 public:
  // Builds the machine of the host's topology, whose devices can be of these models. Throws
  // std::invalid_argument if the text is no topology, or the machine can't be built.
  Machine(Services& host, files::Tree& tree, std::shared_ptr<const topology::Catalogue> models);
  ~Machine();
  Machine(const Machine&) = delete;
  Machine& operator=(const Machine&) = delete;

  // The calls of the host with these names (host.h).
  void addDevice(const std::string& device, const devices::Maker& make);
  [[nodiscard]] int removeDevice(const std::string& bdf);
  [[nodiscard]] uint64_t life(const std::string& bdf) const;
  [[nodiscard]] int bindDriver(const std::string& bdf, const std::string& driver, bool exclusive);
  [[nodiscard]] const iommu::Group* iommuGroup(int id) const;

 private:
  struct Parts;
  std::unique_ptr<Parts> parts_;
};

}  // namespace vfio::soft::machine
