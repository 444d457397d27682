// Dirty tracking: the calls, and the dirty bits that a device's DMA sets.
#include "machine_harness.h"

namespace vfio::soft::check {
namespace {

constexpr uint32_t kTracks = uapi::IOMMU_HWPT_ALLOC_DIRTY_TRACKING;
constexpr uint32_t kKeep = uapi::IOMMU_HWPT_GET_DIRTY_BITMAP_NO_CLEAR;

struct Tracked {
  explicit Tracked(EduMachine& itsMachine, size_t pages = 64) : machine(itsMachine), buffer(pages * kPage) {
    ioas = machine.fd.ioas();
    uint64_t small = 0;
    claim("small pages", 0, machine.fd.option(uapi::IOMMU_OPTION_HUGE_PAGES, 0, ioas, small));
    claim("map", 0, machine.fd.mapAt(ioas, kBase, buffer.user(), buffer.size()));
    claim("a table that tracks, attached",
          machine.fd.hwpt(machine.device->id(), ioas, table, kTracks) == 0 && machine.attachTo(table) == 0);
  }
  int set(uint32_t flags) { return set(flags, table); }
  int set(uint32_t flags, uint32_t id) {
    uapi::iommu_hwpt_set_dirty_tracking track = {sizeof(track), flags, id, 0xff};
    return machine.fd.call(uapi::IOMMU_HWPT_SET_DIRTY_TRACKING, track);
  }
  int get(uint64_t iova, uint64_t length, uint64_t pageSize, const void* data, uint32_t flags = 0,
          uint32_t reserved = 0, uint32_t id = 0) {
    uapi::iommu_hwpt_get_dirty_bitmap get = {sizeof(get), id != 0 ? id : table,
                                             flags,       reserved,
                                             iova,        length,
                                             pageSize,    reinterpret_cast<uint64_t>(data)};
    return machine.fd.call(uapi::IOMMU_HWPT_GET_DIRTY_BITMAP, get);
  }
  // The numbers of the dirty ones among the first 64 pages.
  std::string bits(uint64_t iova = kBase, uint32_t flags = 0, uint64_t pageSize = kPage) {
    uint64_t word = 0;
    claim("bitmap", 0, get(iova, 64 * kPage, pageSize, &word, flags));
    return list(word);
  }
  static std::string list(uint64_t word) {
    std::string text;
    for (unsigned bit = 0; bit < 64; ++bit) {
      if ((word >> bit & 1) != 0) text += std::to_string(bit) + " ";
    }
    return text;
  }

  static constexpr uint64_t kBase = 0x400000;
  EduMachine& machine;
  Buffer buffer;
  uint32_t ioas = 0;
  uint32_t table = 0;
};

void bits() {
  EduMachine machine;
  Tracked tracked(machine);
  const uint64_t base = Tracked::kBase;
  claim("a write before tracking", "", machine.store(base, 8));
  claim("on", 0, tracked.set(1));
  claim("... starts clean", "", tracked.bits());
  claim("a read", "", machine.fetch(base + kPage, 64));
  claim("a write over two pages", "", machine.store(base + 3 * kPage - 4, 8));
  claim("the written ones, kept", "2 3 ", tracked.bits(base, kKeep));
  claim("... taken", "2 3 ", tracked.bits());
  claim("... gone", "", tracked.bits());
  claim("a write", "", machine.store(base + 5 * kPage, 8));
  claim("on again", 0, tracked.set(1));
  claim("... cleans too", "", tracked.bits());
  claim("writes", machine.store(base, 8) == "" && machine.store(base + 5 * kPage, 8) == "");
  claim("bits of four pages each", "0 1 ", tracked.bits(base, kKeep, 4 * kPage));
  uint64_t word = uint64_t{1} << 63 | 1 << 3;
  claim("bits are added to the others", 0, tracked.get(base, 64 * kPage, kPage, &word, kKeep));
  claim("... ", "0 3 5 63 ", Tracked::list(word));
  word = 0;
  claim("part of the range", 0, tracked.get(base + 4 * kPage, 8 * kPage, kPage, &word));
  claim("... counts from its start", "1 ", Tracked::list(word));
  claim("... and takes only that", "0 ", tracked.bits());

  claim("a write", "", machine.store(base, 8));
  claim("off", 0, tracked.set(0));
  claim("... shows nothing, and no error", "", tracked.bits());
  claim("on", 0, tracked.set(1));
  claim("... has forgotten", "", tracked.bits());
}

void memory() {
  EduMachine machine;
  Tracked tracked(machine);
  const uint64_t base = Tracked::kBase;
  claim("on", 0, tracked.set(1));
  // A bitmap whose second half can't be written: 32768 bits fill a page.
  Buffer bitmap(2 * kPage);
  auto* const last = bitmap.bytes() + kPage - 1;
  mprotect(bitmap.bytes() + kPage, kPage, PROT_READ);
  claim("writes to pages 1 and 9",
        machine.store(base + kPage, 8) == "" && machine.store(base + 9 * kPage, 8) == "");
  claim("a bitmap that ends too early", 0, tracked.get(base, 64 * kPage, kPage, last, kKeep));
  claim("... has what there is room for", *last == 2 && bitmap.bytes()[kPage + 0] == 0);
  claim("a bad pointer is no error", 0, tracked.get(base, 64 * kPage, kPage, reinterpret_cast<void*>(8)));
  claim("... and the bits are gone", "", tracked.bits());

  // The walk ends at a hole, without an error.
  claim("map beyond a hole", 0,
        machine.fd.mapAt(tracked.ioas, base + 66 * kPage, tracked.buffer.user(), kPage));
  claim("writes around the hole",
        machine.store(base + 63 * kPage, 8) == "" && machine.store(base + 66 * kPage, 8) == "");
  uint64_t words[2] = {};
  claim("a range with a hole", 0, tracked.get(base, 128 * kPage, kPage, words, kKeep));
  claim("... shows what is before it", words[0] == uint64_t{1} << 63 && words[1] == 0);
  claim("a range that begins in one", 0, tracked.get(base + 65 * kPage, 64 * kPage, kPage, words, kKeep));
  claim("... shows nothing more", words[0] == uint64_t{1} << 63 && words[1] == 0);
  claim("unmapping takes the bits with it",
        machine.fd.unmap(tracked.ioas, base, 64 * kPage) == 0 &&
            machine.fd.mapAt(tracked.ioas, base, tracked.buffer.user(), 64 * kPage) == 0 &&
            tracked.bits().empty());
}

void refusals(KernelVersion kernel) {
  EduMachine machine(kernel);
  Tracked tracked(machine);
  const uint64_t base = Tracked::kBase;
  uint64_t word = 0;
  uint32_t plain = 0;
  claim("a table without", 0, machine.fd.hwpt(machine.device->id(), tracked.ioas, plain));
  claim("SET of it EOPNOTSUPP", -EOPNOTSUPP, tracked.set(1, plain));
  claim("SET to off either", -EOPNOTSUPP, tracked.set(0, plain));
  claim("SET, an unknown flag EOPNOTSUPP", -EOPNOTSUPP, tracked.set(2));
  claim("SET of no table ENOENT", -ENOENT, tracked.set(1, 99));
  claim("SET of an address space ENOENT", -ENOENT, tracked.set(1, tracked.ioas));
  claim("GET, an unknown flag EOPNOTSUPP", -EOPNOTSUPP, tracked.get(base, kPage, kPage, &word, 2));
  claim("GET, reserved EOPNOTSUPP", -EOPNOTSUPP, tracked.get(base, kPage, kPage, &word, 0, 1));
  claim("GET of no table ENOENT", -ENOENT, tracked.get(base, kPage, kPage, &word, 0, 0, 99));
  claim("GET of nothing EINVAL", -EINVAL, tracked.get(base, 0, kPage, &word));
  claim("GET across the end EOVERFLOW", -EOVERFLOW,
        tracked.get(UINT64_MAX - kPage + 1, 2 * kPage, kPage, &word));
  claim("GET inside a page EINVAL", -EINVAL, tracked.get(base + 1, kPage, kPage, &word));
  claim("GET to inside a page EINVAL", -EINVAL, tracked.get(base, kPage + 1, kPage, &word));
  claim("GET by no pages EINVAL", -EINVAL, tracked.get(base, kPage, 0, &word));
  claim("GET by pages larger than the range EINVAL", -EINVAL, tracked.get(base, kPage, 2 * kPage, &word));
  claim("GET of a table without: the range first EINVAL", -EINVAL,
        tracked.get(base, 0, kPage, &word, 0, 0, plain));
  claim("... then EOPNOTSUPP", -EOPNOTSUPP, tracked.get(base, kPage, kPage, &word, 0, 0, plain));
  claim("a bad bitmap", kernel < KernelVersion{6, 12} ? -ENOMEM : 0,
        tracked.get(base, kPage, kPage, reinterpret_cast<void*>(8)));

  iommu::Unit unit = fullUnit();
  unit.tracksDirty = false;
  EduMachine without(kernel, unit);
  uint32_t id = 0;
  claim("a unit without dirty bits EOPNOTSUPP", -EOPNOTSUPP,
        without.fd.hwpt(without.device->id(), without.fd.ioas(), id, kTracks));
}

}  // namespace
}  // namespace vfio::soft::check

int main() {
  using namespace vfio::soft::check;
  bits();
  memory();
  refusals({6, 11});
  refusals({6, 12});
  refusals({7, 3});
  std::printf("%d claims failed\n", failures);
  return failures == 0 ? 0 : 1;
}
