// Nested page tables: a first-stage table of a guest for VT-d. The walk translates its addresses by the
// parent.
#include "../../native/soft/iommu/models/vtd_nested.h"
#include "../../native/uapi/iommufd_data.h"
#include "machine_harness.h"

namespace vfio::soft::check {
namespace {

constexpr uint64_t kPresent = 1, kWriteable = 2, kUser = 4, kAccessed = 0x20, kDirty = 0x40, kLarge = 0x80;
constexpr uint64_t kExtended = 0x400;
constexpr uint64_t kAll = kPresent | kWriteable | kUser;
constexpr uint64_t kLargePage = 512 * kPage;

// A guest's physical memory, from address 0 on, with the tables that the guest builds in it.
class Guest {
 public:
  static constexpr uint64_t kRoot = 0x1000;
  explicit Guest(size_t size = 4 * kLargePage) : memory(size) {}
  uint64_t& word(uint64_t address) { return *reinterpret_cast<uint64_t*>(memory.bytes() + address); }
  // The entry of `level` (0: the leaves) for an address. Missing tables are made.
  uint64_t& entry(uint64_t iova, unsigned level, unsigned levels = 4) {
    uint64_t table = kRoot;
    for (unsigned at = levels - 1; at > level; --at) {
      uint64_t& next = word(table + (iova >> (12 + 9 * at) & 511) * 8);
      if (next == 0) {
        next = next_ | kAll;
        next_ += kPage;
      }
      table = next & ~uint64_t{0xfff};
    }
    return word(table + (iova >> (12 + 9 * level) & 511) * 8);
  }
  Buffer memory;

 private:
  uint64_t next_ = 0x2000;
};

int allocate(Fd& fd, uint32_t device, uint32_t parent, const uapi::iommu_hwpt_vtd_s1& config, uint32_t& id,
             uint32_t flags = 0, uint32_t faultId = 0) {
  uapi::iommu_hwpt_alloc alloc = {};
  alloc.size = sizeof(alloc);
  alloc.flags = flags;
  alloc.dev_id = device;
  alloc.pt_id = parent;
  alloc.data_type = uapi::IOMMU_HWPT_DATA_VTD_S1;
  alloc.data_len = sizeof(config);
  alloc.data_uptr = reinterpret_cast<uint64_t>(&config);
  alloc.fault_id = faultId;
  const int result = fd.call(uapi::IOMMU_HWPT_ALLOC, alloc);
  id = alloc.out_hwpt_id;
  return result;
}

constexpr uapi::iommu_hwpt_vtd_s1 kFourLevels = {0, Guest::kRoot, 48, 0};

struct Setup {
  explicit Setup(EduMachine& machine, Guest& guest, uint32_t flags = uapi::IOMMU_HWPT_ALLOC_NEST_PARENT) {
    ioas = machine.fd.ioas();
    claim("the guest's memory is mapped", 0,
          machine.fd.mapAt(ioas, 0, guest.memory.user(), guest.memory.size()));
    claim("a parent", 0, machine.fd.hwpt(machine.device->id(), ioas, parent, flags));
  }
  uint32_t ioas = 0;
  uint32_t parent = 0;
  uint32_t nested = 0;
};

void allocating() {
  EduMachine machine;
  Guest guest;
  Setup setup(machine, guest);
  Fd& fd = machine.fd;
  const uint32_t device = machine.device->id();
  uint32_t id = 0, plain = 0;
  claim("a nested table", 0, allocate(fd, device, setup.parent, kFourLevels, setup.nested));
  claim("on a parent that isn't made for it EINVAL", -EINVAL,
        fd.hwpt(device, setup.ioas, plain) == 0 ? allocate(fd, device, plain, kFourLevels, id) : -1);
  claim("on a nested table EINVAL", -EINVAL, allocate(fd, device, setup.nested, kFourLevels, id));
  claim("as a parent itself EOPNOTSUPP", -EOPNOTSUPP,
        allocate(fd, device, setup.parent, kFourLevels, id, uapi::IOMMU_HWPT_ALLOC_NEST_PARENT));
  claim("with dirty tracking EOPNOTSUPP", -EOPNOTSUPP,
        allocate(fd, device, setup.parent, kFourLevels, id, uapi::IOMMU_HWPT_ALLOC_DIRTY_TRACKING));
  claim("without data EOPNOTSUPP", -EOPNOTSUPP, fd.hwpt(device, setup.parent, id));
  claim("with a fault queue that isn't there ENOENT", -ENOENT,
        allocate(fd, device, setup.parent, kFourLevels, id, uapi::IOMMU_HWPT_FAULT_ID_VALID, 99));

  uapi::iommu_hwpt_alloc alloc = {};
  alloc.size = sizeof(alloc);
  alloc.dev_id = device;
  alloc.pt_id = setup.parent;
  alloc.data_type = uapi::IOMMU_HWPT_DATA_ARM_SMMUV3;
  alloc.data_len = 24;
  alloc.data_uptr = reinterpret_cast<uint64_t>(&kFourLevels);
  claim("another unit's format EOPNOTSUPP", -EOPNOTSUPP, fd.call(uapi::IOMMU_HWPT_ALLOC, alloc));
  alloc.data_type = uapi::IOMMU_HWPT_DATA_VTD_S1;
  for (const uint32_t length : {1u, 23u, 25u, 32u}) {
    alloc.data_len = length;
    claim("data of " + std::to_string(length) + " bytes EINVAL", -EINVAL,
          fd.call(uapi::IOMMU_HWPT_ALLOC, alloc));
  }
  alloc.data_len = 24;
  alloc.data_uptr = 8;
  claim("data at a bad pointer EFAULT", -EFAULT, fd.call(uapi::IOMMU_HWPT_ALLOC, alloc));
  alloc.data_type = uapi::IOMMU_HWPT_DATA_NONE;
  claim("data of no type EINVAL", -EINVAL, fd.call(uapi::IOMMU_HWPT_ALLOC, alloc));

  Buffer page(kPage);
  constexpr uint64_t kBehind = uint64_t{1} << 32;
  claim("a parent of VT-d takes no mapping that can't be written", -EINVAL,
        fd.mapAt(setup.ioas, kBehind, page.user(), kPage, kRead | kFixed));
  claim("... of which nothing is left", 0,
        fd.mapAt(setup.ioas, kBehind, page.user(), kPage, kWrite | kFixed));
  const uint32_t other = fd.ioas();
  claim("... nor is one made where there is such a mapping", -EINVAL,
        fd.mapAt(other, 0, page.user(), kPage, kRead | kFixed) == 0
            ? fd.hwpt(device, other, id, uapi::IOMMU_HWPT_ALLOC_NEST_PARENT)
            : -1);

  claim("the parent stays while the nested table is there", -EBUSY, fd.destroy(setup.parent));
  claim("attach", 0, machine.attachTo(setup.nested));
  claim("... and that while a device is attached", -EBUSY, fd.destroy(setup.nested));
  claim("its address space has the device's reserved window", 2, fd.ranges(setup.ioas).count);
  machine.detach();
  claim("destroy both", fd.destroy(setup.nested) == 0 && fd.destroy(setup.parent) == 0);
}

// The features that a table needs are checked when a device is attached to it.
void attaching() {
  struct Case {
    const char* name;
    uint64_t flags;
    uint32_t width;
    int result;
  };
  const auto run = [](iommu::Unit unit, const std::vector<Case>& cases) {
    EduMachine machine(kNewestKernel, std::move(unit));
    Guest guest;
    Setup setup(machine, guest);
    claim("attach to the address space", 0, machine.attachTo(setup.ioas));
    for (const Case& test : cases) {
      uint32_t id = 0;
      claim(test.name, allocate(machine.fd, machine.device->id(), setup.parent,
                                {test.flags, Guest::kRoot, test.width, 0xff}, id) == 0 &&
                           machine.attachTo(id) == test.result);
      if (test.result == 0) claim("... and back", 0, machine.attachTo(setup.ioas));
      claim("... and away", 0, machine.fd.destroy(id));
    }
  };
  run(fullUnit(), {{"39 bits EINVAL", 0, 39, -EINVAL},
                   {"no width EINVAL", 0, 0, -EINVAL},
                   {"48 bits", 0, 48, 0},
                   {"57 bits", 0, 57, 0},
                   {"supervisor requests", uapi::IOMMU_VTD_S1_SRE, 48, 0},
                   {"extended accessed flags", uapi::IOMMU_VTD_S1_EAFE, 48, 0}});
  iommu::Unit less = fullUnit();
  const iommu::models::VtdFirstStage fourLevels({});
  less.nesting = &fourLevels;
  run(less, {{"57 bits on four levels EINVAL", 0, 57, -EINVAL},
             {"supervisor requests on a unit without EINVAL", uapi::IOMMU_VTD_S1_SRE, 48, -EINVAL},
             {"extended accessed flags on a unit without EINVAL", uapi::IOMMU_VTD_S1_EAFE, 48, -EINVAL},
             {"write protection of the supervisor is nobody's business", uapi::IOMMU_VTD_S1_WPE, 48, 0}});
}

// A device that can't make page requests, and a table with a second error: which error is returned?
void requestsFirst() {
  for (const KernelVersion kernel : {KernelVersion{6, 12}, {6, 15}, {6, 16}}) {
    iommu::Unit unit = fullUnit();
    unit.pageRequests = iommu::PageRequestKind::none;
    EduMachine machine(kernel, std::move(unit));
    Guest guest;
    Setup setup(machine, guest);
    uapi::iommu_fault_alloc queue = {sizeof(queue), 0, 0, 0};
    claim(kernel.text() + ": a fault queue", 0, machine.fd.call(uapi::IOMMU_FAULT_QUEUE_ALLOC, queue));
    uint32_t id = 0;
    claim("... a nested table of no width with it", 0,
          allocate(machine.fd, machine.device->id(), setup.parent, {0, Guest::kRoot, 0, 0}, id,
                   uapi::IOMMU_HWPT_FAULT_ID_VALID, queue.out_fault_id));
    claim("... isn't attached: ENODEV", -ENODEV, machine.attachTo(id));
    machine.host.close(static_cast<int>(queue.out_fault_fd));
  }
}

void walking() {
  EduMachine machine;
  Guest guest;
  Setup setup(machine, guest);
  const uint64_t iova = 0x0abcd000;
  const uint64_t page = 0x100000;  // an address in the guest's memory
  guest.entry(iova, 0) = page | kAll;
  guest.entry(iova + kPage, 0) = (page + 7 * kPage) | kPresent | kUser;
  claim("a nested table, attached",
        allocate(machine.fd, machine.device->id(), setup.parent, kFourLevels, setup.nested) == 0 &&
            machine.attachTo(setup.nested) == 0);

  std::strcpy(guest.memory.bytes() + page + 0x10, "through two tables");
  claim("a device reads", "", machine.fetch(iova + 0x10, 19));
  claim("... which marks what it used as accessed",
        guest.entry(iova, 0) == (page | kAll | kAccessed) && (guest.entry(iova, 1) & kAccessed) != 0 &&
            (guest.entry(iova, 2) & kAccessed) != 0 && (guest.entry(iova, 3) & kAccessed) != 0);
  claim("... and nothing as dirty", guest.entry(iova, 0) & kDirty, 0);
  claim("... writes", "", machine.store(iova + 0x800, 19));
  claim("... to where the guest's table says",
        std::strcmp(guest.memory.bytes() + page + 0x800, "through two tables") == 0);
  claim("... and the page is dirty, the tables are not",
        (guest.entry(iova, 0) & kDirty) != 0 && (guest.entry(iova, 1) & kDirty) == 0);

  claim("reads a page that it can't write", "", machine.fetch(iova + kPage, 8));
  claim("and can't write it", "not writable, the guest says", machine.store(iova + kPage, 8));
  claim("... which leaves it clean", guest.entry(iova + kPage, 0) & kDirty, 0);
  claim("a page that isn't there", "not mapped by the guest", machine.fetch(iova + 2 * kPage, 8));
  guest.entry(iova + 3 * kPage, 0) = page | kPresent | kWriteable;
  claim("the supervisor's page", "the guest keeps it for its supervisor", machine.fetch(iova + 3 * kPage, 8));
  guest.entry(iova + 4 * kPage, 0) = guest.memory.size() | kAll;
  claim("a page outside the guest's memory", "not mapped", machine.fetch(iova + 4 * kPage, 8));

  // An access needs permission at every level.
  uint64_t& middle = guest.entry(iova, 1);
  middle &= ~kWriteable;
  claim("a table that grants less", "not writable, the guest says", machine.store(iova, 8));
  middle = guest.memory.size() | kAll;
  claim("a table outside the guest's memory", "the guest's table is not mapped", machine.fetch(iova, 8));
  middle = kAll | kLarge | 3 * kLargePage;
  std::strcpy(guest.memory.bytes() + 3 * kLargePage + (iova & (kLargePage - 1)), "large");
  claim("a large page", "", machine.fetch(iova, 6));
  claim("... to the right place", "", machine.store(iova + 0x20, 6));
  claim("... really",
        std::strcmp(guest.memory.bytes() + 3 * kLargePage + (iova & (kLargePage - 1)) + 0x20, "large") == 0);
  claim("... is dirty", middle == (kAll | kLarge | 3 * kLargePage | kAccessed | kDirty));
  middle |= kPage << 1;
  claim("a large page that isn't aligned", "reserved bits in the guest's table", machine.fetch(iova, 8));
  guest.entry(iova, 3) |= kLarge;
  claim("pages of 512 GiB", "reserved bits in the guest's table", machine.fetch(iova, 8));
}

void widths() {
  EduMachine machine;
  Guest guest;
  Setup setup(machine, guest);
  const uint64_t page = 0x100000;
  // The device has 28 address lines: for higher addresses this calls the endpoint itself.
  const auto read = [&machine](uint64_t iova) {
    char bytes[8] = {};
    machine.inside([&] { machine.edu.endpoint->dma.read(iova, bytes, 8); });
    return machine.finish();
  };
  uapi::iommu_hwpt_vtd_s1 config = {uapi::IOMMU_VTD_S1_EAFE, Guest::kRoot, 57, 0};
  const uint64_t high = uint64_t{0x00aa} << 48;
  guest.entry(high, 0, 5) = page | kAll;
  claim("five levels", allocate(machine.fd, machine.device->id(), setup.parent, config, setup.nested) == 0 &&
                           machine.attachTo(setup.nested) == 0);
  claim("an address of 57 bits", "", read(high));
  claim("... is marked in every level",
        (guest.entry(high, 0, 5) & (kAccessed | kExtended)) == (kAccessed | kExtended) &&
            (guest.entry(high, 4, 5) & (kAccessed | kExtended)) == (kAccessed | kExtended));
  claim("one that isn't canonical", "beyond the guest's address width", read(uint64_t{1} << 56));
  claim("... nor is this", "beyond the guest's address width", read(uint64_t{1} << 60));
  claim("the highest is, but isn't mapped", "not mapped by the guest", read(UINT64_MAX & ~uint64_t{7}));
}

// The pages that devices write, and the tables in which the walk sets bits, are dirty in the parent.
void dirtyParent() {
  EduMachine machine;
  Guest guest;
  Setup setup(machine, guest, uapi::IOMMU_HWPT_ALLOC_NEST_PARENT | uapi::IOMMU_HWPT_ALLOC_DIRTY_TRACKING);
  const uint64_t iova = 0x5000, page = 0x40000;
  guest.entry(iova, 0) = page | kAll | kAccessed | kDirty;
  for (unsigned level = 1; level < 4; ++level) guest.entry(iova, level) |= kAccessed;
  const uint64_t leaves = guest.entry(iova, 1) & ~uint64_t{0xfff};
  uint64_t pages = 0;
  claim("small pages", 0, machine.fd.destroy(setup.parent));
  claim("... are asked for", 0, machine.fd.option(uapi::IOMMU_OPTION_HUGE_PAGES, 0, setup.ioas, pages));
  claim("a parent that tracks", 0,
        machine.fd.hwpt(machine.device->id(), setup.ioas, setup.parent,
                        uapi::IOMMU_HWPT_ALLOC_NEST_PARENT | uapi::IOMMU_HWPT_ALLOC_DIRTY_TRACKING));
  claim("a nested table on it, attached",
        allocate(machine.fd, machine.device->id(), setup.parent, kFourLevels, setup.nested) == 0 &&
            machine.attachTo(setup.nested) == 0);
  uapi::iommu_hwpt_set_dirty_tracking track = {sizeof(track), 1, setup.nested, 0};
  claim("a nested table doesn't track ENOENT", -ENOENT,
        machine.fd.call(uapi::IOMMU_HWPT_SET_DIRTY_TRACKING, track));
  track.hwpt_id = setup.parent;
  claim("its parent does", 0, machine.fd.call(uapi::IOMMU_HWPT_SET_DIRTY_TRACKING, track));
  const auto dirty = [&] {
    uint64_t bits[2] = {};
    uapi::iommu_hwpt_get_dirty_bitmap get = {
        sizeof(get), setup.parent, 0, 0, 0, 128 * kPage, kPage, reinterpret_cast<uint64_t>(bits)};
    claim("bitmap", 0, machine.fd.call(uapi::IOMMU_HWPT_GET_DIRTY_BITMAP, get));
    std::string list;
    for (unsigned bit = 0; bit < 128; ++bit) {
      if ((bits[bit / 64] >> bit % 64 & 1) != 0) list += std::to_string(bit) + " ";
    }
    return list;
  };
  claim("a write through marked tables", "", machine.store(iova, 8));
  claim("... makes its page dirty", std::to_string(page / kPage) + " ", dirty());
  guest.entry(iova, 0) &= ~(kAccessed | kDirty);
  claim("one through a clean leaf", "", machine.store(iova, 8));
  claim("... the leaf's page too", std::to_string(leaves / kPage) + " " + std::to_string(page / kPage) + " ",
        dirty());
}

void invalidating(KernelVersion kernel) {
  EduMachine machine(kernel);
  Guest guest;
  Setup setup(machine, guest);
  claim("a nested table", 0,
        allocate(machine.fd, machine.device->id(), setup.parent, kFourLevels, setup.nested));
  struct Long {
    uapi::iommu_hwpt_vtd_s1_invalidate entry;
    uint64_t more;
  };
  uapi::iommu_hwpt_vtd_s1_invalidate entries[4] = {
      {0, UINT64_MAX, 0, 0}, {0x1000, 1, uapi::IOMMU_VTD_INV_FLAGS_LEAF, 0}, {0x2000, 16, 0, 0}, {}};
  uapi::iommu_hwpt_invalidate call = {};
  const auto run = [&](uint32_t id, uint32_t type, uint32_t length, uint32_t count, const void* at,
                       uint32_t reserved = 0) {
    call = {sizeof(call), id, reinterpret_cast<uint64_t>(at), type, length, count, reserved};
    return machine.fd.call(uapi::IOMMU_HWPT_INVALIDATE, call);
  };
  const auto expect = [&](const std::string& name, int result, uint32_t handled, int got) {
    claim(name, result == got && call.entry_num == handled);
    if (result != got || call.entry_num != handled) {
      std::printf("     expected %d after %u, got %d after %u\n", result, handled, got, call.entry_num);
    }
  };
  const uint32_t id = setup.nested;
  const uint32_t size = sizeof(entries[0]);
  expect("three entries", 0, 3, run(id, 0, size, 3, entries));
  expect("none is a question about the type", 0, 0, run(id, 0, 0, 0, nullptr));
  expect("... that has another answer", -EINVAL, 0, run(id, 1, 0, 0, nullptr));
  expect("reserved EOPNOTSUPP", -EOPNOTSUPP, 0, run(id, 0, size, 3, entries, 1));
  expect("no pointer EINVAL", -EINVAL, 0, run(id, 0, size, 3, nullptr));
  expect("no length EINVAL", -EINVAL, 0, run(id, 0, 0, 3, entries));
  expect("more than a page each EINVAL", -EINVAL, 0, run(id, 0, kPage + 1, 3, entries));
  expect("more than 2^19 EINVAL", -EINVAL, 0, run(id, 0, size, (1U << 19) + 1, entries));
  expect("shorter entries EINVAL", -EINVAL, 0, run(id, 0, size - 1, 3, entries));
  const Long longer[1] = {};
  expect("longer entries EINVAL", -EINVAL, 0, run(id, 0, sizeof(Long), 1, longer));
  expect("unknown id ENOENT", -ENOENT, 0, run(99, 0, size, 3, entries));
  const bool later = kernel >= KernelVersion{6, 13};
  expect("another kind of object", later ? -EINVAL : -ENOENT, 0, run(setup.parent, 0, size, 3, entries));
  entries[1].flags = 2;
  expect("an unknown flag EOPNOTSUPP, after the first", -EOPNOTSUPP, 1, run(id, 0, size, 3, entries));
  entries[1].flags = 0;
  entries[1].__reserved = 1;
  expect("a reserved word EOPNOTSUPP", -EOPNOTSUPP, 1, run(id, 0, size, 3, entries));
  entries[1].__reserved = 0;
  entries[2].addr = 0x2001;
  expect("an address inside a page EINVAL, after two", -EINVAL, 2, run(id, 0, size, 3, entries));
  entries[2] = {0x1000, UINT64_MAX, 0, 0};
  expect("everything from an address on EINVAL", -EINVAL, 2, run(id, 0, size, 3, entries));
  entries[2] = {};
  Buffer end(2 * kPage);
  mprotect(end.bytes() + kPage, kPage, PROT_NONE);
  std::memset(end.bytes(), 0, kPage);
  expect("the third at a bad pointer EFAULT", -EFAULT, 2,
         run(id, 0, size, 3, end.bytes() + kPage - 2 * size));
}

}  // namespace
}  // namespace vfio::soft::check

int main() {
  using namespace vfio::soft::check;
  allocating();
  attaching();
  requestsFirst();
  walking();
  widths();
  dirtyParent();
  invalidating({6, 12});
  invalidating({7, 3});
  std::printf("%d claims failed\n", failures);
  return failures == 0 ? 0 : 1;
}
