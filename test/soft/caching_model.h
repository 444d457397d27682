// A model of an IOMMU with an IOTLB that drops entries only when it is told to: another model with a cache in
// front of it. Each transaction nevertheless walks the tables, and the result is compared with the cached
// entry. So if a table or an attachment changes and the unit isn't told, the entry is found to be stale.
//
// The cache has entries for pages of 4 KiB, by endpoint, PASID and access. An entry also remembers that the
// page was marked dirty: hardware does this too, and then does not mark it a second time.
#pragma once

#include <algorithm>
#include <functional>
#include <map>
#include <optional>
#include <tuple>
#include <utility>
#include <vector>

#include "../../native/soft/iommu/domain.h"
#include "../../native/soft/iommu/endpoint.h"
#include "../../native/soft/iommu/guest_format.h"
#include "../../native/soft/iommu/model.h"

namespace vfio::soft::check {

class CachingModel final : public iommu::Model {
 public:
  using Reach = iommu::Translation::Reach;
  struct Told {
    const iommu::Endpoint* endpoint;
    std::optional<uint32_t> pasid;
    bool guestPasids;
    uint64_t start, last;
    bool operator==(const Told&) const = default;
  };

  struct Counts {
    uint64_t translated = 0;  // pages of transactions
    uint64_t hits = 0;        // ... that were cached
    uint64_t guests = 0;      // ... with a PASID of the guest
    uint64_t dirty = 0;       // ... that were marked dirty
    uint64_t swept = 0;
    uint64_t told = 0;
    uint64_t stale = 0;
    void operator+=(const Counts& more) {
      translated += more.translated, hits += more.hits, guests += more.guests, dirty += more.dirty;
      swept += more.swept, told += more.told, stale += more.stale;
    }
  };

  // `deaf`: the model ignores all invalidations.
  explicit CachingModel(const iommu::Model& inner, bool deaf = false)
      : Model(inner.name, inner.defaults), inner_(inner), deaf_(deaf) {}

  [[nodiscard]] const iommu::GuestFormat* format() const override { return inner_.format(); }
  [[nodiscard]] bool accepts(const iommu::GuestFormat& f) const override { return inner_.accepts(f); }
  [[nodiscard]] bool canHaveCommandQueues() const override { return inner_.canHaveCommandQueues(); }
  [[nodiscard]] iommu::LeafRules leaves(const Services& host) const override { return inner_.leaves(host); }

  [[nodiscard]] Reach translate(const iommu::Endpoint& from, const iommu::Attachment& by,
                                std::optional<uint32_t> pasid, uint64_t iova, uint64_t limit,
                                uint32_t access) const override {
    constexpr uint64_t kSize = 4096;
    const uint64_t page = iova / kSize;
    const Reach reach =
        Model::translate(from, by, pasid, iova, std::min(limit, kSize - iova % kSize), access);
    const Key key = {&from, pasid, page, access};
    const auto cached = cache_.find(key);
    if (cached != cache_.end()) {
      ++counts.hits;
      if (!stillTrue(cached->second, reach, iova)) ++counts.stale;
    }
    if (reach.size == 0) return reach;
    Entry& entry = cached != cache_.end() ? cached->second : cache_[key];
    entry.user = reach.user - iova % kSize;
    entry.domain = reach.domain;
    entry.iova = reach.iova - iova % kSize;
    entry.guests = pasid && from.isPlain(by);
    ++counts.translated;
    if (entry.guests) ++counts.guests;
    // The caller writes next, and so marks the page before the next transaction.
    entry.dirty = access == iommu::kWrite && reach.domain != nullptr && reach.domain->dirtyTracking();
    if (entry.dirty) ++counts.dirty;
    return reach;
  }

  void invalidate(const iommu::Invalidation& what) const override {
    ++counts.told;
    told.push_back({&what.endpoint, what.pasid, what.guestPasids, what.range.start, what.range.last});
    if (onTold) onTold();
    if (deaf_) return;
    std::erase_if(cache_, [&what](const auto& each) {
      const auto& [endpoint, pasid, page, access] = each.first;
      const bool theirs = pasid == what.pasid || (what.guestPasids && each.second.guests);
      return endpoint == &what.endpoint && theirs && page * 4096 <= what.range.last &&
             page * 4096 + 4095 >= what.range.start;
    });
  }

  // Compares all cached entries with the current tables. `left`: the endpoints that still exist.
  void sweep(const std::vector<iommu::Endpoint*>& left) const {
    for (const auto& [key, entry] : cache_) {
      const auto& [endpoint, pasid, page, access] = key;
      const bool there = std::ranges::count(left, endpoint) != 0;
      const iommu::Attachment* const by = there ? endpoint->attachment(pasid) : nullptr;
      if (by == nullptr) {
        ++counts.stale;
        continue;
      }
      const Reach reach = Model::translate(*endpoint, *by, pasid, page * 4096, 4096, access);
      if (!stillTrue(entry, reach, page * 4096)) ++counts.stale;
      ++counts.swept;
    }
  }

  [[nodiscard]] std::vector<Told> takeTold() const { return std::exchange(told, {}); }

  // Models are const, since they have no state. This one has state, so it is mutable.
  mutable Counts counts;
  mutable std::vector<Told> told;
  mutable std::function<void()> onTold;

 private:
  using Key = std::tuple<const iommu::Endpoint*, std::optional<uint32_t>, uint64_t, uint32_t>;
  struct Entry {
    uint64_t user = 0;
    iommu::Domain* domain = nullptr;
    uint64_t iova = 0;
    bool guests = false;
    bool dirty = false;
  };

  [[nodiscard]] bool stillTrue(const Entry& entry, const Reach& reach, uint64_t iova) const {
    if (reach.size == 0 || reach.user - iova % 4096 != entry.user || reach.domain != entry.domain) {
      return false;
    }
    if (!entry.dirty || !entry.domain->dirtyTracking()) return true;
    bool marked = false;
    entry.domain->collectDirty(entry.iova, 1, false, [&marked](uint64_t, uint64_t) { marked = true; });
    return marked;
  }

  const iommu::Model& inner_;
  const bool deaf_;
  mutable std::map<Key, Entry> cache_;
};

}  // namespace vfio::soft::check
