// The commands by which a guest of an SMMUv3 invalidates caches: those that the kernel passes on, and those
// that the hardware reads from a queue of the guest's own. A command that names an ASID applies to all
// tables of the guest, since a unit here doesn't know their ASIDs; hardware may forget more than it is asked
// to.
#include <algorithm>
#include <cerrno>
#include <vector>

#include "../../../uapi/iommufd_data.h"
#include "../../mm/memory.h"
#include "smmuv3_nested.h"

namespace vfio::soft::iommu::models {
namespace {

enum Operation : uint64_t {
  kCfgiCd = 0x05,
  kCfgiCdAll = 0x06,
  kTlbiNhAll = 0x10,
  kTlbiNhAsid = 0x11,
  kTlbiNhVa = 0x12,
  kTlbiNhVaa = 0x13,
  kTlbiNsnhAll = 0x30,
  kAtcInvalidate = 0x40,
  kSync = 0x46,
};

uint64_t operationOf(const GuestCommand& command) { return command[0] & 0xff; }
uint64_t deviceOf(const GuestCommand& command) { return command[0] >> 32; }

// The addresses of a TLBI command: one page, or with a granule (TG) a range of (NUM + 1) * 2^SCALE of these.
Range addressesOf(const GuestCommand& command) {
  const uint64_t start = command[1] & ~uint64_t{0xfff};
  const uint64_t granule = command[1] >> 10 & 3;
  unsigned shift = 12;
  uint64_t pages = 1;
  if (granule != 0) {
    shift = 10 + static_cast<unsigned>(granule) * 2;
    pages = (command[0] >> 12 & 31) + 1;
    shift += static_cast<unsigned>(command[0] >> 20 & 31);
  }
  const uint64_t size = pages << shift;
  return {start, start > UINT64_MAX - (size - 1) ? UINT64_MAX : start + (size - 1)};
}

// Runs a command that has been checked.
void run(const Guest& guest, const GuestCommand& command) {
  switch (operationOf(command)) {
    case kTlbiNsnhAll:
    case kTlbiNhAll:
    case kTlbiNhAsid:
      return guest.invalidate(kEverything);
    case kTlbiNhVa:
    case kTlbiNhVaa:
      return guest.invalidate(addressesOf(command));
    case kCfgiCd:
    case kCfgiCdAll:
      return guest.invalidateDevice(deviceOf(command));
    default:
      return;  // no device model has a TLB of its own, and all is done in order
  }
}

}  // namespace

int Smmuv3Tables::runCommands(const Guest& guest, UserArray& array) const {
  constexpr uint32_t kType = uapi::IOMMU_VIOMMU_INVALIDATE_DATA_ARM_SMMUV3;
  constexpr size_t kSize = sizeof(uapi::iommu_viommu_arm_smmuv3_invalidate);
  if (array.type != kType || array.entries == 0) return -EINVAL;
  // All commands are copied before the first is checked. A command longer than this kernel knows must end in
  // zeroes.
  std::vector<GuestCommand> commands(array.entries);
  static_assert(sizeof(GuestCommand) == kSize);
  for (uint32_t at = 0; at < array.entries; ++at) {
    const UserAddress entry = array.user + uint64_t{array.entryLength} * at;
    if (array.entryLength > kSize) {
      const int zero = mm::Memory::allZero(entry + kSize, array.entryLength - kSize);
      if (zero <= 0) return zero < 0 ? zero : -E2BIG;
    }
    const size_t known = std::min<size_t>(array.entryLength, kSize);
    if (mm::Memory::copyIn(&commands[at], entry, known) != 0) return -EFAULT;
  }
  for (const GuestCommand& command : commands) {
    switch (operationOf(command)) {
      case kTlbiNsnhAll:
      case kTlbiNhAll:
      case kTlbiNhAsid:
      case kTlbiNhVa:
      case kTlbiNhVaa:
        break;
      case kCfgiCd:
      case kCfgiCdAll:
      case kAtcInvalidate:
        if (!guest.knows(deviceOf(command))) return -EIO;
        break;
      default:
        return -EIO;
    }
    run(guest, command);
    ++array.handled;
  }
  return 0;
}

bool Smmuv3Tables::runQueued(const Guest& guest, const GuestCommand& command) const {
  const uint64_t operation = operationOf(command);
  const bool allowed =
      operation == kTlbiNhAsid || operation == kTlbiNhVa || operation == kAtcInvalidate || operation == kSync;
  if (allowed) run(guest, command);
  return allowed;
}

}  // namespace vfio::soft::iommu::models
