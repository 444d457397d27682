#include "units.h"

#include <algorithm>
#include <iterator>

#include "../core/services.h"

namespace vfio::soft::machine {

using topology::SystemSpec;
using topology::UnitSpec;

namespace {

iommu::Unit make(const Services& host, const SystemSpec& system, const UnitSpec& spec, size_t index) {
  iommu::UnitModel model = {.kind = *iommu::unitKind(spec.kind),
                            .index = static_cast<unsigned>(index),
                            .apertures = spec.apertures,
                            .reserved = spec.reserved,
                            .pageSizes = spec.pageSizes,
                            .pasidBits = spec.pasidBits,
                            .dirtyTracking = spec.dirtyTracking,
                            .commandQueues = spec.commandQueues.value_or(false),
                            .enforcesCoherency = spec.enforcesCoherency,
                            .isolatesInterrupts = spec.isolatesInterrupts};
  if (spec.pageRequests) model.pageRequests = iommu::pageRequestKind(*spec.pageRequests);
  if (spec.nesting) {
    auto& formats = model.nesting.emplace();
    for (const std::string& name : *spec.nesting) formats.push_back(*iommu::nestingFormat(name));
  }
  if (!system.remapsInterrupts) model.isolatesInterrupts = false;
  iommu::Unit unit = iommu::makeUnit(model);
  // Before 6.19 the VT-d driver set the readable bit in every entry, to mark it as present.
  unit.writableIsReadable = model.kind == iommu::UnitKind::vtd && !host.since(6, 19);
  return unit;
}

}  // namespace

const iommu::Unit& Units::add(const Services& host, const SystemSpec& system, const UnitSpec& spec) {
  units_.push_back(make(host, system, spec, units_.size()));
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
