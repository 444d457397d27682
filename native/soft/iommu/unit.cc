#include "unit.h"

#include <algorithm>
#include <bit>
#include <stdexcept>

#include "../../base/shown.h"
#include "vtd_nested.h"

namespace vfio::soft::iommu {
namespace {

constexpr uint64_t kKiB = 1024;
constexpr uint64_t kMiB = 1024 * kKiB;
constexpr uint64_t kGiB = 1024 * kMiB;
constexpr Range k48Bits = {0, (uint64_t{1} << 48) - 1};
constexpr Range kEverything = {0, UINT64_MAX};

// On x86 a write to this window is an interrupt, whatever the page table says.
constexpr ReservedRegion kX86Messages = {{0xfee00000, 0xfeefffff}, ReservedKind::msi};

struct Defaults {
  std::string_view name;
  std::string_view unitName;
  NestingFormat format;  // the only one that the kind can have; `none` for custom: any
  bool nests;
  std::vector<Range> apertures;
  std::vector<ReservedRegion> reserved;
  uint64_t pageSizes;
  unsigned pasidBits;
  bool dirtyTracking;
  bool enforcesCoherency;
  bool isolatesInterrupts;
};

const Defaults& defaultsOf(UnitKind kind) {
  // VT-d, AMD and virtio are QEMU's, as Linux 6.12 finds them: what the software host's machine mirrors.
  // SMMUv3 is a large one, with all that Linux makes use of; its message window is where Linux places it. PPC
  // has the two windows of a pSeries partition.
  static const Defaults kDefaults[] = {
      {"vtd",
       "dmar",
       NestingFormat::vtdS1,
       false,
       {k48Bits},
       {kX86Messages},
       4 * kKiB | 2 * kMiB | kGiB,
       0,
       false,
       false,
       true},
      {"smmuv3",
       "smmu3.",
       NestingFormat::armSmmuv3,
       true,
       {k48Bits},
       {{{0x08000000, 0x080fffff}, ReservedKind::softwareMsi}},
       4 * kKiB | 2 * kMiB | kGiB,
       20,
       true,
       true,
       true},
      {"amd",
       "ivhd",
       NestingFormat::amdGuest,
       false,
       {kEverything},
       {kX86Messages, {{0xfd00000000, 0xffffffffff}, ReservedKind::reserved}},
       ((uint64_t{1} << 52) - 4 * kKiB) & ~(uint64_t{2} << 38),
       0,
       false,
       true,
       true},
      {"ppc",
       "tce",
       NestingFormat::none,
       false,
       {{0, 2 * kGiB - 1}, {uint64_t{1} << 59, (uint64_t{1} << 59) + (uint64_t{1} << 44) - 1}},
       {},
       4 * kKiB | 64 * kKiB | 2 * kMiB | 16 * kMiB,
       0,
       false,
       false,
       true},
      {"virtio",
       "virtio",
       NestingFormat::none,
       false,
       {kEverything},
       {kX86Messages},
       ~(4 * kKiB - 1),
       0,
       false,
       false,
       false},
      {"custom", "iommu", NestingFormat::none, false, {kEverything}, {}, 4 * kKiB, 0, false, true, true},
  };
  return kDefaults[static_cast<size_t>(kind)];
}

constexpr UnitKind kKinds[] = {UnitKind::vtd, UnitKind::smmuv3, UnitKind::amd,
                               UnitKind::ppc, UnitKind::virtio, UnitKind::custom};

struct FormatName {
  std::string_view name;
  NestingFormat format;
};
constexpr FormatName kFormats[] = {{"vtd-s1", NestingFormat::vtdS1},
                                   {"arm-smmuv3", NestingFormat::armSmmuv3},
                                   {"amd-guest", NestingFormat::amdGuest}};

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

NestingFormat format(const UnitModel& model, const Defaults& defaults) {
  if (!model.nesting) return defaults.nests ? defaults.format : NestingFormat::none;
  if (model.nesting->empty()) return NestingFormat::none;
  if (model.nesting->size() > 1) refuse("one format", "nesting", std::to_string(model.nesting->size()));
  const NestingFormat wanted = model.nesting->front();
  const bool fits = model.kind == UnitKind::custom || wanted == defaults.format;
  if (!fits) {
    const auto* const named = std::ranges::find(kFormats, wanted, &FormatName::format);
    refuse("a format that a unit of kind " + std::string(defaults.name) + " has", "nesting",
           named != std::end(kFormats) ? std::string(named->name) : "none");
  }
  return wanted;
}

}  // namespace

Unit makeUnit(const UnitModel& model) {
  const Defaults& defaults = defaultsOf(model.kind);
  const std::vector<Range> apertures = windows(model.apertures.value_or(defaults.apertures), "apertures");
  Unit unit = {.name = std::string(defaults.unitName) + std::to_string(model.index),
               .aperture = {apertures.front().start, apertures.back().last},
               .pageSizes = model.pageSizes ? pageBits(*model.pageSizes) : defaults.pageSizes,
               .reserved = model.reserved.value_or(defaults.reserved),
               .enforcesCoherency = model.enforcesCoherency.value_or(defaults.enforcesCoherency),
               .isolatesInterrupts = model.isolatesInterrupts.value_or(defaults.isolatesInterrupts),
               .tracksDirty = model.dirtyTracking.value_or(defaults.dirtyTracking)};
  for (const ReservedRegion& region : unit.reserved) {
    if (region.range.start > region.range.last) {
      refuse("a start that is not above its last", "reserved", text(region.range));
    }
  }
  for (size_t at = 1; at < apertures.size(); ++at) {
    if (apertures[at - 1].last + 1 == apertures[at].start) continue;
    unit.reserved.push_back({{apertures[at - 1].last + 1, apertures[at].start - 1}, ReservedKind::reserved});
  }
  const unsigned pasidBits = model.pasidBits.value_or(defaults.pasidBits);
  if (pasidBits > 20) refuse("0 to 20", "pasidBits", std::to_string(pasidBits));
  unit.kind = model.kind;
  unit.nesting = format(model, defaults);
  unit.pasidBits = pasidBits;
  unit.pageRequests = model.pageRequests.value_or(PageRequestKind::none);
  if (model.commandQueues && model.kind != UnitKind::smmuv3) {
    refuse("a unit of kind smmuv3", "commandQueues", "kind " + std::string(defaults.name));
  }
  unit.commandQueues = model.commandQueues;
  unit.nests = unit.nesting != NestingFormat::none;
  // Its driver knows the format also where the hardware hasn't got it. Hardware that has can do all of it.
  if (unit.kind == UnitKind::vtd || unit.nesting == NestingFormat::vtdS1) unit.makeNested = makeVtdNested;
  // An erratum of the hardware: in a parent, read-only does not hold for guests' accesses.
  unit.parentsAreWritable = unit.kind == UnitKind::vtd;
  // Every other driver makes no entry that lets nothing through.
  unit.allowsNoAccess = unit.kind == UnitKind::virtio;
  unit.fiveLevels = unit.supervisorRequests = unit.extendedAccessed = unit.nesting == NestingFormat::vtdS1;
  // In the other formats the tables of PASIDs are the guest's too.
  unit.guestPasids = unit.nests && unit.nesting != NestingFormat::vtdS1;
  return unit;
}

Unit makeNoUnit() {
  return {.name = "none",
          .aperture = {0, UINT64_MAX},
          .pageSizes = 4096,
          .reserved = {},
          .enforcesCoherency = false,
          .isolatesInterrupts = false,
          .tracksDirty = false,
          .kind = UnitKind::custom};
}

std::optional<UnitKind> unitKind(std::string_view name) {
  for (const UnitKind kind : kKinds) {
    if (defaultsOf(kind).name == name) return kind;
  }
  return std::nullopt;
}

std::optional<NestingFormat> nestingFormat(std::string_view name) {
  const auto* const found = std::ranges::find(kFormats, name, &FormatName::name);
  if (found == std::end(kFormats)) return std::nullopt;
  return found->format;
}

std::optional<PageRequestKind> pageRequestKind(std::string_view name) {
  if (name.empty()) return PageRequestKind::none;
  if (name == "pri") return PageRequestKind::pri;
  if (name == "stall") return PageRequestKind::stall;
  return std::nullopt;
}

}  // namespace vfio::soft::iommu
