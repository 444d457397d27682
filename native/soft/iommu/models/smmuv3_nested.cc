// Guests' tables of SMMUv3. The walk is the hardware's, as the Arm SMMUv3 architecture defines it, for the
// features in this unit's registers: tables of AArch64 with the 4 KiB granule, little endian, addresses of
// 48 bits, context descriptors in one or two levels. Accesses are those of an ordinary device: data, not
// privileged.
#include "smmuv3_nested.h"

#include <algorithm>
#include <cerrno>
#include <unordered_map>

#include "../../../uapi/iommufd.h"
#include "../../../uapi/iommufd_data.h"
#include "../../core/services.h"
#include "../endpoint.h"

namespace vfio::soft::iommu::models {
namespace {

constexpr uint64_t field(uint64_t word, unsigned high, unsigned low) {
  return word >> low & (~uint64_t{0} >> (63 - (high - low)));
}
constexpr uint64_t mask(unsigned high, unsigned low) { return (~uint64_t{0} >> (63 - (high - low))) << low; }
constexpr bool bit(uint64_t word, unsigned at) { return (word >> at & 1) != 0; }

// ---- the stream table entry
enum Config : uint64_t { kAbort = 0, kBypass = 4, kFirstStage = 5 };
// The fields that a guest may set: V, Config, S1Fmt, S1ContextPtr, S1CDMax; S1DSS, S1CIR, S1COR, S1CSH,
// S1STALLD, EATS.
constexpr uint64_t kGuests0 = mask(0, 0) | mask(3, 1) | mask(5, 4) | mask(51, 6) | mask(63, 59);
constexpr uint64_t kGuests1 = mask(7, 0) | mask(27, 27) | mask(29, 28);
enum WithoutSubstream : uint64_t { kTerminate = 0, kBypassStage1 = 1, kUseFirst = 2 };

// ---- events
using Event = std::array<uint64_t, 4>;  // an entry of the event queue, as hardware writes it
enum EventId : uint64_t {
  kStreamDisabled = 0x06,
  kBadSubstream = 0x08,
  kBadContext = 0x0a,
  kTranslation = 0x10,
  kAddressSize = 0x11,
  kAccess = 0x12,
  kPermission = 0x13,
};

// ---- tables
constexpr unsigned kPageShift = 12;
constexpr unsigned kBitsPerLevel = 9;
constexpr unsigned kOutputBits = 48;
constexpr uint64_t kTableAddress = mask(47, 12);

// Where a transaction leads, or why it doesn't.
struct Outcome {
  Translation::Reach reach;
  std::optional<EventId> event;  // for the guest; a fault of the second stage concerns the host
  bool recorded = true;          // the guest wants to be told of it
  bool stalls = false;           // it would wait for an answer instead
};

struct Context {
  std::array<uint64_t, 8> words;
  [[nodiscard]] bool stalls() const { return bit(words[0], 44); }
  [[nodiscard]] bool records() const { return bit(words[0], 45); }
  [[nodiscard]] bool marksAccess() const { return bit(words[0], 43); }
  [[nodiscard]] bool marksDirty() const { return bit(words[0], 42); }
  [[nodiscard]] bool ignoresAccess() const { return bit(words[0], 35); }
};

// Which devices must be known to the guest before they can be attached to one of its tables: none up to
// Linux 6.14, all from 6.15 on, and from 6.19 on those that use a first stage.
enum class Known { nobody, all, translated };

class Smmuv3Nested final : public GuestTable {
 public:
  Smmuv3Nested(const Unit& unit, std::shared_ptr<Domain> itsParent, Guest& itsGuest, Known known,
               const uapi::iommu_hwpt_arm_smmuv3& entry)
      : GuestTable(std::move(itsParent), itsGuest),
        unit_(unit),
        known_(known),
        ste_{entry.ste[0], entry.ste[1]} {}

  [[nodiscard]] Reach reach(uint64_t iova, uint64_t limit, uint32_t access) override {
    return walk(std::nullopt, iova, limit, access).reach;
  }
  [[nodiscard]] Reach reachAs(uint32_t pasid, uint64_t iova, uint64_t limit, uint32_t access) override {
    return walk(pasid, iova, limit, access).reach;
  }
  [[nodiscard]] int suits(const Unit& unit) const override { return &unit == &unit_ ? 0 : -EINVAL; }
  [[nodiscard]] int admits(const Endpoint& endpoint) override;
  void failed(const Endpoint& from, std::optional<uint32_t> pasid, uint64_t iova, uint32_t access) override;
  // Caches are invalidated through the virtual IOMMU.
  [[nodiscard]] int runCommands(UserArray&) override { return -EOPNOTSUPP; }

 private:
  [[nodiscard]] Outcome walk(std::optional<uint32_t> pasid, uint64_t iova, uint64_t limit, uint32_t access);
  [[nodiscard]] Outcome secondStage(uint64_t address, uint64_t limit, uint32_t access) const;
  [[nodiscard]] std::optional<Outcome> fetchContext(uint32_t substream, Context& context) const;
  [[nodiscard]] bool legal(const Context& context, bool upper) const;
  [[nodiscard]] Outcome firstStage(const Context& context, uint64_t iova, uint64_t limit, uint32_t access);
  [[nodiscard]] uint64_t config() const { return field(ste_[0], 3, 1); }

  const Unit& unit_;
  const Known known_;
  const std::array<uint64_t, 2> ste_;
  std::unordered_map<const Endpoint*, uint32_t> streams_;  // stream ids of devices the guest knows
};

Outcome refuse(const char* reason, std::optional<EventId> event) {
  return {.reach = {.reason = reason}, .event = event};
}

// ---------------------------------------------------------------- attaching, events

int Smmuv3Nested::admits(const Endpoint& endpoint) {
  const std::optional<uint64_t> name = guest.nameOf(endpoint);
  if (name) {
    streams_[&endpoint] = static_cast<uint32_t>(*name);
    return 0;
  }
  streams_.erase(&endpoint);
  const bool needed = known_ == Known::all || (known_ == Known::translated && config() == kFirstStage);
  return needed ? -ENOENT : 0;
}

void Smmuv3Nested::failed(const Endpoint& from, std::optional<uint32_t> pasid, uint64_t iova,
                          uint32_t access) {
  const auto stream = streams_.find(&from);
  if (stream == streams_.end()) return;
  const Outcome outcome = walk(pasid, iova, 1, access);
  if (!outcome.event || !outcome.recorded || outcome.stalls) return;
  Event event = {*outcome.event | uint64_t{stream->second} << 32, 0, 0, 0};
  const bool withSubstream = pasid && *outcome.event != kStreamDisabled;
  if (withSubstream) event[0] |= uint64_t{1} << 11 | uint64_t{*pasid} << 12;
  if (*outcome.event >= kTranslation) {
    constexpr uint64_t kClassInput = uint64_t{2} << 40;
    event[1] = kClassInput | (access == kRead ? uint64_t{1} << 35 : 0);
    event[2] = iova;
  }
  guest.report(uapi::IOMMU_VEVENTQ_TYPE_ARM_SMMUV3, event.data(), sizeof(event));
}

// ---------------------------------------------------------------- the walk

Outcome Smmuv3Nested::secondStage(uint64_t address, uint64_t limit, uint32_t access) const {
  Outcome outcome = {.reach = parent->reach(address, limit, access), .event = std::nullopt};
  outcome.reach.missing = false;  // the second stage doesn't stall
  return outcome;
}

// Nothing: `context` has been read. Else the reason why it can't be.
std::optional<Outcome> Smmuv3Nested::fetchContext(uint32_t substream, Context& context) const {
  constexpr uint64_t kSize = sizeof(context.words);
  const auto unreachable = refuse("the guest's context descriptor is not mapped", std::nullopt);
  uint64_t table = ste_[0] & mask(51, 6);
  const uint64_t format = field(ste_[0], 5, 4);
  if (field(ste_[0], 63, 59) != 0 && format != 0) {
    const unsigned leafBits = format == 1 ? 6 : 10;
    uint64_t entry = 0;
    if (!load(table + (substream >> leafBits) * sizeof(entry), entry)) return unreachable;
    if (!bit(entry, 0)) return refuse("the guest has no such PASID", kBadSubstream);
    table = entry & kTableAddress;
    substream &= (1U << leafBits) - 1;
  }
  for (size_t at = 0; at < context.words.size(); ++at) {
    if (!load(table + substream * kSize + at * sizeof(uint64_t), context.words[at])) return unreachable;
  }
  return std::nullopt;
}

// Would this unit accept the descriptor, for the upper or the lower half of the addresses?
bool Smmuv3Nested::legal(const Context& context, bool upper) const {
  const uint64_t word = context.words[0];
  if (!bit(word, 31) || !bit(word, 41)) return false;  // valid, tables of AArch64
  if (bit(word, 15)) return false;                     // big endian
  if (!bit(word, 46)) return false;  // the device is always told of a terminated transaction
  if ((context.marksAccess() || context.marksDirty()) && !unit_.tracksDirty) return false;
  if (context.marksDirty() && !context.marksAccess()) return false;
  if (context.stalls() && (unit_.pageRequests != PageRequestKind::stall || bit(ste_[1], 27))) return false;
  const bool disabled = bit(word, upper ? 30 : 14);
  if (disabled) return true;
  const uint64_t size = upper ? field(word, 21, 16) : field(word, 5, 0);
  const uint64_t granule = upper ? field(word, 23, 22) : field(word, 7, 6);
  return size >= 16 && size <= 39 && granule == (upper ? 2 : 0);
}

Outcome Smmuv3Nested::firstStage(const Context& context, uint64_t iova, uint64_t limit, uint32_t access) {
  const uint64_t word = context.words[0];
  const bool upper = bit(iova, 55);
  // When a half is disabled, its other fields are ignored: its size may have any value.
  if (bit(word, upper ? 30 : 14)) return refuse("not mapped by the guest", kTranslation);
  // The top byte is ignored if the guest says so.
  uint64_t address = iova;
  if (bit(word, upper ? 39 : 38)) {
    address = upper ? address | mask(63, 56) : address & ~mask(63, 56);
  }
  const unsigned bits = 64 - static_cast<unsigned>(upper ? field(word, 21, 16) : field(word, 5, 0));
  const uint64_t above = address >> bits;
  const bool inside = upper ? above == ~uint64_t{0} >> bits : above == 0;
  if (!inside) return refuse("not mapped by the guest", kTranslation);

  constexpr unsigned kOutputs[] = {32, 36, 40, 42, 44, 48, 48, 48};
  const unsigned outputBits = std::min(kOutputs[field(word, 34, 32)], kOutputBits);
  const bool hierarchical = !bit(context.words[upper ? 2 : 1], 1);
  uint64_t table = context.words[upper ? 2 : 1] & mask(51, 4) & ~uint64_t{63};
  unsigned level = 4 - (bits - kPageShift + kBitsPerLevel - 1) / kBitsPerLevel;
  const uint64_t input = address & (~uint64_t{0} >> (64 - bits));
  bool readOnly = false;
  bool privileged = false;
  for (;; ++level) {
    const unsigned shift = kPageShift + (3 - level) * kBitsPerLevel;
    // The first level may have fewer entries, or just one.
    const uint64_t index = input >> shift & ((uint64_t{1} << kBitsPerLevel) - 1);
    const uint64_t at = table + index * sizeof(uint64_t);
    if (at >> outputBits != 0) return refuse("the guest's table is beyond its addresses", kAddressSize);
    uint64_t entry = 0;
    if (!load(at, entry)) return refuse("the guest's table is not mapped", std::nullopt);
    if (!bit(entry, 0)) return refuse("not mapped by the guest", kTranslation);
    const bool more = bit(entry, 1);
    if (level < 3 && more) {
      if (hierarchical) {
        readOnly = readOnly || bit(entry, 62);
        privileged = privileged || bit(entry, 61);
      }
      table = entry & kTableAddress;
      continue;
    }
    // A page at the last level, a block at the two above it.
    if (level == 0 || (level == 3) != more) return refuse("not mapped by the guest", kTranslation);
    const uint64_t inside = (uint64_t{1} << shift) - 1;
    const uint64_t page = entry & kTableAddress & ~inside;
    if (page >> outputBits != 0) return refuse("beyond the guest's addresses", kAddressSize);

    uint64_t fresh = entry;
    if (!bit(entry, 10)) {
      if (context.marksAccess()) {
        fresh |= uint64_t{1} << 10;
      } else if (!context.ignoresAccess()) {
        return refuse("the guest wants to see the access", kAccess);
      }
    }
    if (privileged || !bit(entry, 6)) return refuse("the guest keeps it for its supervisor", kPermission);
    if (access == kWrite) {
      const bool canBeDirty = context.marksDirty() && bit(entry, 51);
      if (readOnly || (bit(entry, 7) && !canBeDirty))
        return refuse("not writable, the guest says", kPermission);
      fresh &= ~(uint64_t{1} << 7);
    }
    const uint64_t offset = address & inside;
    Outcome outcome = secondStage(page | offset, std::min(limit, inside - offset + 1), access);
    if (outcome.reach.size != 0 && fresh != entry && !store(at, fresh)) {
      return refuse("the guest's table is not writable", std::nullopt);
    }
    return outcome;
  }
}

Outcome Smmuv3Nested::walk(std::optional<uint32_t> pasid, uint64_t iova, uint64_t limit, uint32_t access) {
  if (config() == kBypass && !pasid) return secondStage(iova, limit, access);
  if (config() == kBypass) return refuse("the guest has no PASIDs", kBadSubstream);
  if (config() != kFirstStage) return refuse("the guest blocks it", std::nullopt);

  const uint64_t most = uint64_t{1} << field(ste_[0], 63, 59);
  if (pasid && (most == 1 || *pasid >= most)) return refuse("the guest has no such PASID", kBadSubstream);
  if (most > 1) {
    const uint64_t without = field(ste_[1], 1, 0);
    if (!pasid && without == kBypassStage1) return secondStage(iova, limit, access);
    if (!pasid && without != kUseFirst) return refuse("the guest wants a PASID", kStreamDisabled);
    if (pasid == 0U && without == kUseFirst) {
      return refuse("the guest keeps this PASID for none", kStreamDisabled);
    }
  }
  Context context = {};
  if (const auto failure = fetchContext(pasid.value_or(0), context)) return *failure;
  if (!legal(context, bit(iova, 55))) return refuse("the guest's context descriptor is wrong", kBadContext);
  Outcome outcome = firstStage(context, iova, limit, access);
  if (outcome.event) {
    outcome.recorded = context.records();
    outcome.stalls = outcome.reach.missing = context.stalls();
  }
  return outcome;
}

}  // namespace

bool Smmuv3Tables::hasGuestsOf(const Services& host, const Unit& unit, uint32_t type) const {
  if (unit.nesting == nullptr) return false;
  if (type == uapi::IOMMU_VIOMMU_TYPE_ARM_SMMUV3) return true;
  return hasCommandQueues(unit, type) && host.since(6, 17);
}

bool Smmuv3Tables::hasCommandQueues(const Unit& unit, uint32_t type) const {
  return unit.commandQueues && type == uapi::IOMMU_VIOMMU_TYPE_TEGRA241_CMDQV;
}

int Smmuv3Tables::makeTable(const Services& host, const Unit& unit, const std::shared_ptr<Domain>& parent,
                            Guest& guest, uint32_t flags, const UserData& data,
                            std::shared_ptr<NestedTable>& out) const {
  // A guest manages its PASIDs itself: no table can be made for one of them.
  if ((flags & uapi::IOMMU_HWPT_ALLOC_PASID) != 0) return -EOPNOTSUPP;
  uapi::iommu_hwpt_arm_smmuv3 entry = {};
  if (const int error = data.copy(uapi::IOMMU_HWPT_DATA_ARM_SMMUV3, &entry, sizeof(entry)); error != 0) {
    return error;
  }
  if (!bit(entry.ste[0], 0)) {
    entry = {};  // not valid: it blocks
  } else {
    if ((entry.ste[0] & ~kGuests0) != 0 || (entry.ste[1] & ~kGuests1) != 0) return -EIO;
    const uint64_t config = field(entry.ste[0], 3, 1);
    if (config != kAbort && config != kBypass && config != kFirstStage) return -EIO;
    if (field(entry.ste[1], 29, 28) > 1) return -EIO;  // translation requests of the device: none, or all
  }
  auto known = Known::nobody;
  if (host.since(6, 15)) known = Known::all;
  if (host.since(6, 19)) known = Known::translated;
  out = std::make_shared<Smmuv3Nested>(unit, parent, guest, known, entry);
  return 0;
}

const Smmuv3Tables& smmuv3Tables() {
  static const Smmuv3Tables kFormat;
  return kFormat;
}

}  // namespace vfio::soft::iommu::models
