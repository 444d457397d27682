// The machine's IOMMUs, and what stands in front of devices that have none.
//
// Life: made with the machine, and there as long.
#pragma once

#include <cstddef>
#include <list>

#include "../iommu/unit.h"
#include "../topology/topology.h"

namespace vfio::soft::machine {

class Units {
 public:
  // The unit with the next index. Throws std::invalid_argument where there can be none.
  const iommu::Unit& add(const topology::SystemSpec& system, iommu::UnitDescription description);
  [[nodiscard]] size_t size() const { return units_.size(); }
  [[nodiscard]] iommu::Unit& at(size_t index);
  [[nodiscard]] size_t indexOf(const iommu::Unit& unit) const;
  [[nodiscard]] iommu::Unit& none() { return none_; }

 private:
  std::list<iommu::Unit> units_;
  iommu::Unit none_ = iommu::makeNoUnit();
};

}  // namespace vfio::soft::machine
