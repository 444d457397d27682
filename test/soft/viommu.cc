// Virtual IOMMUs and their objects: the rules for ids and users, the order of checks, the errors of each
// release. Linux 6.12, which the guest runs, has no virtual IOMMUs: these checks compare the host with the
// documented interface.
#include <sys/mman.h>

#include "viommu_harness.h"

namespace vfio::soft::check {
namespace {

void virtualIommus() {
  SmmuMachine machine;
  uint32_t first = 0;
  uint32_t other = 0;
  claim("a virtual IOMMU on a nest parent", 0, machine.viommu(first));
  claim("... and a second one", 0, machine.viommu(other));
  claim("the parent is in use", -EBUSY, machine.fd.destroy(machine.parent));
  uapi::iommu_viommu_alloc alloc = {};
  alloc.size = sizeof(alloc);
  alloc.type = kArm;
  alloc.dev_id = machine.id;
  alloc.hwpt_id = machine.parent;
  const auto with = [&](auto change) {
    auto changed = alloc;
    change(changed);
    return machine.fd.call(uapi::IOMMU_VIOMMU_ALLOC, changed);
  };
  claim("a flag is EOPNOTSUPP", -EOPNOTSUPP, with([](auto& a) { a.flags = 1; }));
  claim("the default type too", -EOPNOTSUPP, with([](auto& a) { a.type = 0; }));
  claim("an unknown type too, whatever the page table", -EOPNOTSUPP, with([](auto& a) {
          a.type = 9;
          a.hwpt_id = 99;
        }));
  claim("no such device is ENOENT", -ENOENT, with([](auto& a) { a.dev_id = 99; }));
  claim("no such page table is ENOENT", -ENOENT, with([](auto& a) { a.hwpt_id = 99; }));
  claim("an IOAS is none", -ENOENT, with([&](auto& a) { a.hwpt_id = machine.ioas; }));
  uint32_t plain = 0;
  claim("a table that is no nest parent", 0, machine.fd.hwpt(machine.id, machine.ioas, plain));
  claim("... is EINVAL", -EINVAL, with([&](auto& a) { a.hwpt_id = plain; }));
  claim("command queues of a unit without are EOPNOTSUPP", -EOPNOTSUPP,
        with([](auto& a) { a.type = kTegra; }));
  claim("the first goes", 0, machine.fd.destroy(first));
  claim("... and leaves its id", 0, machine.viommu(other));
  claim("... to the next", first, other);

  EduMachine vtd;
  uint32_t parent = 0;
  claim("a nest parent of VT-d", 0, vtd.fd.hwpt(vtd.device->id(), vtd.fd.ioas(), parent, 1));
  alloc.dev_id = vtd.device->id();
  alloc.hwpt_id = parent;
  claim("VT-d has no virtual IOMMUs", -EOPNOTSUPP, vtd.fd.call(uapi::IOMMU_VIOMMU_ALLOC, alloc));

  SmmuMachine old({6, 16});
  claim("6.16 asks for the page table before the type", -ENOENT, old.viommu(first, 9, 99));
  claim("... and then for the type", -EOPNOTSUPP, old.viommu(first, 9));
  alloc = {};
  alloc.size = sizeof(alloc);
  alloc.type = kArm;
  alloc.dev_id = old.id;
  alloc.hwpt_id = old.parent;
  alloc.data_len = 16;
  claim("... and knows no data: E2BIG", -E2BIG, old.fd.call(uapi::IOMMU_VIOMMU_ALLOC, alloc));
  SmmuMachine oldest({6, 12});
  claim("6.12 has none: ENOTTY", -ENOTTY, oldest.viommu(first));
}

void vdevices() {
  SmmuMachine machine;
  uint32_t viommu = 0;
  uint32_t first = 0;
  uint32_t second = 0;
  claim("virtual IOMMU", 0, machine.viommu(viommu));
  claim("a vdevice with the largest name", 0, machine.vdevice(viommu, UINT64_MAX, first));
  claim("the virtual IOMMU is in use", -EBUSY, machine.fd.destroy(viommu));
  claim("a device has one at most: EEXIST", -EEXIST, machine.vdevice(viommu, 7, second));
  claim("it goes", 0, machine.fd.destroy(first));
  claim("another name for the device", 0, machine.vdevice(viommu, 7, second));
  claim("no such virtual IOMMU", -ENOENT, machine.vdevice(99, 8, first));
  claim("no such device", -ENOENT, machine.vdevice(viommu, 8, first, 99));

  // A second device of the same unit.
  iommu::Group group = {71, {}};
  std::unique_ptr<iommu::Endpoint> endpoint;
  std::unique_ptr<iommufd::BoundDevice> device;
  machine.inside([&] {
    endpoint = std::make_unique<iommu::Endpoint>(machine.host, "0000:05:11.0", 0x588, machine.unit, group);
    const int number = static_cast<Descriptor&>(*machine.fd.file).number;
    (void)iommufd::bind(machine.host.file(number), *endpoint, device);
  });
  claim("a name that is taken: EEXIST", -EEXIST, machine.vdevice(viommu, 7, first, device->id()));
  claim("a free one", 0, machine.vdevice(viommu, 8, first, device->id()));
  machine.inside([&] { device.reset(); });
  claim("unbinding takes the vdevice along", -ENOENT, machine.fd.destroy(first));
  const uint32_t next = machine.fd.ioas();
  const uint32_t behind = machine.fd.ioas();
  claim("... and nobody gets its id", next != 0 && behind != 0 && next != first && behind != first);
  machine.inside([&] { endpoint.reset(); });

  // A device of another unit.
  iommu::Unit unit = smmu();
  machine.inside([&] {
    endpoint = std::make_unique<iommu::Endpoint>(machine.host, "0000:06:11.0", 0x688, unit, group);
    const int number = static_cast<Descriptor&>(*machine.fd.file).number;
    (void)iommufd::bind(machine.host.file(number), *endpoint, device);
  });
  claim("a device of another unit is EINVAL", -EINVAL, machine.vdevice(viommu, 9, first, device->id()));
  machine.inside([&] {
    device.reset();
    endpoint.reset();
  });

  SmmuMachine old({6, 16});
  claim("6.16: virtual IOMMU", 0, old.viommu(viommu));
  claim("... lets a device have two names", 0,
        old.vdevice(viommu, 1, first) + old.vdevice(viommu, 2, second));
  claim("... each for one only", -EEXIST, old.vdevice(viommu, 1, second));
  old.inside([&] { old.device.reset(); });
  claim("... and they outlive it", 0, old.fd.destroy(first));
}

std::string bytesOf(const SmmuMachine&, Host& host, int file, size_t size, int64_t& result) {
  std::string out(size, '\xaa');
  result = host.read(file, out.data(), size);
  return out;
}

// Here the checks report the events themselves; in smmuv3.cc, transactions behind a viommu cause them.
void eventQueues() {
  SmmuMachine machine;
  uint32_t viommu = 0;
  uint32_t queue = 0;
  uint32_t other = 0;
  int file = -1;
  int otherFile = -1;
  claim("virtual IOMMU", 0, machine.viommu(viommu));
  claim("a queue of events", 0, machine.events(viommu, 1, 2, queue, file));
  claim("one of a type: EEXIST", -EEXIST, machine.events(viommu, 1, 2, other, otherFile));
  claim("of another type it may be, of whatever type", 0, machine.events(viommu, 99, 1, other, otherFile));
  claim("depth 0 is EINVAL", -EINVAL, machine.events(viommu, 2, 0, other, otherFile));
  claim("... before the id", -EINVAL, machine.events(99, 2, 0, other, otherFile));
  constexpr uint32_t kMost = 1 << 19;
  claim("so is one of more than 524288", -EINVAL, machine.events(99, 2, kMost + 1, other, otherFile));
  claim("... which is none itself", -ENOENT, machine.events(99, 2, kMost, other, otherFile));
  claim("no such virtual IOMMU", -ENOENT, machine.events(99, 2, 1, other, otherFile));
  uapi::iommu_veventq_alloc alloc = {sizeof(alloc), 0, viommu, 0, 1, 0, 0, 0};
  claim("type 0 is EOPNOTSUPP", -EOPNOTSUPP, machine.fd.call(uapi::IOMMU_VEVENTQ_ALLOC, alloc));
  alloc.type = 3;
  alloc.__reserved = 1;
  claim("reserved too", -EOPNOTSUPP, machine.fd.call(uapi::IOMMU_VEVENTQ_ALLOC, alloc));
  claim("empty: neither readable nor writable", 0, polled(file));
  int64_t result = 0;
  (void)bytesOf(machine, machine.host, file, 64, result);
  claim("... and reads nothing", 0, result);
  (void)bytesOf(machine, machine.host, file, 7, result);
  claim("... not even a header: EINVAL", -EINVAL, result);
  char byte = 0;
  claim("writing is EINVAL", -EINVAL, machine.host.write(file, &byte, 1));
  claim("pread is ESPIPE", -ESPIPE, machine.host.pread(file, &byte, 1, 0));
  claim("open, it can't go", -EBUSY, machine.fd.destroy(queue));
  claim("nor can its virtual IOMMU", -EBUSY, machine.fd.destroy(viommu));
  claim("closed", 0, machine.host.close(file));
  claim("... it can", 0, machine.fd.destroy(queue));
  claim("... and makes room for another", 0, machine.events(viommu, 1, 2, queue, file));
  machine.host.close(file);
  machine.host.close(otherFile);
  SmmuMachine unbounded({6, 17});
  claim("6.17: virtual IOMMU", 0, unbounded.viommu(viommu));
  claim("... queues of any depth", 0, unbounded.events(viommu, 1, UINT32_MAX, queue, file));
  (void)bytesOf(unbounded, unbounded.host, file, 7, result);
  claim("... and reads of any size", 0, result);
  unbounded.host.close(file);
  SmmuMachine old({6, 14});
  claim("6.14 has no events: ENOTTY", -ENOTTY, old.events(1, 1, 1, queue, file));
}

void invalidation() {
  SmmuMachine machine;
  uint32_t viommu = 0;
  uint32_t vdevice = 0;
  claim("virtual IOMMU and device", 0, machine.viommu(viommu) + machine.vdevice(viommu, kStream, vdevice));
  struct Entry {
    uint64_t word[4];
  };
  std::vector<Entry> entries(4);
  const auto run = [&](uint32_t count, uint32_t length, uint32_t& done, uint32_t type = 1, uint32_t id = 0) {
    uapi::iommu_hwpt_invalidate invalidate = {};
    invalidate.size = sizeof(invalidate);
    invalidate.hwpt_id = id != 0 ? id : viommu;
    invalidate.data_uptr = reinterpret_cast<uint64_t>(entries.data());
    invalidate.data_type = type;
    invalidate.entry_len = length;
    invalidate.entry_num = count;
    const int result = machine.fd.call(uapi::IOMMU_HWPT_INVALIDATE, invalidate);
    done = invalidate.entry_num;
    return result;
  };
  const auto command = [&](size_t at, uint64_t operation, uint64_t stream = 0) {
    entries[at] = {{operation | stream << 32, 0, 0, 0}};
  };
  uint32_t done = 9;
  for (const uint64_t operation : {0x10, 0x11, 0x12, 0x13, 0x30}) {
    command(0, operation);
    claim("TLBI " + std::to_string(operation), 0, run(1, 32, done));
  }
  for (const uint64_t operation : {0x05, 0x06, 0x40}) {
    command(0, operation, kStream);
    claim("a command for a device: " + std::to_string(operation), 0, run(1, 32, done));
    command(0, operation, kStream + 1);
    claim("... for one that the guest hasn't got: EIO", -EIO, run(1, 32, done));
    claim("... none done", 0, done);
  }
  command(0, 0x10);
  command(1, 0x11);
  command(2, 0x46);  // SYNC, which the program must handle itself
  command(3, 0x10);
  claim("two good ones, a bad one: EIO", -EIO, run(4, 32, done));
  claim("... two done (63)", 2, done);
  entries[1].word[2] = 1;
  claim("more than this kernel knows of an entry: E2BIG", -E2BIG, run(4, 32, done));
  claim("... nothing done", 0, done);
  entries[1].word[2] = 0;
  claim("an entry of half a command is continued with zeroes: EIO for operation 0", -EIO, run(2, 8, done));
  claim("... the first was good", 1, done);
  claim("no entries: EINVAL", -EINVAL, run(0, 16, done));
  claim("another type: EINVAL", -EINVAL, run(1, 16, done, 0));
  claim("an IOAS: EINVAL", -EINVAL, run(1, 16, done, 1, machine.ioas));
  claim("nothing: ENOENT", -ENOENT, run(1, 16, done, 1, 99));
  uint32_t hwpt = 0;
  claim("a nested table", 0, machine.nested(viommu, 1 | 4 << 1, 0, hwpt));
  claim("... has no cache of its own: EOPNOTSUPP", -EOPNOTSUPP, run(1, 16, done, 1, hwpt));
}

void nestedTables() {
  SmmuMachine machine;
  uint32_t viommu = 0;
  uint32_t hwpt = 0;
  claim("virtual IOMMU", 0, machine.viommu(viommu));
  constexpr uint64_t kBypass = 1 | 4 << 1;
  claim("D5: a guest's table", 0, machine.nested(viommu, kBypass, 0, hwpt));
  claim("the virtual IOMMU is in use", -EBUSY, machine.fd.destroy(viommu));
  claim("it goes", 0, machine.fd.destroy(hwpt));
  claim("on the parent itself: EOPNOTSUPP", -EOPNOTSUPP, machine.nested(machine.parent, kBypass, 0, hwpt));
  claim("with a flag for PASIDs: EOPNOTSUPP", -EOPNOTSUPP, machine.nested(viommu, kBypass, 0, hwpt, 8));
  claim("as a nest parent: EOPNOTSUPP", -EOPNOTSUPP, machine.nested(viommu, kBypass, 0, hwpt, 1));
  claim("with no such fault queue: ENOENT", -ENOENT, machine.nested(viommu, kBypass, 0, hwpt, 4));
  struct {
    const char* name;
    uint64_t ste0, ste1;
    int expected;
  } const kEntries[] = {
      {"not valid, whatever else", ~uint64_t{1}, ~uint64_t{0}, 0},
      {"abort", 1, 0, 0},
      {"first stage", 1 | 5 << 1 | 0x1000, 0, 0},
      {"second stage", 1 | 6 << 1, 0, -EIO},
      {"both stages", 1 | 7 << 1, 0, -EIO},
      {"a bit beside the context descriptors", kBypass | uint64_t{1} << 52, 0, -EIO},
      {"a bit of the second word", kBypass, uint64_t{1} << 8, -EIO},
      {"full translation requests", kBypass, uint64_t{1} << 28, 0},
      {"split translation requests", kBypass, uint64_t{2} << 28, -EIO},
  };
  for (const auto& entry : kEntries) {
    claim(std::string("STE: ") + entry.name, entry.expected,
          machine.nested(viommu, entry.ste0, entry.ste1, hwpt));
  }
  uapi::iommu_hwpt_alloc alloc = {};
  uapi::iommu_hwpt_arm_smmuv3 data = {{kBypass, 0}};
  alloc.size = sizeof(alloc);
  alloc.dev_id = machine.id;
  alloc.pt_id = viommu;
  alloc.data_type = 1;
  alloc.data_len = sizeof(data);
  alloc.data_uptr = reinterpret_cast<uint64_t>(&data);
  claim("data of another type: EINVAL", -EINVAL, machine.fd.call(uapi::IOMMU_HWPT_ALLOC, alloc));
  alloc.data_type = 2;
  alloc.data_len = 8;
  claim("of another size: EINVAL", -EINVAL, machine.fd.call(uapi::IOMMU_HWPT_ALLOC, alloc));
  alloc.data_len = 16;
  alloc.data_uptr = 8;
  claim("nowhere: EFAULT", -EFAULT, machine.fd.call(uapi::IOMMU_HWPT_ALLOC, alloc));
  alloc.data_type = 0;
  alloc.data_len = 0;
  claim("none: EOPNOTSUPP", -EOPNOTSUPP, machine.fd.call(uapi::IOMMU_HWPT_ALLOC, alloc));
}

// Which tables a device without a vdevice can be attached to, in each release.
void attaching() {
  struct {
    KernelVersion kernel;
    int bypass, translated;
  } const kRules[] = {
      {{6, 13}, 0, 0}, {{6, 15}, -ENOENT, -ENOENT}, {{6, 18}, -ENOENT, -ENOENT}, {{6, 19}, 0, -ENOENT}};
  for (const auto& rule : kRules) {
    SmmuMachine machine(rule.kernel);
    const std::string name = std::to_string(rule.kernel.major) + "." + std::to_string(rule.kernel.minor);
    uint32_t viommu = 0;
    uint32_t bypass = 0;
    uint32_t translated = 0;
    uint32_t vdevice = 0;
    claim(name + ": two tables", 0,
          machine.viommu(viommu) + machine.nested(viommu, 1 | 4 << 1, 0, bypass) +
              machine.nested(viommu, 1 | 5 << 1, 0, translated));
    claim(name + ": bypass without a vdevice", rule.bypass, machine.attachTo(bypass));
    machine.detach();
    claim(name + ": a first stage without one", rule.translated, machine.attachTo(translated));
    machine.detach();
    claim(name + ": with one", 0, machine.vdevice(viommu, 1, vdevice) + machine.attachTo(translated));
    claim(name + ": attached, the table can't go", -EBUSY, machine.fd.destroy(translated));
    machine.detach();
  }
}

void commandQueues() {
  SmmuMachine machine(kNewestKernel, smmu(true));
  uint32_t viommu = 0;
  uint32_t first = 0;
  uint32_t second = 0;
  uint32_t other = 0;
  uapi::iommu_viommu_alloc bare = {};
  bare.size = sizeof(bare);
  bare.type = kTegra;
  bare.dev_id = machine.id;
  bare.hwpt_id = machine.parent;
  claim("command queues without data: EINVAL", -EINVAL, machine.fd.call(uapi::IOMMU_VIOMMU_ALLOC, bare));
  bare.data_len = 16;
  bare.data_uptr = 8;
  claim("with data nowhere: EFAULT", -EFAULT, machine.fd.call(uapi::IOMMU_VIOMMU_ALLOC, bare));
  claim("a virtual IOMMU with them", 0, machine.viommu(viommu, kTegra));
  claim("... says where they can be mapped", machine.interface.out_vintf_mmap_offset == 0x1000 &&
                                                 machine.interface.out_vintf_mmap_length == 0x10000);

  // The guest's memory: 16 pages at 0 of the nest parent, and two pages that are not contiguous.
  const size_t size = 16 * kPage;
  Buffer memory(2 * size);
  const uint64_t aligned = (memory.user() + size - 1) / size * size;
  claim("memory", 0, machine.fd.mapAt(machine.ioas, 0, aligned, size));
  claim("... and apart", 0,
        machine.fd.mapAt(machine.ioas, 0x100000, aligned + kPage, kPage) +
            machine.fd.mapAt(machine.ioas, 0x101000, aligned + 4 * kPage, kPage));
  claim("a queue of no length: EINVAL", -EINVAL, machine.queue(viommu, 0, 0, 0, other));
  claim("one that wraps: EOVERFLOW", -EOVERFLOW, machine.queue(viommu, 0, UINT64_MAX, 2, other));
  claim("nothing mapped: ENOENT", -ENOENT, machine.queue(viommu, 0, 0x200000, 64, other));
  claim("apart: EFAULT", -EFAULT, machine.queue(viommu, 0, 0x100000, 2 * kPage, other));
  claim("more than can be listed: ENOMEM", -ENOMEM, machine.queue(viommu, 0, 0, uint64_t{1} << 60, other));
  claim("no such index: EINVAL", -EINVAL, machine.queue(viommu, 2, 0, 64, other));
  claim("the second before the first: EIO", -EIO, machine.queue(viommu, 1, 0, 64, other));
  claim("not a power of two: EINVAL", -EINVAL, machine.queue(viommu, 0, 0, 48, other));
  claim("one command: EINVAL", -EINVAL, machine.queue(viommu, 0, 0, 16, other));
  claim("not aligned to its size: EINVAL", -EINVAL, machine.queue(viommu, 0, 32, 64, other));
  claim("no such virtual IOMMU: ENOENT", -ENOENT, machine.queue(99, 0, 0, 64, other));
  claim("the first queue", 0, machine.queue(viommu, 0, 0, 64, first));
  claim("... again: EEXIST", -EEXIST, machine.queue(viommu, 0, 0, 64, other));
  claim("the second queue", 0, machine.queue(viommu, 1, 2 * kPage, 64, second));
  claim("the first can't go before it", -EBUSY, machine.fd.destroy(first));
  claim("their memory can't be unmapped", -EBUSY, machine.fd.unmap(machine.ioas, 0, size));

  const int number = static_cast<Descriptor&>(*machine.fd.file).number;
  const auto map = [&](size_t length, int protection, int flags, uint64_t offset) {
    return machine.host.mmap(nullptr, length, protection, flags, number, offset);
  };
  constexpr int kReadWrite = PROT_READ | PROT_WRITE;
  claim("mmap: private is EINVAL", -EINVAL, map(0x10000, kReadWrite, MAP_PRIVATE, 0x1000));
  claim("mmap: executable is EPERM", -EPERM, map(0x10000, kReadWrite | PROT_EXEC, MAP_SHARED, 0x1000));
  claim("mmap: part of it is ENXIO", -ENXIO, map(0x1000, kReadWrite, MAP_SHARED, 0x1000));
  claim("mmap: from inside it is ENXIO", -ENXIO, map(0x10000, kReadWrite, MAP_SHARED, 0x2000));
  claim("mmap: what nobody handed out is ENXIO", -ENXIO, map(0x10000, kReadWrite, MAP_SHARED, 0));
  const int64_t mapped = map(0x10000, kReadWrite, MAP_SHARED, 0x1000);
  claim("mmap: the whole", mapped > 0);

  uint32_t queue = 0;
  int file = -1;
  claim("a queue of its events", 0,
        machine.events(viommu, uapi::IOMMU_VEVENTQ_TYPE_TEGRA241_CMDQV, 4, queue, file));
  const auto reg = [mapped](uint64_t offset) { return reinterpret_cast<void*>(mapped + offset); };
  const auto get = [&](uint64_t offset) {
    uint64_t value = ~uint64_t{0};
    (void)machine.host.registerRead(reg(offset), 4, value);
    return static_cast<int64_t>(value);
  };
  const auto set = [&](uint64_t offset, uint32_t value) {
    (void)machine.host.registerWrite(reg(offset), 4, value);
  };
  auto* const commands = reinterpret_cast<uint64_t*>(aligned);
  commands[0] = 0x11;  // four entries of two words
  commands[2] = 0x40;
  commands[4] = 0x05;  // a command that a guest may not use
  commands[6] = 0x46;
  set(0x04, 2);
  claim("not enabled: nothing happens", 0, get(0x00));
  set(0x08, 1);
  claim("enabled: it says so", 1, get(0x0c));
  claim("... and has done two commands", 2, get(0x00));
  set(0x04, 4);
  claim("a command that is not a guest's stops it, with a reason", 0x01000002, get(0x00));
  claim("... and is an error", 1, get(0x10));
  claim("the program learns it", POLLIN, polled(file));
  struct {
    uapi::iommufd_vevent_header header;
    uapi::iommu_vevent_tegra241_cmdqv event;
  } record = {};
  claim("a record", sizeof(record), machine.host.read(file, &record, sizeof(record)));
  claim("... of the first queue, with number 0",
        record.header.flags == 0 && record.header.sequence == 0 && record.event.lvcmdq_err_map[0] == 1);
  commands[4] = 0x46;
  set(0x14, 1);
  claim("acknowledged, it goes on, around its end", 4, get(0x00));
  claim("the second queue has registers of its own", 0, get(0x80 + 0x0c));
  claim("what is no register reads zero", 0, get(0x8000));

  machine.host.close(file);
  claim("mapped, nothing goes", -EBUSY, machine.fd.destroy(viommu));
  claim("the second queue goes", 0, machine.fd.destroy(second));
  claim("then the first", 0, machine.fd.destroy(first));
  claim("registers of no queue read zero", 0, get(0x0c));
  claim("their memory can be unmapped", 0, machine.fd.unmap(machine.ioas, 0, size));
  claim("events", 0, machine.fd.destroy(queue));
  claim("still mapped", -EBUSY, machine.fd.destroy(viommu));
  claim("unmapped", 0, machine.host.munmap(reg(0), 0x10000));
  claim("now it goes", 0, machine.fd.destroy(viommu));
  claim("... and what it handed out", -ENXIO, map(0x10000, kReadWrite, MAP_SHARED, 0x1000));

  SmmuMachine plain;
  claim("a plain virtual IOMMU has no queues: EOPNOTSUPP", -EOPNOTSUPP,
        plain.viommu(viommu) != 0 ? 0 : plain.queue(viommu, 0, 0, 64, other));
  SmmuMachine old({6, 16}, smmu(true));
  claim(
      "6.16 has no command queues", -EOPNOTSUPP, old.viommu(viommu, kArm) != 0 ? 0 : [&] {
        uapi::iommu_viommu_alloc alloc = {24, 0, kTegra, old.id, old.parent, 0, 0, 0, 0};
        return old.fd.call(uapi::IOMMU_VIOMMU_ALLOC, alloc);
      }());
  claim("... nor the command", -ENOTTY, old.queue(viommu, 0, 0, 64, other));
  const int oldNumber = static_cast<Descriptor&>(*old.fd.file).number;
  claim("... nor a mapping: ENODEV", -ENODEV,
        old.host.mmap(nullptr, 0x10000, kReadWrite, MAP_SHARED, oldNumber, 0x1000));
}

// No object is destroyed: closing the file destroys all of them.
void closing() {
  SmmuMachine machine(kNewestKernel, smmu(true));
  uint32_t viommu = 0;
  uint32_t id = 0;
  int file = -1;
  Buffer memory(2 * kPage);
  const uint64_t aligned = (memory.user() + kPage - 1) / kPage * kPage;
  claim("everything at once", 0,
        machine.viommu(viommu, kTegra) + machine.vdevice(viommu, 1, id) +
            machine.events(viommu, 1, 1, id, file) + machine.nested(viommu, 1 | 4 << 1, 0, id) +
            machine.fd.mapAt(machine.ioas, 0, aligned, kPage) + machine.queue(viommu, 0, 0, 64, id) +
            machine.attachTo(machine.parent));
  const std::weak_ptr<File> context = [&] {
    std::shared_ptr<File> found;
    machine.inside([&] { found = machine.host.file(static_cast<Descriptor&>(*machine.fd.file).number); });
    return found;
  }();
  machine.inside([&] { machine.device.reset(); });
  machine.fd.file.reset();
  claim("an event queue's file keeps the iommufd", !context.expired());
  machine.host.close(file);
  claim("the last close takes all", context.expired());
}

}  // namespace
}  // namespace vfio::soft::check

int main() {
  using namespace vfio::soft::check;
  virtualIommus();
  vdevices();
  eventQueues();
  invalidation();
  nestedTables();
  attaching();
  commandQueues();
  closing();
  return failures == 0 ? 0 : 1;
}
