// Which models of devices a topology can name. Others than the built-in ones can be added: the door for
// models that live elsewhere.
//
// Life: a host has one, made before its topology is read, which lives as long.
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
  // Makes the device: fills `model`, and what else of the device follows from it.
  std::function<void(const Reader&, DeviceSpec&)> make;
  // The fields that only this model has, besides those of every device.
  std::vector<std::string_view> fields{};
};

class Catalogue {
 public:
  // An earlier model of that name is replaced.
  void add(std::string name, Model model);
  [[nodiscard]] const Model* find(std::string_view name) const;  // null: there is none
  [[nodiscard]] std::vector<std::string_view> names() const;     // in the order of their adding

 private:
  std::vector<std::pair<std::string, Model>> models_;
};

// Those of docs/topology.md.
[[nodiscard]] const Catalogue& builtinModels();

}  // namespace vfio::soft::topology
