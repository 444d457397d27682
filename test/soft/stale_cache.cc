// Every removal of a translation is reported to the units: the check makes random changes of page tables,
// attachments and guests' tables, with random DMA between them, behind units whose IOTLB drops entries only
// when it is told to (caching_model.h). After each step all cached entries are compared with the tables. The
// same steps behind a unit that ignores invalidations leave stale entries, which shows that the comparison
// can fail.
#include <cstdlib>
#include <random>

#include "caching_machine.h"

namespace vfio::soft::check {
namespace {

constexpr uint64_t kPages = 48;        // the IOVAs, from 0 on, that are mapped at random
constexpr uint64_t kTables = 0x80000;  // the address of the guest's tables in the parent

struct Random {
  explicit Random(uint32_t seed) : engine(seed) {}
  uint64_t operator()(uint64_t below) { return engine() % below; }
  std::mt19937 engine;
};

using Counts = CachingModel::Counts;

// Claims that a call succeeded which can't fail.
void good(int result) {
  if (result != 0) claim("a call that can't fail", 0, result);
}

// DMA of up to three pages. It may fail.
void transfer(Random& random, iommu::Endpoint& endpoint, std::optional<uint32_t> pasid, bool writes) {
  static char bytes[3 * kPage];
  const uint64_t iova = random(kPages * kPage);
  const uint64_t size = 1 + random(sizeof(bytes));
  if (writes) {
    (void)endpoint.dma.write(iova, bytes, size, pasid);
  } else {
    (void)endpoint.dma.read(iova, bytes, size, pasid);
  }
}

// VT-d through iommufd: several page tables, PASIDs, dirty tracking, a guest's table on a parent, and a
// second device of the group that is bound and closed again.
class VtdRun {
 public:
  VtdRun(uint32_t seed, bool deaf) : model(iommu::models::vtd(), deaf), random(seed) {
    const uint32_t device = machine.device->id();
    for (uint32_t& ioas : spaces) ioas = machine.fd.ioas();
    good(fd.mapAt(spaces[0], kTables, tables.user(), tables.size()));
    good(fd.hwpt(device, spaces[0], parent, kParentFlag | kTracksFlag | kPasidFlag));
    good(vtdTable(fd, device, parent, kTables, nested));
    good(fd.hwpt(device, spaces[1], tracked, kTracksFlag | kPasidFlag));
    uint32_t shared[2] = {};
    for (uint32_t at = 0; at < 2; ++at) good(fd.hwpt(device, spaces[at], shared[at], kPasidFlag));
    targets = {parent, nested, nested, tracked, shared[0], shared[1], spaces[1]};
    // Three levels of one entry each, then the leaves.
    for (uint64_t at = 0; at < 3; ++at) word(at * kPage) = (kTables + (at + 1) * kPage) | 7;
  }
  ~VtdRun() {
    machine.inside([&] { other.reset(); });
  }

  Counts run(int steps) {
    for (int at = 0; at < steps; ++at) {
      step();
      machine.inside([&] { model.sweep(machine.group.members); });
    }
    return model.counts;
  }

 private:
  uint64_t& word(uint64_t at) { return *reinterpret_cast<uint64_t*>(tables.bytes() + at); }

  void step() {
    const uint32_t space = spaces[random(2)];
    const auto pasid = static_cast<uint32_t>(random(3));
    const uint64_t page = random(kPages);
    const uint32_t paging = random(2) != 0 ? parent : tracked;
    switch (random(20)) {
      case 0:
      case 1:
      case 2:
        (void)fd.mapAt(space, page * kPage, memory.user() + random(kPages) * kPage, (1 + random(4)) * kPage,
                       space == spaces[1] && random(3) == 0 ? kRead : kBoth);
        return;
      case 3:
        (void)fd.unmap(space, page * kPage, (1 + random(8)) * kPage);
        return;
      case 4:
      case 5:
        if (random(3) == 0) (void)machine.attachTo(targets[random(targets.size())], pasid);
        return;
      case 6:
        if (random(8) == 0) machine.detach(pasid);
        return;
      case 7:
        if (random(4) == 0) good(track(fd, paging, random(4) != 0));
        return;
      case 8:
        good(takeBitmap(fd, paging, 0, kPages * kPage, random(3) != 0));
        return;
      case 9:
        return changeGuest();
      case 10:
        if (random(4) == 0) changeGroup();
        return;
      default:
        machine.inside([&] {
          iommu::Endpoint& endpoint = other != nullptr && random(3) == 0 ? *other : *machine.edu.endpoint;
          transfer(random, endpoint, pasid != 0 ? std::optional(pasid) : std::nullopt, random(2) != 0);
        });
    }
  }
  // The guest changes some leaves, and invalidates them.
  void changeGuest() {
    const uint64_t first = random(kPages);
    const uint64_t count = 1 + random(4);
    for (uint64_t at = first; at < first + count; ++at) {
      word(3 * kPage + at * 8) = random(6) == 0 ? 0 : random(kPages) * kPage | 5 | (random(4) != 0 ? 2 : 0);
    }
    const bool all = random(4) == 0;
    good(vtdInvalidate(fd, nested, all ? 0 : first * kPage, all ? UINT64_MAX : count));
  }
  void changeGroup() {
    machine.inside([&] {
      if (other != nullptr) return other.reset();
      other =
          std::make_unique<iommu::Endpoint>(machine.host, "0000:05:11.0", 0x588, machine.unit, machine.group);
    });
  }

  CachingModel model;
  Random random;
  Buffer memory{(kPages + 4) * kPage};
  Buffer tables{4 * kPage};
  EduMachine machine{kNewestKernel, cachingVtd(model)};
  Fd& fd = machine.fd;
  uint32_t spaces[2] = {};
  uint32_t parent = 0, nested = 0, tracked = 0;
  std::vector<uint32_t> targets;
  std::unique_ptr<iommu::Endpoint> other;
};

// SMMUv3: a guest's contexts and tables, for accesses without a PASID (context 0) and for PASIDs 1 to 3.
class SmmuRun {
 public:
  SmmuRun(uint32_t seed, bool deaf) : model(iommu::models::smmuv3(), deaf), random(seed) {
    uint32_t out = 0;
    good(fd.mapAt(machine.ioas, kTables, tables.user(), tables.size()));
    good(machine.viommu(viommu));
    good(machine.vdevice(viommu, kStream, out));
    // A first stage with four contexts. Accesses without a PASID use the first.
    good(machine.nested(viommu, 1 | 5 << 1 | kTables | uint64_t{2} << 59, 2, nested));
    good(machine.nested(viommu, 1 | 4 << 1, 0, bypass));
    for (uint64_t context = 0; context < 4; ++context) {
      word(context * 64) = kContext;
      word(context * 64 + 8) = tableOf(context);
      for (uint64_t at = 0; at < 2; ++at) {
        word(tableOf(context) - kTables + at * kPage) = (tableOf(context) + (at + 1) * kPage) | 3;
      }
    }
    good(machine.attachTo(nested));
  }

  Counts run(int steps) {
    for (int at = 0; at < steps; ++at) {
      step();
      machine.inside([&] { model.sweep(machine.group.members); });
    }
    return model.counts;
  }

 private:
  // Valid, AArch64, 39-bit inputs, 48-bit outputs, no upper half, faults recorded and terminated.
  static constexpr uint64_t kContext = 25 | uint64_t{1} << 30 | uint64_t{1} << 31 | uint64_t{5} << 32 |
                                       uint64_t{1} << 41 | uint64_t{1} << 45 | uint64_t{1} << 46;
  static uint64_t tableOf(uint64_t context) { return kTables + (1 + 3 * context) * kPage; }
  uint64_t& word(uint64_t at) { return *reinterpret_cast<uint64_t*>(tables.bytes() + at); }

  void step() {
    const uint64_t page = random(kPages);
    const auto pasid = static_cast<uint32_t>(random(4));
    switch (random(24)) {
      case 0:
      case 1:
      case 8:
      case 9:
        (void)fd.mapAt(machine.ioas, page * kPage, memory.user() + random(kPages) * kPage,
                       (1 + random(4)) * kPage);
        return;
      case 2:
        (void)fd.unmap(machine.ioas, page * kPage, (1 + random(6)) * kPage);
        return;
      case 3:
        if (random(8) == 0) return machine.detach();
        return (void)machine.attachTo(random(8) == 0 ? bypass : nested);
      case 4:
      case 5:
      case 6:
        return changeTable(pasid);
      case 7:
        word(pasid * 64) = kContext & ~(random(4) == 0 ? uint64_t{1} << 31 : 0);
        return good(smmuInvalidate(fd, viommu, 0x05 | uint64_t{1} << 11 | pasid << 12 | kStream << 32, 0));
      default:
        machine.inside([&] {
          transfer(random, *machine.edu.endpoint, pasid != 0 ? std::optional(pasid) : std::nullopt,
                   random(2) != 0);
        });
    }
  }
  void changeTable(uint64_t context) {
    const uint64_t first = random(kPages);
    const uint64_t count = 1 + random(4);
    constexpr uint64_t kPageOf = 3 | 1 << 6 | 1 << 10;
    for (uint64_t at = first; at < first + count; ++at) {
      word(tableOf(context) - kTables + 2 * kPage + at * 8) =
          random(8) == 0 ? 0 : random(kPages) * kPage | kPageOf | (random(4) == 0 ? 1 << 7 : 0);
    }
    const uint64_t asid = context << 48;
    switch (random(3)) {
      case 0:
        return good(smmuInvalidate(fd, viommu, 0x11 | asid, 0));
      case 1:
        return good(smmuInvalidate(fd, viommu, 0x12 | (count - 1) << 12 | asid, first * kPage | 1 << 10));
      default:
        for (uint64_t at = first; at < first + count; ++at) {
          good(smmuInvalidate(fd, viommu, 0x12 | asid, at * kPage));
        }
    }
  }

  CachingModel model;
  Random random;
  Buffer memory{(kPages + 8) * kPage};
  Buffer tables{13 * kPage};
  SmmuMachine machine{kNewestKernel, iommu::makeUnit({.model = &model})};
  Fd& fd = machine.fd;
  uint32_t viommu = 0, nested = 0, bypass = 0;
};

// A container with two groups.
class ContainerRun {
 public:
  ContainerRun(uint32_t seed, bool deaf) : model(iommu::models::vtd(), deaf), random(seed) {}

  Counts run(int steps) {
    for (int at = 0; at < steps; ++at) {
      step();
      model.sweep({&nics[0], &nics[1]});
    }
    return model.counts;
  }

 private:
  void step() {
    const uint64_t page = random(kPages);
    const size_t which = random(2);
    switch (random(8)) {
      case 0:
      case 1:
        (void)container.map(page * kPage, memory.user() + random(kPages) * kPage, (1 + random(4)) * kPage,
                            uapi::VFIO_DMA_MAP_FLAG_READ | random(2) << 1);
        return;
      case 2:
        (void)container.unmap(page * kPage, (1 + random(8)) * kPage);
        return;
      case 3:
        if (random(6) != 0) return;
        if (attached[which]) {
          container.type1.detach(groups[which]);
        } else {
          good(container.type1.attach(groups[which]));
        }
        attached[which] = !attached[which];
        return;
      default:
        transfer(random, nics[which], std::nullopt, random(2) != 0);
    }
  }

  CachingModel model;
  Random random;
  Host host{std::make_shared<mm::Memory>()};
  iommu::Unit unit = iommu::makeUnit({.model = &model});
  iommu::Group groups[2] = {{.id = 1, .members = {}}, {.id = 2, .members = {}}};
  iommu::Endpoint nics[2] = {{host, "0000:01:00.0", 0x100, unit, groups[0]},
                             {host, "0000:02:00.0", 0x200, unit, groups[1]}};
  Buffer memory{(kPages + 4) * kPage};
  Container container{host};
  bool attached[2] = {};
};

template <class Run>
Counts compare(const char* name, int runs) {
  constexpr int kSteps = 2000;
  Counts sum;
  for (int at = 0; at < runs; ++at) {
    const auto seed = static_cast<uint32_t>(at + 1);
    const Counts each = std::make_unique<Run>(seed, false)->run(kSteps);
    if (each.stale != 0) std::printf("     seed %u: %d\n", seed, static_cast<int>(each.stale));
    sum += each;
  }
  const Counts deaf = std::make_unique<Run>(1, true)->run(kSteps);
  const auto shown = [](uint64_t count) { return static_cast<unsigned long long>(count); };
  std::printf(
      "     %s: %llu pages translated (%llu hits, %llu guests' PASIDs, %llu dirty), told %llu times\n", name,
      shown(sum.translated), shown(sum.hits), shown(sum.guests), shown(sum.dirty), shown(sum.told));
  claim(std::string(name) + ": of " + std::to_string(sum.swept) + " comparisons none is of a stale entry", 0,
        static_cast<int64_t>(sum.stale));
  claim("... which takes hits, and invalidations", sum.hits > 1000 && sum.told > 1000);
  claim("... and a unit that doesn't listen has stale entries", deaf.stale > 0);
  return sum;
}

}  // namespace
}  // namespace vfio::soft::check

// An argument multiplies the number of runs.
int main(int count, char** arguments) {
  using namespace vfio::soft::check;
  const int runs = 100 * (count > 1 ? std::atoi(arguments[1]) : 1);
  const auto vtd = compare<VtdRun>("VT-d", runs);
  claim("VT-d marks pages dirty", vtd.dirty > 1000);
  const auto smmu = compare<SmmuRun>("SMMUv3", runs);
  claim("SMMUv3 translates PASIDs of the guest's", smmu.guests > 1000);
  (void)compare<ContainerRun>("a container", runs);
  return failures == 0 ? 0 : 1;
}
