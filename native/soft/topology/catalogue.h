// The catalogue of device models that a topology can name. Models from elsewhere can be added to the built-in
// ones.
//
// Life: made before the host's topology is read; it lives as long as the host.
#pragma once

#include <functional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "reader.h"
#include "topology.h"

namespace vfio::soft::topology {

struct Model {
  // Makes the device: fills `model` and the fields of DeviceSpec that depend on it.
  std::function<void(const Reader&, DeviceSpec&)> make;
  // The fields of this model in the topology, besides those that every device has.
  std::vector<std::string_view> fields{};
};

class Catalogue {
 public:
  // Adds a model. It replaces an earlier one of that name.
  void add(std::string name, Model model);
  [[nodiscard]] const Model* find(std::string_view name) const;  // null: there is none
  [[nodiscard]] std::vector<std::string_view> names() const;     // in the order in which they were added

 private:
  std::vector<std::pair<std::string, Model>> models_;
};

// A device that is described as a passive one, with a model that the caller makes.
[[nodiscard]] Model simulatedModel(devices::Maker make);

// The models that docs/topology.md lists.
[[nodiscard]] const Catalogue& builtinModels();

}  // namespace vfio::soft::topology
