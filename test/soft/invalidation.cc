// Which translations units are told to forget, and when: at each change of a page table or an attachment,
// with its range.
#include "caching_machine.h"

namespace vfio::soft::check {
namespace {

using Told = CachingModel::Told;
constexpr auto kNone = std::nullopt;

void claimTold(const std::string& text, const CachingModel& model, const std::vector<Told>& expected) {
  const std::vector<Told> told = model.takeTold();
  claim(text, told == expected);
  if (told == expected) return;
  for (const Told& each : told) {
    std::printf("     told %s%d %d %#llx-%#llx\n", each.pasid ? "" : "no PASID ",
                static_cast<int>(each.pasid.value_or(0)), each.guestPasids ? 1 : 0,
                static_cast<unsigned long long>(each.start), static_cast<unsigned long long>(each.last));
  }
}

// The edu behind VT-d, with memory to map.
struct Vtd {
  CachingModel model{iommu::models::vtd()};
  EduMachine machine{kNewestKernel, cachingVtd(model)};
  Fd& fd = machine.fd;
  Buffer memory{64 * kPage};
  const iommu::Endpoint* edu = machine.edu.endpoint.get();

  [[nodiscard]] Told all(std::optional<uint32_t> pasid = kNone) const {
    return {edu, pasid, false, 0, UINT64_MAX};
  }
  [[nodiscard]] Told of(uint64_t iova, uint64_t size, std::optional<uint32_t> pasid = kNone) const {
    return {edu, pasid, false, iova, iova + (size - 1)};
  }
  uint32_t hwpt(uint32_t ioas, uint32_t flags) {
    uint32_t id = 0;
    claim("a page table", 0, fd.hwpt(machine.device->id(), ioas, id, flags));
    return id;
  }
};

void unmapping() {
  Vtd vtd;
  const uint32_t ioas = vtd.fd.ioas();
  const uint64_t user = vtd.memory.user();
  claim("map two areas", 0,
        vtd.fd.mapAt(ioas, 0x10000, user, 3 * kPage) + vtd.fd.mapAt(ioas, 0x20000, user, kPage));
  claimTold("an address space without a device tells nobody", vtd.model, {});
  claim("attach", 0, vtd.machine.attachTo(ioas));
  claimTold("the first attachment takes nothing away", vtd.model, {});
  claim("map another", 0, vtd.fd.mapAt(ioas, 0x30000, user, kPage));
  claimTold("nor does a map", vtd.model, {});

  unsigned pins = 0;
  vtd.model.onTold = [&] { pins = vtd.machine.host.memory().pins(user + 2 * kPage); };
  claim("unmap one", 0, vtd.fd.unmap(ioas, 0x10000, 3 * kPage));
  claimTold("... tells its range", vtd.model, {vtd.of(0x10000, 3 * kPage)});
  claim("... while its memory is still pinned", 1, static_cast<int64_t>(pins));
  vtd.model.onTold = nullptr;
  claim("unmap the other two in one call", 0, vtd.fd.unmap(ioas, 0, 0x40000));
  claimTold("... tells each range", vtd.model, {vtd.of(0x20000, kPage), vtd.of(0x30000, kPage)});
  claim("unmap what isn't mapped", -ENOENT, vtd.fd.unmap(ioas, 0x10001, kPage));
  claimTold("... tells nothing", vtd.model, {});
}

void attaching() {
  Vtd vtd;
  const uint32_t first = vtd.hwpt(vtd.fd.ioas(), kPasidFlag);
  const uint32_t ioas = vtd.fd.ioas();
  const uint32_t second = vtd.hwpt(ioas, kPasidFlag);
  claim("attach, without a PASID and with two", 0,
        vtd.machine.attachTo(first) + vtd.machine.attachTo(second, 5) + vtd.machine.attachTo(second, 6));
  claimTold("... tells nothing", vtd.model, {});
  claim("replace", 0, vtd.machine.attachTo(second));
  claimTold("... tells everything", vtd.model, {vtd.all()});
  claim("replace with the same", 0, vtd.machine.attachTo(second));
  claimTold("... nothing", vtd.model, {});
  claim("replace that of a PASID", 0, vtd.machine.attachTo(first, 5));
  claimTold("... everything of the PASID", vtd.model, {vtd.all(5)});
  claim("map", 0, vtd.fd.mapAt(ioas, 0, vtd.memory.user(), kPage));
  claim("unmap", 0, vtd.fd.unmap(ioas, 0, kPage));
  claimTold("an unmap tells all who have the table", vtd.model, {vtd.of(0, kPage, 6), vtd.of(0, kPage)});
  vtd.machine.detach(6);
  claimTold("a PASID detached: everything of it", vtd.model, {vtd.all(6)});
  vtd.machine.detach(6);
  claimTold("... again: nothing", vtd.model, {});
  vtd.machine.detach();
  claimTold("detached: everything", vtd.model, {vtd.all()});
  vtd.machine.inside([&] { vtd.machine.device.reset(); });
  claimTold("closed: everything of what was left", vtd.model, {vtd.all(5)});
}

void members() {
  Vtd vtd;
  EduMachine& machine = vtd.machine;
  const uint32_t ioas = vtd.fd.ioas();
  claim("attach", 0, machine.attachTo(ioas));
  std::unique_ptr<iommu::Endpoint> other;
  machine.inside([&] {
    other =
        std::make_unique<iommu::Endpoint>(machine.host, "0000:05:11.0", 0x588, machine.unit, machine.group);
  });
  claim("map and unmap", 0, vtd.fd.mapAt(ioas, 0, vtd.memory.user(), kPage) + vtd.fd.unmap(ioas, 0, kPage));
  claimTold("a device that joined the group is told too", vtd.model,
            {vtd.of(0, kPage), {other.get(), kNone, false, 0, kPage - 1}});
  const iommu::Endpoint* const gone = other.get();
  machine.inside([&] { other.reset(); });
  claimTold("one that goes: everything", vtd.model, {{gone, kNone, false, 0, UINT64_MAX}});
  claim("map and unmap again", 0,
        vtd.fd.mapAt(ioas, 0, vtd.memory.user(), kPage) + vtd.fd.unmap(ioas, 0, kPage));
  claimTold("... and it is told no more", vtd.model, {vtd.of(0, kPage)});
}

void dirtyBits() {
  Vtd vtd;
  const uint32_t ioas = vtd.fd.ioas();
  const uint32_t hwpt = vtd.hwpt(ioas, kTracksFlag);
  claim("map and attach", 0,
        vtd.fd.mapAt(ioas, 0, vtd.memory.user(), 16 * kPage) + vtd.machine.attachTo(hwpt));
  claim("tracking off, as it is", 0, track(vtd.fd, hwpt, false));
  claimTold("... tells nothing", vtd.model, {});
  const iommu::Range aperture = vtd.machine.unit.aperture;
  const Told whole = {vtd.edu, kNone, false, aperture.start, aperture.last};
  claim("on", 0, track(vtd.fd, hwpt, true));
  claimTold("... tells the whole table", vtd.model, {whole});
  claim("on again, which clears", 0, track(vtd.fd, hwpt, true));
  claimTold("... too", vtd.model, {whole});
  claim("a bitmap without dirty pages", 0, takeBitmap(vtd.fd, hwpt, 0, 16 * kPage, true));
  claimTold("... tells nothing", vtd.model, {});
  claim("the device writes two pages", std::string(),
        vtd.machine.store(3 * kPage, 8) + vtd.machine.store(7 * kPage, 8));
  claim("a bitmap that clears nothing", 0, takeBitmap(vtd.fd, hwpt, 0, 16 * kPage, false));
  claimTold("... tells nothing", vtd.model, {});
  claim("one that clears", 0, takeBitmap(vtd.fd, hwpt, 0, 16 * kPage, true));
  claimTold("... tells from the first dirty page to the last", vtd.model, {vtd.of(3 * kPage, 5 * kPage)});
  claim("off", 0, track(vtd.fd, hwpt, false));
  claimTold("... tells the whole table", vtd.model, {whole});
}

void vtdGuest() {
  Vtd vtd;
  const uint32_t ioas = vtd.fd.ioas();
  claim("the guest's memory", 0, vtd.fd.mapAt(ioas, 0, vtd.memory.user(), 8 * kPage));
  const uint32_t parent = vtd.hwpt(ioas, kParentFlag | kPasidFlag);
  uint32_t nested = 0;
  claim("its table", 0, vtdTable(vtd.fd, vtd.machine.device->id(), parent, 0x1000, nested));
  claim("attach", 0, vtd.machine.attachTo(nested) + vtd.machine.attachTo(nested, 9));
  claimTold("... tells nothing", vtd.model, {});
  claim("a page", 0, vtdInvalidate(vtd.fd, nested, 0x5000, 1));
  claimTold("... is that page, with each PASID", vtd.model,
            {vtd.of(0x5000, kPage), vtd.of(0x5000, kPage, 9)});
  claim("no page", 0, vtdInvalidate(vtd.fd, nested, 0x5000, 0));
  claimTold("... is nothing", vtd.model, {});
  claim("pages to beyond the end", 0, vtdInvalidate(vtd.fd, nested, UINT64_MAX << 12, 7));
  claimTold("... are those up to it", vtd.model,
            {vtd.of(UINT64_MAX << 12, kPage), vtd.of(UINT64_MAX << 12, kPage, 9)});
  claim("all", 0, vtdInvalidate(vtd.fd, nested, 0, UINT64_MAX));
  claimTold("... is everything", vtd.model, {vtd.all(), vtd.all(9)});
  claim("a bad address", -EINVAL, vtdInvalidate(vtd.fd, nested, 1, 1));
  claimTold("... is nothing", vtd.model, {});
  claim("unmap in the parent", 0, vtd.fd.unmap(ioas, 0, 8 * kPage));
  claimTold("... is everything of the table on it", vtd.model, {vtd.all(), vtd.all(9)});
  vtd.machine.detach(9);
  vtd.machine.detach();
  claimTold("detach tells everything", vtd.model, {vtd.all(9), vtd.all()});
  claim("the table goes; map and unmap", 0,
        vtd.fd.destroy(nested) + vtd.fd.mapAt(ioas, 0, vtd.memory.user(), kPage) +
            vtd.fd.unmap(ioas, 0, kPage));
  claimTold("... tells nobody", vtd.model, {});
}

void smmuGuest() {
  CachingModel model(iommu::models::smmuv3());
  SmmuMachine machine(kNewestKernel, iommu::makeUnit({.model = &model, .commandQueues = true}));
  Fd& fd = machine.fd;
  const iommu::Endpoint* const edu = machine.edu.endpoint.get();
  const auto of = [edu](uint64_t start, uint64_t last) { return Told{edu, kNone, true, start, last}; };
  const Told all = of(0, UINT64_MAX);
  Buffer memory(4 * kPage);
  uint32_t viommu = 0;
  uint32_t out = 0;
  uint32_t nested = 0;
  claim("a guest", 0,
        fd.mapAt(machine.ioas, 0, memory.user(), 4 * kPage) + machine.viommu(viommu, kTegra) +
            machine.vdevice(viommu, kStream, out));
  claim("its table, attached", 0,
        machine.nested(viommu, 1 | 5 << 1 | 0x1000, 0, nested) + machine.attachTo(nested));
  claimTold("... tells nothing", model, {});
  struct Case {
    const char* name;
    uint64_t word0, word1;
    std::vector<Told> told;
  };
  const Case kCases[] = {
      {"TLBI_NSNH_ALL: everything", 0x30, 0, {all}},
      {"TLBI_NH_ALL: everything", 0x10, 0, {all}},
      {"TLBI_NH_ASID: everything, whatever the ASID", 0x11 | uint64_t{7} << 48, 0, {all}},
      {"TLBI_NH_VA: a page", 0x12, 0x7000 | 1, {of(0x7000, 0x7fff)}},
      {"TLBI_NH_VAA: a page", 0x13, 0x8000, {of(0x8000, 0x8fff)}},
      {"a range of 3 * 2^1 pages of 4 KiB",
       0x12 | 2 << 12 | 1 << 20,
       0x10000 | 1 << 10,
       {of(0x10000, 0x15fff)}},
      {"... of 64 KiB", 0x12 | 2 << 12 | 1 << 20, 0x10000 | 3 << 10, {of(0x10000, 0x6ffff)}},
      {"... to beyond the end",
       0x12 | 1 << 12,
       ~uint64_t{0xfff} | 1 << 10,
       {of(~uint64_t{0xfff}, UINT64_MAX)}},
      {"CFGI_CD: everything of the device", 0x05 | kStream << 32, 0, {all}},
      {"CFGI_CD_ALL: too", 0x06 | kStream << 32, 0, {all}},
      {"ATC_INV: nothing, no device has a TLB", 0x40 | kStream << 32, 0, {}}};
  for (const Case& test : kCases) {
    claim(test.name, 0, smmuInvalidate(fd, viommu, test.word0, test.word1));
    claimTold("... is told", model, test.told);
  }
  claim("CFGI_CD of a device that the guest doesn't have", -EIO,
        smmuInvalidate(fd, viommu, 0x05 | (kStream + 1) << 32, 0));
  claimTold("... tells nothing", model, {});

  // The same through a command queue of the guest: two valid commands, then one that a guest may not use.
  const uint64_t commands[] = {0x12, 0x3000, 0x46, 0, 0x30, 0};
  std::memcpy(memory.bytes(), commands, sizeof(commands));
  claim("a queue", 0, machine.queue(viommu, 0, 0, 64, out));
  const int number = static_cast<Descriptor&>(*fd.file).number;
  const int64_t mapped = machine.host.mmap(nullptr, 0x10000, PROT_READ | PROT_WRITE, MAP_SHARED, number,
                                           machine.interface.out_vintf_mmap_offset);
  claim("its registers", mapped > 0);
  const auto put = [&](uint64_t offset, uint64_t value) {
    (void)machine.host.registerWrite(reinterpret_cast<void*>(mapped + offset), 4, value);
  };
  put(0x08, 1);
  put(0x04, 3);
  claimTold("a queue's TLBI_NH_VA: a page; TLBI_NSNH_ALL is not a guest's", model, {of(0x3000, 0x3fff)});
  machine.host.munmap(reinterpret_cast<void*>(mapped), 0x10000);
  claim("destroy the queue", 0, fd.destroy(out));
  claim("unmap in the parent", 0, fd.unmap(machine.ioas, 0, 4 * kPage));
  claimTold("... is everything of the guest's", model, {all});
  machine.detach();
  claimTold("detach too, with the guest's PASIDs", model, {all});
}

void containers() {
  CachingModel model(iommu::models::vtd());
  Host host(std::make_shared<mm::Memory>());
  iommu::Unit unit = iommu::makeUnit({.model = &model});
  iommu::Group group = {.id = 1, .members = {}};
  iommu::Endpoint nic(host, "0000:01:00.0", 0x100, unit, group);
  Buffer memory(4 * kPage);
  {
    Container container(host);
    claim("a container: attach, map", 0,
          container.type1.attach(group) +
              container.map(0, memory.user(), 2 * kPage, uapi::VFIO_DMA_MAP_FLAG_READ) +
              container.map(0x8000, memory.user(), kPage, uapi::VFIO_DMA_MAP_FLAG_READ));
    claimTold("... tells nothing", model, {});
    claim("unmap", 0, container.unmap(0, 2 * kPage));
    claimTold("... tells its range", model, {{&nic, kNone, false, 0, 2 * kPage - 1}});
    container.type1.detach(group);
    claimTold("the group leaves: everything", model, {{&nic, kNone, false, 0, UINT64_MAX}});
    claim("the group again", 0, container.type1.attach(group));
    (void)model.takeTold();
  }
  const auto told = model.takeTold();
  claim("the container goes: everything", !told.empty() && told.back().last == UINT64_MAX);
}

}  // namespace
}  // namespace vfio::soft::check

int main() {
  using namespace vfio::soft::check;
  unmapping();
  attaching();
  members();
  dirtyBits();
  vtdGuest();
  smmuGuest();
  containers();
  return failures == 0 ? 0 : 1;
}
