#include "units.h"

#include <algorithm>
#include <iterator>

namespace vfio::soft::machine {

const iommu::Unit& Units::add(const topology::SystemSpec& system, iommu::UnitDescription description) {
  description.index = static_cast<unsigned>(units_.size());
  if (!system.remapsInterrupts) description.isolatesInterrupts = false;
  units_.push_back(iommu::makeUnit(description));
  return units_.back();
}

iommu::Unit& Units::at(size_t index) {
  return *std::next(units_.begin(), static_cast<std::ptrdiff_t>(index));
}

size_t Units::indexOf(const iommu::Unit& unit) const {
  const auto found = std::ranges::find_if(units_, [&unit](const auto& each) { return &each == &unit; });
  return static_cast<size_t>(std::distance(units_.begin(), found));
}

}  // namespace vfio::soft::machine
