// See type1.h. Attaching and detaching groups.
#include "type1.h"

#include <algorithm>
#include <cerrno>

#include "../../uapi/vfio_container.h"
#include "../core/services.h"

namespace vfio::soft::type1 {

Type1::Type1(Services& host, uint64_t version)
    : host_(host),
      mostMappings_(host.parameters().type1EntryLimit),
      nesting_(version == uapi::VFIO_TYPE1_NESTING_IOMMU),
      v2_(version != uapi::VFIO_TYPE1_IOMMU) {}

Type1::~Type1() {
  while (!mappings_.empty()) remove(mappings_.begin());
  for (const Table& table : tables_) {
    for (const iommu::Group* group : table.groups) translate(*group, nullptr);
  }
  for (const iommu::Group* group : mediated_) translate(*group, nullptr);
}

// Attaches all members of the group to `by`, whether or not a driver is bound to them. If `by` is null, a
// group that has an owner is blocked: it can do no DMA.
void Type1::translate(const iommu::Group& group, const std::shared_ptr<iommu::Translation>& by) {
  for (iommu::Endpoint* member : group.members) member->attach(std::nullopt, {.translation = by});
}

uint64_t Type1::pageSizes() const {
  uint64_t sizes = UINT64_MAX;
  for (const Table& table : tables_) sizes &= table.domain->pageSizes();
  // Memory is pinned in pages of the processor's size, so a unit's smaller page sizes are of no use.
  const uint64_t below = mm::pageSize() - 1;
  return (sizes & below) != 0 ? (sizes & ~below) | mm::pageSize() : sizes;
}

uint64_t Type1::smallestPage() const { return pageSizes() & (~pageSizes() + 1); }

// Sets `ranges` to the IOVAs that can be mapped once the group is attached too. -EINVAL if a present mapping
// is outside them, or if none are left.
int Type1::fits(const iommu::Group& group, IovaRanges& ranges) {
  const iommu::Range& aperture = group.members.front()->unit.aperture;
  if (!ranges.empty()) {
    const auto [start, last] = ranges.outline();
    if (aperture.start > last || aperture.last < start) return -EINVAL;
    if (aperture.start > start && find(start, aperture.start - 1) != nullptr) return -EINVAL;
    if (aperture.last < last && find(aperture.last + 1, last) != nullptr) return -EINVAL;
  }
  if (anyReserved(group,
                  [this](const iommu::Range& range) { return find(range.start, range.last) != nullptr; })) {
    return -EINVAL;
  }
  ranges.narrow(aperture);
  return ranges.exclude(group);
}

// Maps all mappings in a new table. Mappings that only mediated devices have used until now are pinned and
// charged first.
int Type1::fill(Table& table) {
  std::vector<Mapping*> fresh;
  int error = 0;
  for (auto& [iova, mapping] : mappings_) {
    if (!mapping.pinned) {
      error = pin(mapping);
      if (error != 0) break;
      fresh.push_back(&mapping);
    }
    error = table.domain->map(iova, mapping.user, mapping.size, mapping.access, false);
    if (error != 0) break;
  }
  if (error != 0) {
    for (Mapping* mapping : fresh) unpin(*mapping);
  }
  return error;
}

int Type1::attach(iommu::Group& group) {
  if (addressesGone_ != 0) return -EBUSY;
  if (group.by == iommu::Confinement::driver) {
    mediated_.push_back(&group);
    translate(group, lookup_);
    return 0;
  }
  const auto suitAll = [&group](const iommu::Domain& domain) {
    return std::ranges::all_of(
        group.members, [&domain](const iommu::Endpoint* member) { return domain.suits(member->unit) == 0; });
  };
  const iommu::Unit& unit = group.members.front()->unit;
  Table own = {&unit.model, false, std::make_shared<iommu::Domain>(host_, unit), {}};
  if (nesting_ && !unit.model.nestsInContainers()) return -EINVAL;
  if (!suitAll(*own.domain)) return -EINVAL;
  IovaRanges ranges = ranges_;
  if (const int error = fits(group, ranges)) return error;
  const auto isolated = [](const iommu::Endpoint* member) { return member->unit.isolatesInterrupts; };
  if (!host_.parameters().type1UnsafeInterrupts && !std::ranges::all_of(group.members, isolated)) {
    return -EPERM;
  }
  own.enforcesCoherency = own.domain->enforceCoherency();

  auto table = std::ranges::find_if(tables_, [&](const Table& each) {
    return each.model == own.model && each.enforcesCoherency == own.enforcesCoherency &&
           suitAll(*each.domain);
  });
  if (table == tables_.end()) {
    if (const int error = fill(own)) return error;
    tables_.push_front(std::move(own));
    table = tables_.begin();
  }
  table->groups.push_back(&group);
  translate(group, table->domain);
  ranges_ = std::move(ranges);
  return 0;
}

void Type1::detach(iommu::Group& group) {
  if (std::erase(mediated_, &group) != 0) {
    translate(group, nullptr);
    while (mediated_.empty() && tables_.empty() && !mappings_.empty()) remove(mappings_.begin());
    return;
  }
  const auto table = std::ranges::find_if(
      tables_, [&group](const Table& each) { return std::ranges::count(each.groups, &group) != 0; });
  if (table == tables_.end()) return;
  translate(group, nullptr);
  std::erase(table->groups, &group);
  if (table->groups.empty()) {
    if (tables_.size() == 1) {
      while (mediated_.empty() && !mappings_.empty()) remove(mappings_.begin());
      for (auto& [iova, mapping] : mappings_) unpin(mapping);
    }
    tables_.erase(table);
  }
  // IOVAs that only this group could not reach, or that only it reserved, can be mapped again.
  IovaRanges ranges;
  for (const Table& each : tables_) ranges.narrow(each.domain->aperture());
  for (const Table& each : tables_) {
    for (const iommu::Group* left : each.groups) (void)ranges.exclude(*left);
  }
  ranges_ = std::move(ranges);
}

}  // namespace vfio::soft::type1
