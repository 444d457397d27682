// The machine's IOMMUs, called units, and the unit that stands for no IOMMU.
//
// Life: made with the machine; they live as long as it.
#pragma once

#include <cstddef>
#include <list>

#include "../iommu/unit.h"
#include "../topology/topology.h"

namespace vfio::soft::machine {

class Units {
 public:
  // Adds the unit with the next index. Throws std::invalid_argument if it can't be made.
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
