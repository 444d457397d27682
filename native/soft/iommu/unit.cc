#include "unit.h"

#include <algorithm>
#include <stdexcept>

#include "../../base/shown.h"
#include "guest_format.h"
#include "model.h"

namespace vfio::soft::iommu {
namespace {

[[noreturn]] void refuse(const std::string& expected, const std::string& what, const std::string& received) {
  throw std::invalid_argument("Expected " + expected + " for " + what + " but received " + shown(received));
}

std::string hex(uint64_t value) {
  std::string text;
  do {
    text.insert(text.begin(), "0123456789abcdef"[value & 15]);
    value >>= 4;
  } while (value != 0);
  return "0x" + text;
}

std::string text(const Range& range) { return hex(range.start) + "-" + hex(range.last); }

// Windows in order, without overlap.
std::vector<Range> windows(std::vector<Range> ranges, const char* what) {
  if (ranges.empty()) refuse("at least one range", what, "none");
  for (const Range& range : ranges) {
    if (range.start > range.last) refuse("a start that is not above its last", what, text(range));
  }
  std::ranges::sort(ranges, {}, &Range::start);
  for (size_t at = 1; at < ranges.size(); ++at) {
    if (ranges[at].start <= ranges[at - 1].last) {
      refuse("ranges that do not overlap", what, text(ranges[at - 1]) + " and " + text(ranges[at]));
    }
  }
  return ranges;
}

uint64_t pageBits(uint64_t sizes) {
  // A leaf of a page table keeps its rights in the lowest bits.
  constexpr uint64_t kSmallest = 256;
  if (sizes == 0 || (sizes & (kSmallest - 1)) != 0) {
    refuse("sizes from 256", "pageSizes", sizes == 0 ? "none" : std::to_string(sizes & (~sizes + 1)));
  }
  return sizes;
}

const GuestFormat* format(const UnitDescription& description) {
  const Model& model = *description.model;
  if (!description.nesting) return model.defaults.nests ? model.format() : nullptr;
  const auto& wanted = *description.nesting;
  if (wanted.empty()) return nullptr;
  if (wanted.size() > 1) refuse("one format", "nesting", std::to_string(wanted.size()));
  if (!model.accepts(*wanted.front())) {
    refuse("a format that a unit of kind " + std::string(model.name) + " has", "nesting",
           std::string(wanted.front()->name));
  }
  return wanted.front();
}

}  // namespace

Unit makeUnit(const UnitDescription& description) {
  const Model& model = *description.model;
  const Model::Defaults& defaults = model.defaults;
  const std::vector<Range> apertures =
      windows(description.apertures.value_or(defaults.apertures), "apertures");
  Unit unit = {.model = model,
               .name = std::string(defaults.unitName) + std::to_string(description.index),
               .aperture = {apertures.front().start, apertures.back().last},
               .pageSizes = description.pageSizes ? pageBits(*description.pageSizes) : defaults.pageSizes,
               .reserved = description.reserved.value_or(defaults.reserved),
               .enforcesCoherency = description.enforcesCoherency.value_or(defaults.enforcesCoherency),
               .isolatesInterrupts = description.isolatesInterrupts.value_or(defaults.isolatesInterrupts),
               .tracksDirty = description.dirtyTracking.value_or(defaults.dirtyTracking),
               .pasidBits = description.pasidBits.value_or(defaults.pasidBits),
               .pageRequests = description.pageRequests.value_or(PageRequestKind::none),
               .nesting = format(description),
               .commandQueues = description.commandQueues};
  for (const ReservedRegion& region : unit.reserved) {
    if (region.range.start > region.range.last) {
      refuse("a start that is not above its last", "reserved", text(region.range));
    }
  }
  for (size_t at = 1; at < apertures.size(); ++at) {
    if (apertures[at - 1].last + 1 == apertures[at].start) continue;
    unit.reserved.push_back({{apertures[at - 1].last + 1, apertures[at].start - 1}, ReservedKind::reserved});
  }
  if (unit.pasidBits > 20) refuse("0 to 20", "pasidBits", std::to_string(unit.pasidBits));
  if (unit.commandQueues && !model.canHaveCommandQueues()) {
    refuse("a unit of a kind that can have them", "commandQueues", "kind " + std::string(model.name));
  }
  return unit;
}

Unit makeNoUnit() {
  static const Model kNone("none", {});
  return {.model = kNone, .name = "none", .aperture = kEverything, .pageSizes = 4096, .reserved = {}};
}

}  // namespace vfio::soft::iommu
