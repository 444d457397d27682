// Guests' tables of SMMUv3, walked for a device's DMA: context descriptors, first-stage tables, the bits that
// hardware sets in them, and the events that report faults to a guest.
#include <cstring>
#include <functional>

#include "viommu_harness.h"

namespace vfio::soft::check {
namespace {

// Addresses in the guest's memory, which the nest parent maps at 0.
constexpr uint64_t kContexts = 0x1000;
constexpr uint64_t kTables = 0x8000;  // one page for each table, allocated in this order
constexpr uint64_t kData = 0x40000;
constexpr uint64_t kGuestSize = 0x100000;

// Bits of descriptors.
constexpr uint64_t kTable = 3;
constexpr uint64_t kLeaf = 1;
constexpr uint64_t kLastLeaf = 3;
constexpr uint64_t kUser = 1 << 6;
constexpr uint64_t kReadOnly = 1 << 7;
constexpr uint64_t kAccessed = 1 << 10;
constexpr uint64_t kWriteMarks = uint64_t{1} << 51;
constexpr uint64_t kPageOf = kLastLeaf | kUser | kAccessed;
// Bits of a context descriptor.
constexpr uint64_t kValid = uint64_t{1} << 31;
constexpr uint64_t k64 = uint64_t{1} << 41;
constexpr uint64_t kRecords = uint64_t{1} << 45;
constexpr uint64_t kAborts = uint64_t{1} << 46;
constexpr uint64_t kStalls = uint64_t{1} << 44;
constexpr uint64_t kMarksAccess = uint64_t{1} << 43;
constexpr uint64_t kMarksDirty = uint64_t{1} << 42;
constexpr uint64_t kNoUpper = uint64_t{1} << 30;
constexpr uint64_t kNoLower = uint64_t{1} << 14;
constexpr uint64_t k48Out = uint64_t{5} << 32;
constexpr uint64_t kOrdinary = kValid | k64 | kRecords | kAborts | kNoUpper | k48Out;
constexpr uint64_t kFirstStage = 1 | 5 << 1;
// The second word of the entry: how transactions without a PASID are handled if there are PASIDs.
constexpr uint64_t kBlocked = 0;
constexpr uint64_t kBypassing = 1;
constexpr uint64_t kFirstContext = 2;

struct Record {
  uapi::iommufd_vevent_header header;
  uapi::iommu_vevent_arm_smmuv3 event;
};

// A guest with its memory, a vdevice and a queue of events.
class Guest : public SmmuMachine {
 public:
  explicit Guest(iommu::Unit itsUnit = smmu(), KernelVersion kernel = kNewestKernel)
      : SmmuMachine(kernel, std::move(itsUnit)) {
    claim("a guest's memory", 0, fd.mapAt(ioas, 0, memory.user(), kGuestSize));
    uint32_t out = 0;
    claim("... its virtual IOMMU, device and events", 0,
          viommu(vsmmu) + vdevice(vsmmu, kStream, out) + events(vsmmu, kArm, 4, queue, file));
  }
  ~Guest() { host.close(file); }

  uint64_t& word(uint64_t address) { return *reinterpret_cast<uint64_t*>(memory.bytes() + address); }
  uint64_t table() {
    const uint64_t fresh = nextTable_;
    nextTable_ += kPage;
    return fresh;
  }
  // Walks from a table to the address of a leaf. Missing tables are made.
  uint64_t place(uint64_t root, unsigned level, uint64_t iova, unsigned leaf) {
    uint64_t at = root;
    for (;; ++level) {
      const uint64_t entry = at + (iova >> (39 - 9 * level) & 511) * 8;
      if (level == leaf) return entry;
      if (word(entry) == 0) word(entry) = table() | kTable;
      at = word(entry) & 0xfffffffff000;
    }
  }
  void map(uint64_t iova, uint64_t to, uint64_t bits = kPageOf) { word(place(root, 0, iova, 3)) = to | bits; }
  // Writes the context descriptor of a PASID. By default its tables take addresses of 48 bits.
  void context(uint64_t bits = kOrdinary, uint64_t pasid = 0, uint64_t size = 16) {
    const uint64_t at = kContexts + pasid * 64;
    word(at) = bits | size;
    word(at + 8) = root;
  }
  // Attaches the device to a table with this stream table entry. The next call replaces the table.
  int enter(uint64_t ste0 = kFirstStage | kContexts, uint64_t ste1 = 0, uint32_t flags = 0) {
    uint32_t hwpt = 0;
    const int error = nested(vsmmu, ste0, ste1, hwpt, flags);
    return error != 0 ? error : attachTo(hwpt);
  }
  // Reads the guest's events, oldest first.
  std::vector<Record> told() {
    std::vector<Record> records(8);
    const int64_t got = host.read(file, records.data(), records.size() * sizeof(Record));
    records.resize(got > 0 ? static_cast<size_t>(got) / sizeof(Record) : 0);
    return records;
  }
  // Writes 8 bytes as the device, with a PASID. Returns the reason of the fault, or "".
  std::string as(uint32_t pasid, uint64_t iova) {
    inside([&] { (void)edu.endpoint->dma.write(iova, "PASID--", 8, pasid); });
    return finish();
  }
  // Claims that there is one event, of this kind and for this address.
  void claimEvent(const std::string& text, uint64_t kind, uint64_t iova, bool read, bool withAddress = true) {
    const auto records = told();
    bool good = records.size() == 1;
    if (good) {
      const auto& event = records[0].event.evt;
      good = event[0] == (kind | kStream << 32) && event[3] == 0;
      const uint64_t second = uint64_t{2} << 40 | (read ? uint64_t{1} << 35 : 0);
      good = good && (withAddress ? event[1] == second && event[2] == iova : event[1] == 0 && event[2] == 0);
    }
    claim(text, good);
    for (size_t at = 0; !good && at < records.size(); ++at) {
      const auto& event = records[at].event.evt;
      std::printf("     got %#llx %#llx %#llx %#llx\n", static_cast<unsigned long long>(event[0]),
                  static_cast<unsigned long long>(event[1]), static_cast<unsigned long long>(event[2]),
                  static_cast<unsigned long long>(event[3]));
    }
  }

  Buffer memory{kGuestSize};
  uint64_t root = kTables;
  uint32_t vsmmu = 0;
  uint32_t queue = 0;
  int file = -1;

 private:
  uint64_t nextTable_ = kTables + kPage;
};

void entries() {
  Guest guest;
  std::strcpy(guest.memory.bytes() + kData, "guest");
  claim("a bypassing table", 0, guest.enter(1 | 4 << 1));
  claim("D5: DMA goes by guest-physical addresses", "", guest.fetch(kData, 8));
  claim("... where there are some", "not mapped", guest.fetch(kGuestSize, 8));
  claim("... of which the guest isn't told: it is the host's business", guest.told().empty());
  claim("a blocking table", 0, guest.enter(1));
  claim("... blocks", "the guest blocks it", guest.fetch(kData, 8));
  claim("... silently", guest.told().empty());
  claim("one that is not valid", 0, guest.enter(0));
  claim("... blocks too", "the guest blocks it", guest.fetch(kData, 8));
}

void pages() {
  Guest guest;
  guest.context();
  guest.map(0x7000, kData);
  guest.map(0x8000, kData + 2 * kPage);
  guest.map(0x9000, kData + 3 * kPage, kPageOf | kReadOnly);
  guest.map(0xa000, kData, kLastLeaf | kAccessed);
  guest.map(0xb000, kData, kLastLeaf | kUser);
  guest.map(0xc000, uint64_t{1} << 44);
  claim("a first stage", 0, guest.enter());
  std::strcpy(guest.memory.bytes() + kData + kPage - 3, "ab");
  std::memcpy(guest.memory.bytes() + kData + 2 * kPage, "cdefg", 6);
  claim("D5: a read across two of the guest's pages", "", guest.fetch(0x8000 - 3, 8));
  claim("... and back to a third place", "", guest.store(0x8100, 8));
  claim("... has moved the bytes",
        std::memcmp(guest.memory.bytes() + kData + 2 * kPage + 0x100, "ab\0cdefg", 8) == 0);
  claim("nothing was wrong", guest.told().empty());

  claim("not mapped", "not mapped by the guest", guest.fetch(0x6000, 8));
  guest.claimEvent("... is an event: F_TRANSLATION", 0x10, 0x6000, true);
  claim("not writable", "not writable, the guest says", guest.store(0x9010, 8));
  guest.claimEvent("... is an event: F_PERMISSION", 0x13, 0x9010, false);
  claim("... but readable", "", guest.fetch(0x9010, 8));
  claim("a supervisor's page", "the guest keeps it for its supervisor", guest.fetch(0xa000, 8));
  guest.claimEvent("... F_PERMISSION too", 0x13, 0xa000, true);
  claim("a page that hasn't been accessed", "the guest wants to see the access", guest.fetch(0xb000, 8));
  guest.claimEvent("... F_ACCESS", 0x12, 0xb000, true);
  claim("the guest's memory ends", "not mapped", guest.fetch(0xc000, 8));
  claim("... of which the guest isn't told", guest.told().empty());
  // The edu has 28 address bits: for higher addresses this calls the endpoint and not the edu's registers.
  const auto read = [&guest](uint64_t iova) {
    guest.inside([&] {
      char bytes[8];
      (void)guest.edu.endpoint->dma.read(iova, bytes, 8);
    });
    return guest.finish();
  };
  claim("beyond the tables' 48 bits", "not mapped by the guest", read(uint64_t{1} << 48));
  guest.claimEvent("... F_TRANSLATION", 0x10, uint64_t{1} << 48, true);

  guest.word(guest.place(guest.root, 0, 0x40000000, 1)) = 0 | kLeaf | kUser | kAccessed;
  guest.word(guest.place(guest.root, 0, 0x200000, 2)) = 0 | kLeaf | kUser | kAccessed;
  claim("a block of 2 MiB", "", guest.fetch(0x200000 + kData, 8));
  claim("a block of 1 GiB", "", read(0x40000000 + kData));
  guest.word(guest.place(guest.root, 0, 0x8000000000, 0)) = 0 | kLeaf | kUser | kAccessed;
  claim("none of 512 GiB", "not mapped by the guest", read(0x8000000000));
  (void)guest.told();

  // Permissions for whole tables.
  uint64_t& top = guest.word(guest.place(guest.root, 0, 0x7000, 2));
  top |= uint64_t{1} << 62;
  claim("a table that can't be written", "not writable, the guest says", guest.store(0x7000, 8));
  top = (top & ~(uint64_t{1} << 62)) | uint64_t{1} << 61;
  claim("a supervisor's table", "the guest keeps it for its supervisor", guest.fetch(0x7000, 8));
  guest.word(kContexts + 8) |= 2;
  claim("... unless tables have no rights", "", guest.fetch(0x7000, 8));
}

void marks() {
  Guest guest;
  guest.context(kOrdinary | kMarksAccess | kMarksDirty);
  guest.map(0x7000, kData, kLastLeaf | kUser | kReadOnly | kWriteMarks);
  guest.map(0x8000, kData, kLastLeaf | kUser | kReadOnly);
  claim("a table that hardware marks", 0, guest.enter());
  const uint64_t at = guest.place(guest.root, 0, 0x7000, 3);
  claim("a read", "", guest.fetch(0x7000, 8));
  claim("... leaves the access flag, and the page clean",
        (guest.word(at) & kAccessed) != 0 && (guest.word(at) & kReadOnly) != 0);
  claim("a write", "", guest.store(0x7000, 8));
  claim("... makes it dirty", (guest.word(at) & kReadOnly) == 0);
  claim("what is not to become dirty can't be written", "not writable, the guest says",
        guest.store(0x8000, 8));
  // Setting these bits is a write too, and makes pages dirty in the nest parent. Without permission to write,
  // they can't be set.
  claim("tables that can't be written", 0,
        guest.fd.unmap(guest.ioas, 0, kGuestSize) |
            guest.fd.mapAt(guest.ioas, 0, guest.memory.user(), kGuestSize, kRead));
  guest.word(at) &= ~kAccessed;
  claim("... are a fault, and not the guest's", "the guest's table is not writable", guest.fetch(0x7000, 8));
}

void contexts() {
  Guest guest;
  guest.map(0x7000, kData);
  claim("a first stage", 0, guest.enter());
  struct {
    const char* name;
    uint64_t bits;
  } const kWrong[] = {
      {"not valid", kOrdinary & ~kValid},
      {"of 32-bit tables", kOrdinary & ~k64},
      {"big endian", kOrdinary | uint64_t{1} << 15},
      {"with faults that nobody sees", kOrdinary & ~kAborts},
      {"with a granule of 64 KiB", kOrdinary | 1 << 6},
      {"with stalls on a unit that doesn't", kOrdinary | kStalls},
      {"with dirty marks and no access marks", kOrdinary | kMarksDirty},
  };
  for (const auto& wrong : kWrong) {
    guest.context(wrong.bits);
    claim(std::string("a context ") + wrong.name, "the guest's context descriptor is wrong",
          guest.fetch(0x7000, 8));
    guest.claimEvent("... C_BAD_CD", 0x0a, 0, true, false);
  }
  for (const uint64_t size : {15, 40}) {
    guest.context(kOrdinary, 0, size);
    claim("a context for " + std::to_string(64 - size) + " bits", "the guest's context descriptor is wrong",
          guest.fetch(0x7000, 8));
  }
  (void)guest.told();
  guest.context(kOrdinary | kNoLower);
  claim("no lower half", "not mapped by the guest", guest.fetch(0x7000, 8));
  guest.context(kOrdinary & ~kRecords);
  claim("a fault that the guest doesn't want to hear of", "not mapped by the guest", guest.fetch(0x6000, 8));
  claim("... is one event, of the half that isn't", guest.told().size() == 1);

  // For smaller addresses the walk starts at a lower level.
  for (const uint64_t bits : {39, 30, 25}) {
    const auto start = static_cast<unsigned>(4 - (bits - 12 + 8) / 9);
    guest.root = guest.table();
    guest.word(guest.place(guest.root, start, 0x7000, 3)) = kData | kPageOf;
    guest.context(kOrdinary, 0, 64 - bits);
    claim(std::to_string(bits) + " bits", "", guest.fetch(0x7000, 8));
    claim("... and no more", "not mapped by the guest", [&] {
      guest.inside([&] { (void)guest.edu.endpoint->dma.write(uint64_t{1} << bits, "12345678", 8); });
      return guest.finish();
    }());
  }
  (void)guest.told();

  // Addresses of the upper half.
  guest.context((kOrdinary & ~kNoUpper) | kNoLower | uint64_t{25} << 16 | uint64_t{2} << 22);
  guest.root = guest.table();
  guest.word(kContexts + 16) = guest.root;
  const uint64_t high = ~uint64_t{0} << 39 | 0x7000;
  guest.word(guest.place(guest.root, 1, high, 3)) = kData | kPageOf;
  std::memset(guest.memory.bytes() + kData, 0, 8);
  guest.inside([&] { (void)guest.edu.endpoint->dma.write(high, "upper--", 8); });
  claim("an address of the upper half", "", guest.finish());
  claim("... was reached", std::strcmp(guest.memory.bytes() + kData, "upper--") == 0);
  guest.word(kContexts) |= uint64_t{1} << 39;
  guest.inside([&] { (void)guest.edu.endpoint->dma.write(high & ~(uint64_t{0x5a} << 56), "tagged-", 8); });
  claim("... with a tag in its top byte", "", guest.finish());
  claim("... too", std::strcmp(guest.memory.bytes() + kData, "tagged-") == 0);
}

void pasids() {
  Guest guest;
  constexpr uint64_t kFour = uint64_t{2} << 59;  // the number of context descriptors
  guest.map(0x7000, kData);
  guest.context();
  guest.context(kOrdinary, 3);
  claim("four contexts, the first for no PASID", 0,
        guest.enter(kFirstStage | kContexts | kFour, kFirstContext));
  claim("D5: without a PASID", "", guest.fetch(0x7000, 8));
  claim("with PASID 3", "", guest.as(3, 0x7000));
  claim("... has arrived", std::strcmp(guest.memory.bytes() + kData, "PASID--") == 0);
  claim("PASID 1 has no context", "the guest's context descriptor is wrong", guest.as(1, 0x7000));
  const auto bad = guest.told();
  claim("... C_BAD_CD with the PASID",
        bad.size() == 1 && bad[0].event.evt[0] == (0x0a | 1 << 11 | 1 << 12 | kStream << 32));
  claim("PASID 4 is beyond", "the guest has no such PASID", guest.as(4, 0x7000));
  const auto beyond = guest.told();
  claim("... C_BAD_SUBSTREAMID", beyond.size() == 1 && (beyond[0].event.evt[0] & 0xff) == 0x08);
  claim("PASID 0 is the one for none", "the guest keeps this PASID for none", guest.as(0, 0x7000));
  claim("a hole by PASID 3", "not mapped by the guest", guest.as(3, 0x6000));
  const auto hole = guest.told();
  claim("... says which", hole.size() == 2 &&
                              hole[1].event.evt[0] == (0x10 | 1 << 11 | 3 << 12 | kStream << 32) &&
                              hole[1].event.evt[2] == 0x6000);

  claim("none without a PASID", 0, guest.enter(kFirstStage | kContexts | kFour, kBlocked));
  claim("... is refused", "the guest wants a PASID", guest.fetch(0x7000, 8));
  guest.claimEvent("... F_STREAM_DISABLED", 0x06, 0, true, false);
  claim("... and PASID 0 is one", "", guest.as(0, 0x7000));
  claim("bypass without a PASID", 0, guest.enter(kFirstStage | kContexts | kFour, kBypassing));
  claim("... goes by guest-physical addresses", "", guest.fetch(kData, 8));
  claim("... with one by its context", "", guest.as(3, 0x7000));

  // Two levels: leaves of 64 contexts.
  constexpr uint64_t kTwoLevels = uint64_t{1} << 4 | uint64_t{8} << 59;
  constexpr uint64_t kTop = 0x6000;
  guest.word(kTop + 8) = kContexts | 1;
  claim("contexts in two levels", 0, guest.enter(kFirstStage | kTop | kTwoLevels, kFirstContext));
  claim("PASID 64 + 3", "", guest.as(67, 0x7000));
  (void)guest.told();
  claim("PASID 3, whose leaf isn't there", "the guest has no such PASID", guest.as(3, 0x7000));
  claim("... C_BAD_SUBSTREAMID", (guest.told().at(0).event.evt[0] & 0xff) == 0x08);
  claim("a table without PASIDs", 0, guest.enter());
  claim("... has none", "the guest has no such PASID", guest.as(1, 0x7000));
}

// A read of an event into memory where its header can be written, but not the rest.
void halfAnEvent() {
  for (const auto& [kernel, expected] : {std::pair<KernelVersion, int64_t>{{6, 17}, 8}, {{7, 1}, -EFAULT}}) {
    Guest guest(smmu(), kernel);
    guest.context();
    claim(kernel.text() + ": a first stage", 0, guest.enter());
    (void)guest.fetch(0x6000, 8);
    Buffer half(2 * kPage);
    mprotect(half.bytes() + kPage, kPage, PROT_NONE);
    claim("... half of its event", expected, guest.host.read(guest.file, half.bytes() + kPage - 8, 40));
    claim("... which is still there", 1, static_cast<int64_t>(guest.told().size()));
  }
}

// Sequence numbers, the record of lost events, partial reads.
void overflow() {
  Guest guest;
  guest.context();
  claim("a first stage", 0, guest.enter());
  const auto fault = [&guest](uint64_t iova) { (void)guest.fetch(iova, 8); };
  for (uint64_t at = 0; at < 6; ++at) fault(0x6000 + at * kPage);
  claim("readable", POLLIN, polled(guest.file));
  Record records[8] = {};
  claim("a buffer too small for one: EINVAL", -EINVAL,
        guest.host.read(guest.file, records, sizeof(Record) - 1));
  claim("into nowhere: EFAULT", -EFAULT, guest.host.read(guest.file, reinterpret_cast<void*>(8), 4096));
  claim("two of them", 2 * sizeof(Record), guest.host.read(guest.file, records, 2 * sizeof(Record) + 39));
  claim("... numbered", records[0].header.sequence == 0 && records[1].header.sequence == 1 &&
                            records[1].event.evt[2] == 0x7000);
  claim("two more, and that some were lost", 2 * sizeof(Record) + 8,
        guest.host.read(guest.file, records, sizeof(records)));
  const auto& lost = records[2].header;
  claim("... up to number 5", lost.flags == uapi::IOMMU_VEVENTQ_FLAG_LOST_EVENTS && lost.sequence == 5);
  claim("empty again", 0, polled(guest.file));

  for (uint64_t at = 0; at < 5; ++at) fault(0x6000);
  claim("one is read", sizeof(Record), guest.host.read(guest.file, records, sizeof(Record)));
  claim("... number 6", 6, records[0].header.sequence);
  fault(0x6000);
  claim("a new event takes the mark of the lost ones away", 4 * sizeof(Record),
        guest.host.read(guest.file, records, sizeof(records)));
  claim("... but the numbers show it", records[2].header.sequence == 9 && records[3].header.sequence == 11);
}

// A unit that can stall a device: it requests missing pages, and the guest gets no event.
void stalls() {
  Guest guest(smmu(false, iommu::PageRequestKind::stall));
  guest.context(kOrdinary | kStalls);
  guest.map(0x7000, kData);
  uapi::iommu_fault_alloc alloc = {sizeof(alloc), 0, 0, 0};
  claim("a fault queue", 0, guest.fd.call(uapi::IOMMU_FAULT_QUEUE_ALLOC, alloc));
  const int faults = static_cast<int>(alloc.out_fault_fd);
  uapi::iommu_hwpt_arm_smmuv3 data = {{kFirstStage | kContexts, 0}};
  uapi::iommu_hwpt_alloc hwpt = {};
  hwpt.size = sizeof(hwpt);
  hwpt.flags = uapi::IOMMU_HWPT_FAULT_ID_VALID;
  hwpt.dev_id = guest.id;
  hwpt.pt_id = guest.vsmmu;
  hwpt.data_type = uapi::IOMMU_HWPT_DATA_ARM_SMMUV3;
  hwpt.data_len = sizeof(data);
  hwpt.data_uptr = reinterpret_cast<uint64_t>(&data);
  hwpt.fault_id = alloc.out_fault_id;
  claim("C7: a first stage whose faults can be put right", 0, guest.fd.call(uapi::IOMMU_HWPT_ALLOC, hwpt));
  claim("attach", 0, guest.attachTo(hwpt.out_hwpt_id));
  std::strcpy(guest.memory.bytes() + kData + kPage, "later");
  guest.start(0x6000, EduMachine::kBuffer, 8, false);
  guest.host.settle();
  claim("the device waits", guest.busy());
  uapi::iommu_hwpt_pgfault fault = {};
  claim("the fault", sizeof(fault), guest.host.read(faults, &fault, sizeof(fault)));
  claim("... says where", fault.addr == 0x6000 && fault.perm == uapi::IOMMU_PGFAULT_PERM_READ);
  guest.map(0x6000, kData + kPage);
  uapi::iommu_hwpt_page_response response = {fault.cookie, uapi::IOMMUFD_PAGE_RESP_SUCCESS};
  claim("answered", sizeof(response), guest.host.write(faults, &response, sizeof(response)));
  claim("... it goes on", "", guest.finish());
  claim("... and has what it wanted", "", guest.store(0x7000, 8));
  claim("the bytes", std::strcmp(guest.memory.bytes() + kData, "later") == 0);
  claim("the guest was not told", guest.told().empty());
  guest.detach();
  guest.host.close(faults);
}

// Every value of each field of a context descriptor and of a stream table entry, for both halves of the
// addresses. Each must lead to a defined result, also if a field that is not used has an odd value. (A
// sanitizer finds steps of the walk that are undefined.)
void everyField() {
  Guest guest;
  guest.map(0x7000, kData);
  claim("a first stage", 0, guest.enter());
  constexpr uint64_t kHigh = ~uint64_t{0} << 48;
  constexpr uint64_t kTop = uint64_t{0xff} << 56;
  constexpr uint64_t kPlaces[] = {0,
                                  0x7000,
                                  kHigh | 0x7000,
                                  kHigh,
                                  UINT64_MAX - 7,
                                  kTop | 0x7000,
                                  kTop,
                                  uint64_t{1} << 47,
                                  uint64_t{1} << 55};
  unsigned arrived = 0;
  unsigned walks = 0;
  const auto walkAll = [&](uint64_t word) {
    guest.word(kContexts) = word;
    guest.word(kContexts + 8) = guest.root;
    guest.word(kContexts + 16) = guest.root;
    guest.inside([&] {
      for (const uint64_t place : kPlaces) {
        char bytes[8];
        arrived += guest.edu.endpoint->dma.read(place, bytes, sizeof(bytes)) ? 1 : 0;
        ++walks;
      }
    });
    (void)guest.host.takeFaults();
  };
  constexpr uint64_t kAlways = kValid | k64 | kRecords | kAborts;
  unsigned wrong = 0;
  for (uint64_t size = 0; size < 64; ++size) {
    for (uint64_t rest = 0; rest < 32; ++rest) {
      // The same for both halves: their sizes, whether they are off, whether the top byte is used.
      const bool lowOff = (rest & 1) != 0;
      const bool highOff = (rest & 2) != 0;
      const uint64_t bits = kAlways | k48Out | (lowOff ? kNoLower : 0) | (highOff ? kNoUpper : 0) |
                            (rest >> 2 & 1) << 38 | (rest >> 3 & 1) << 39 | (rest >> 4 & 1) << 23;
      const unsigned before = arrived;
      walkAll(bits | size | size << 16);
      const bool legal = size >= 16 && size <= 39;
      const bool lowGood = !lowOff && legal;
      const bool highGood = !highOff && legal && (rest >> 4 & 1) != 0;
      if (!lowGood && !highGood && arrived != before) ++wrong;
      if (size == 16 && lowGood && arrived == before) ++wrong;
    }
  }
  claim("every size of either half leads to an answer, and only legal ones to memory", wrong == 0);
  for (unsigned at = 0; at < 64; ++at) {
    for (uint64_t value = 0; value < 256; ++value) walkAll((kOrdinary | 16) ^ value << at);
  }
  for (uint64_t size = 0; size < 4096; ++size) walkAll(kAlways | k48Out | (size & 63) | (size >> 6) << 16);
  for (uint64_t output = 0; output < 8; ++output) {
    for (uint64_t size = 16; size < 40; ++size) walkAll(kAlways | kNoUpper | output << 32 | size);
  }
  std::printf("     %u walks, of which %u arrived\n", walks, arrived);

  // The stream table entry: which values are accepted, and what they lead to.
  guest.context();
  unsigned taken = 0;
  for (uint64_t first = 0; first < 1024; ++first) {
    // V, Config and S1Fmt; S1CDMax; then S1DSS.
    for (uint64_t second = 0; second < 4; ++second) {
      const uint64_t ste0 = kContexts | (first & 15) | (first >> 4 & 1) << 4 | (first >> 5) << 59;
      uint32_t hwpt = 0;
      if (guest.nested(guest.vsmmu, ste0, second, hwpt) != 0) continue;
      ++taken;
      if (guest.attachTo(hwpt) == 0) {
        guest.inside([&] {
          for (const uint64_t place : kPlaces) {
            char bytes[8];
            (void)guest.edu.endpoint->dma.read(place, bytes, sizeof(bytes));
            for (const uint32_t pasid : {0U, 1U, 31U, 32U, 1023U, 1024U, (1U << 20) - 1})
              (void)guest.edu.endpoint->dma.read(place, bytes, sizeof(bytes), pasid);
          }
        });
        (void)guest.host.takeFaults();
      }
      guest.detach();
      (void)guest.fd.destroy(hwpt);
    }
  }
  claim("every entry of a stream table that is taken can be walked by", taken > 100);
  (void)guest.told();
}

// Random tables: every entry of the guest's memory is random. Nothing but errors may happen.
void wild() {
  Guest guest;
  uint64_t state = 1;
  const auto random = [&state] {
    state ^= state << 13;
    state ^= state >> 7;
    state ^= state << 17;
    return state;
  };
  claim("a first stage", 0, guest.enter(kFirstStage | kContexts | uint64_t{4} << 59, kFirstContext));
  unsigned good = 0;
  unsigned bad = 0;
  for (int round = 0; round < 300; ++round) {
    for (uint64_t at = 0; at < kGuestSize; at += 8) guest.word(at) = random();
    for (uint64_t pasid = 0; pasid < 16; ++pasid) {
      guest.word(kContexts + pasid * 64) =
          (random() & ~uint64_t{0x80ff}) | kValid | k64 | kAborts | (16 + random() % 24);
      guest.word(kContexts + pasid * 64) &= ~kStalls;
      guest.word(kContexts + pasid * 64 + 8) = random() % kGuestSize;
    }
    for (uint64_t at = kTables; at < kGuestSize; at += 8) guest.word(at) &= 0x00080000000fffff | random() % 8;
    guest.inside([&] {
      char bytes[64];
      for (int transfer = 0; transfer < 32; ++transfer) {
        const uint64_t iova = random() >> (16 + random() % 40);
        const bool done = random() % 2 == 0
                              ? guest.edu.endpoint->dma.read(iova, bytes, 1 + random() % 64, random() % 17)
                              : guest.edu.endpoint->dma.write(iova, bytes, 1 + random() % 64);
        ++(done ? good : bad);
      }
    });
    (void)guest.finish();
    (void)guest.told();
  }
  std::printf("     %u transactions arrived, %u did not\n", good, bad);
  claim("wild tables lead to errors", bad > 1000);
}

}  // namespace
}  // namespace vfio::soft::check

int main() {
  using namespace vfio::soft::check;
  entries();
  pages();
  marks();
  contexts();
  pasids();
  halfAnEvent();
  overflow();
  stalls();
  everyField();
  wild();
  return failures == 0 ? 0 : 1;
}
