// First-stage tables of VT-d. The walk is the hardware's: every table is found through the parent, and a
// right must be granted by every entry on the path. Entries that were used are marked accessed, and the leaf
// of a write is marked dirty. (Marking is a load and a store here; hardware does it in one atomic step.)
#include "vtd_nested.h"

#include <algorithm>
#include <array>
#include <cerrno>

#include "../../../uapi/iommufd_data.h"

namespace vfio::soft::iommu::models {
namespace {

enum Entry : uint64_t {
  kPresent = 1 << 0,
  kWriteable = 1 << 1,
  kUser = 1 << 2,
  kAccessed = 1 << 5,
  kDirty = 1 << 6,
  kPage = 1 << 7,  // a leaf above the lowest level
  kExtendedAccessed = 1 << 10,
};
constexpr uint64_t kAddress = 0x000ffffffffff000;
constexpr unsigned kPageShift = 12;
constexpr unsigned kBits = 9;
constexpr unsigned kMostLevels = 5;
constexpr uint32_t kFourLevelWidth = 48;
constexpr uint32_t kFiveLevelWidth = 57;

class VtdNested final : public NestedTable {
 public:
  VtdNested(std::shared_ptr<Domain> itsParent, const uapi::iommu_hwpt_vtd_s1& config)
      : NestedTable(std::move(itsParent)), config_(config) {}

  [[nodiscard]] Reach reach(uint64_t iova, uint64_t limit, uint32_t access) override;
  [[nodiscard]] int suits(const Unit& unit) const override;
  [[nodiscard]] int configures(const Unit& unit) const override;
  [[nodiscard]] int runCommands(UserArray& array) override;

 private:
  const uapi::iommu_hwpt_vtd_s1 config_;
};

Translation::Reach refuse(const char* reason, bool missing) { return {.reason = reason, .missing = missing}; }

Translation::Reach VtdNested::reach(uint64_t iova, uint64_t limit, uint32_t access) {
  const unsigned unused = 64 - config_.addr_width;
  if (static_cast<uint64_t>(static_cast<int64_t>(iova << unused) >> unused) != iova) {
    return refuse("beyond the guest's address width", false);
  }
  struct Step {
    uint64_t address;
    uint64_t entry;
  };
  std::array<Step, kMostLevels> path{};
  unsigned steps = 0;
  uint64_t table = config_.pgtbl_addr & kAddress;
  unsigned level = config_.addr_width == kFiveLevelWidth ? 4 : 3;
  for (;; --level) {
    const unsigned shift = kPageShift + level * kBits;
    Step& step = path[steps++];
    step.address = table + (iova >> shift & ((1U << kBits) - 1)) * sizeof(uint64_t);
    if (!load(step.address, step.entry)) return refuse("the guest's table is not mapped", true);
    if ((step.entry & kPresent) == 0) return refuse("not mapped by the guest", true);
    // Requests have a user's privilege: a supervisor's would need a PASID, and no device asks for it.
    if ((step.entry & kUser) == 0) return refuse("the guest keeps it for its supervisor", true);
    if (access == kWrite && (step.entry & kWriteable) == 0) {
      return refuse("not writable, the guest says", true);
    }
    table = step.entry & kAddress;
    if (level == 0) break;
    if ((step.entry & kPage) == 0) continue;
    // Large pages are of 2 MiB and 1 GiB, and aligned (bit 12 is a memory type).
    const uint64_t low = ((uint64_t{1} << shift) - 1) & kAddress & ~(uint64_t{1} << kPageShift);
    if (level > 2 || (step.entry & low) != 0) return refuse("reserved bits in the guest's table", false);
    break;
  }
  const uint64_t mask = (uint64_t{1} << (kPageShift + level * kBits)) - 1;
  const uint64_t guestAddress = (table & ~mask) | (iova & mask);
  const Reach at = parent->reach(guestAddress, std::min(limit, mask - (iova & mask) + 1), access);
  if (at.size == 0) return at;

  uint64_t marks = kAccessed;
  if ((config_.flags & uapi::IOMMU_VTD_S1_EAFE) != 0) marks |= kExtendedAccessed;
  for (unsigned i = 0; i < steps; ++i) {
    if (i + 1 == steps && access == kWrite) marks |= kDirty;
    if ((path[i].entry & marks) == marks) continue;
    if (!store(path[i].address, path[i].entry | marks)) {
      return refuse("the guest's table is not writable", true);
    }
  }
  return at;
}

int VtdNested::suits(const Unit& unit) const {
  if (parent->aperture().last > unit.aperture.last) return -ENODEV;
  return parent->suits(unit);
}

int VtdNested::configures(const Unit& unit) const {
  const bool four = config_.addr_width == kFourLevelWidth;
  const FirstStage features = firstStage(unit);
  const bool five = config_.addr_width == kFiveLevelWidth && features.fiveLevels;
  if (!four && !five) return -EINVAL;
  if ((config_.flags & uapi::IOMMU_VTD_S1_SRE) != 0 && !features.supervisorRequests) return -EINVAL;
  if ((config_.flags & uapi::IOMMU_VTD_S1_EAFE) != 0 && !features.extendedAccessed) return -EINVAL;
  return 0;
}

int VtdNested::runCommands(UserArray& array) {
  constexpr uint32_t kType = uapi::IOMMU_HWPT_INVALIDATE_DATA_VTD_S1;
  if (array.type != kType) return -EINVAL;
  for (; array.handled < array.entries; ++array.handled) {
    uapi::iommu_hwpt_vtd_s1_invalidate entry = {};
    if (const int error = array.copy(kType, array.handled, &entry, sizeof(entry)); error != 0) return error;
    if ((entry.flags & ~uapi::IOMMU_VTD_INV_FLAGS_LEAF) != 0 || entry.__reserved != 0) return -EOPNOTSUPP;
    const bool whole = entry.npages == UINT64_MAX;
    if (entry.addr % (1U << kPageShift) != 0 || (whole && entry.addr != 0)) return -EINVAL;
    if (whole) {
      invalidate(kEverything);
    } else if (entry.npages != 0) {
      const uint64_t room = (UINT64_MAX - entry.addr) >> kPageShift;
      const uint64_t more = std::min(entry.npages - 1, room) << kPageShift;
      invalidate({entry.addr, entry.addr + more + ((1U << kPageShift) - 1)});
    }
  }
  return 0;
}

}  // namespace

int VtdFirstStage::makeTable(const Unit& unit, const std::shared_ptr<Domain>& parent, const UserData& data,
                             std::shared_ptr<NestedTable>& out) const {
  if (unit.nesting == nullptr || data.type != uapi::IOMMU_HWPT_DATA_VTD_S1) return -EOPNOTSUPP;
  uapi::iommu_hwpt_vtd_s1 config = {};
  if (const int error = data.copy(uapi::IOMMU_HWPT_DATA_VTD_S1, &config, sizeof(config)); error != 0) {
    return error;
  }
  out = std::make_shared<VtdNested>(parent, config);
  return 0;
}

const VtdFirstStage& vtdFirstStage() {
  static const VtdFirstStage kFormat(
      {.fiveLevels = true, .supervisorRequests = true, .extendedAccessed = true});
  return kFormat;
}

FirstStage firstStage(const Unit& unit) {
  const auto* const format = dynamic_cast<const VtdFirstStage*>(unit.nesting);
  return format != nullptr ? format->features : FirstStage{};
}

}  // namespace vfio::soft::iommu::models
