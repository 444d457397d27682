// Shared virtual addressing: the rules of binds and PASIDs, and what a device sees of a process's memory.
// Statements from the kernel have their numbers (S01 ...).
//
//   sva [SECONDS [SEED]]   random sequences of calls against a reference, for that long
#include <sys/mman.h>
#include <sys/resource.h>

#include <algorithm>
#include <array>
#include <chrono>
#include <csignal>
#include <map>
#include <random>
#include <vector>

#include "sva_harness.h"

namespace vfio::soft::check {
namespace {

using iommu::Bond;
using mm::FaultIn;

// ---------------------------------------------------------------- binds

void binds() {
  SvaMachine machine;
  auto& a = machine.device();
  auto& b = machine.device();
  std::shared_ptr<Bond> first;
  std::shared_ptr<Bond> second;
  std::shared_ptr<Bond> other;
  claim("a bind before the feature is enabled EINVAL", -EINVAL, machine.bind(a, 0, first));
  claim("enabled", machine.enable(a) == 0 && machine.enable(b) == 0);
  claim("... twice EBUSY", -EBUSY, machine.enable(a));
  claim("bound", 0, machine.bind(a, 0, first));
  claim("S04: the first PASID is 1", machine.pasidOf(first) == 1U);
  claim("S01: a second bind of the pair is the same bond",
        machine.bind(a, 0, second) == 0 && first == second);
  claim("S02: in the first form it is EEXIST", -EEXIST, machine.bind(a, 0, other, true));
  claim("S03: another device of the process: another bond, the same PASID",
        machine.bind(b, 0, other) == 0 && other != first && machine.pasidOf(other) == 1U);
  claim("the feature can't be disabled meanwhile EBUSY", -EBUSY, machine.disable(a));
  const uint64_t value = 77;
  uint64_t got = 0;
  const auto reads = [&](iommu::Endpoint& endpoint) {
    return machine.read(endpoint, reinterpret_cast<uint64_t>(&value), &got, sizeof got, 1) && got == value;
  };
  machine.unbind(first);
  claim("S01: one unbind is not enough", reads(a));
  machine.unbind(second);
  claim("... the second one is", !reads(a) && reads(b));
  claim("... and the feature can be disabled", 0, machine.disable(a));
  claim("... once EINVAL", -EINVAL, machine.disable(a));
  machine.unbind(other);

  claim("by its own pid it is this process",
        machine.bind(b, getpid(), other) == 0 && machine.pasidOf(other) == 1U);
  machine.unbind(other);

  auto& narrow = machine.device(1);
  claim("a device with one PASID", 0, machine.enable(narrow));
  const Child child;
  claim("another process takes PASID 1",
        machine.bind(b, child.pid, other) == 0 && machine.pasidOf(other) == 1U);
  claim("no PASID is left for the narrow device ENOSPC", -ENOSPC, machine.bind(narrow, 0, first));
  claim("enabled", 0, machine.enable(a));
  claim("this process has PASID 2", machine.bind(a, 0, first) == 0 && machine.pasidOf(first) == 2U);
  claim("S06: too large for the narrow device EOVERFLOW", -EOVERFLOW, machine.bind(narrow, 0, second));

  auto& sibling = machine.device(8, &a);
  claim("S13: a group of two EINVAL", -EINVAL, machine.bind(sibling, 0, second));
  claim("... of which the second has the bond of the first",
        machine.read(sibling, reinterpret_cast<uint64_t>(&value), &got, sizeof got, 2));
  claim("no such process ESRCH", -ESRCH, machine.bind(b, 1 << 29, second));
  machine.inside([&] { a.group.by = iommu::Confinement::none; });
  claim("S13: no IOMMU ENODEV", -ENODEV, machine.bind(a, 0, second));
  machine.inside([&] { a.group.by = iommu::Confinement::iommu; });
  // A bond ends under the lock, as with the close of its file.
  machine.unbind(other);
  machine.unbind(first);
  claim("B5: a member that joined later has no bond either, once it has ended",
        !machine.read(sibling, reinterpret_cast<uint64_t>(&value), &got, sizeof got, 2));
}

void withoutPasids() {
  for (const KernelVersion kernel : {KernelVersion{6, 2}, KernelVersion{6, 6}, kNewestKernel}) {
    SvaMachine machine(kernel);
    auto& device = machine.device(0);
    std::shared_ptr<Bond> bond;
    const int expected = kernel >= KernelVersion{6, 6} ? -ENOSPC : -EOPNOTSUPP;
    claim("S05: a device without PASIDs, kernel 6." + std::to_string(kernel.minor), expected,
          machine.bind(device, 0, bond));
    claim("... doesn't have the feature ENODEV", -ENODEV, machine.enable(device));
  }
}

void taken() {
  SvaMachine machine;
  auto& device = machine.device();
  std::shared_ptr<Bond> bond;
  claim("enabled", 0, machine.enable(device));
  const auto domain = std::make_shared<iommu::Domain>(machine.host, machine.unit);
  machine.inside([&] { device.attach(1, {.translation = domain}); });
  claim("S07: its PASID is attached to something else EBUSY", -EBUSY, machine.bind(device, 0, bond));
  machine.inside([&] { device.attach(1, {}); });
  claim("... and free again", 0, machine.bind(device, 0, bond));
}

void ends() {
  SvaMachine machine;
  auto& device = machine.device();
  (void)machine.enable(device);
  const auto memory = std::make_unique<uint64_t>(123);
  const auto address = reinterpret_cast<uint64_t>(memory.get());
  Child child;
  std::shared_ptr<Bond> bond;
  Told told;
  claim("another process", 0, machine.bind(device, child.pid, bond));
  machine.inside([&] { bond->join(told); });
  const uint32_t pasid = machine.pasidOf(bond).value_or(0);
  uint64_t got = 0;
  *memory = 5;
  claim("its memory, not ours", machine.read(device, address, &got, sizeof got, pasid) && got == 123);
  child.end();
  for (int round = 0; round < 200 && told.exits == 0; ++round) usleep(10'000), machine.inside([] {});
  claim("its end is told", 1, told.exits);
  claim("C3: the PASID is gone", !machine.pasidOf(bond));
  claim("S11: a page request is answered invalid",
        !machine.read(device, address, &got, sizeof got, pasid) && told.exits == 1);
  std::shared_ptr<Bond> own;
  claim("S10: the number is not given again while the bond is there",
        machine.bind(device, 0, own) == 0 && machine.pasidOf(own) != pasid);
  machine.inside([&] { bond->leave(told); });
  machine.unbind(bond);
  claim("S12: unbind works after the end", bond == nullptr);

  // A process that replaces its program has another memory.
  const pid_t other = fork();
  if (other == 0) {
    usleep(100'000);
    execl("/bin/sleep", "sleep", "60", nullptr);
    _exit(1);
  }
  std::shared_ptr<Bond> before;
  Told replaced;
  claim("a process before exec", 0, machine.bind(device, other, before));
  machine.inside([&] { before->join(replaced); });
  const uint32_t its = machine.pasidOf(before).value_or(0);
  claim("... is reached", machine.read(device, address, &got, sizeof got, its) && got == 5);
  bool reached = true;
  for (int round = 0; round < 200 && reached; ++round) {
    usleep(10'000);
    reached = machine.read(device, address, &got, sizeof got, its);
  }
  claim("... and not after it; its end is told", !reached && replaced.exits == 1 && !machine.pasidOf(before));
  std::shared_ptr<Bond> fresh;
  claim("a bind of what it runs now is another bond",
        machine.bind(device, other, fresh) == 0 && fresh != before && machine.pasidOf(fresh).has_value());
  machine.inside([&] { before->leave(replaced); });
  machine.unbind(before);
  machine.unbind(fresh);
  kill(other, SIGKILL);
  waitpid(other, nullptr, 0);

  // A second bind checks the rights again. Another process, since this one could not become root again.
  const pid_t user = getuid() == 0 ? fork() : 0;
  if (user == 0 && getuid() == 0) {
    SvaMachine mine;
    auto& its = mine.device();
    std::shared_ptr<Bond> first;
    std::shared_ptr<Bond> second;
    const pid_t parent = getppid();
    const bool bound = mine.enable(its) == 0 && mine.bind(its, parent, first) == 0;
    const bool fell = setgid(65534) == 0 && setuid(65534) == 0;
    _exit(bound && fell && mine.bind(its, parent, second) == -EPERM ? 0 : 1);
  }
  if (user != 0) {
    int code = -1;
    waitpid(user, &code, 0);
    claim("a process that may not access another one any more binds it no second time EPERM", 0, code);
  }

  machine.host.beforeFork();
  const pid_t forked = fork();
  machine.host.afterFork(forked == 0);
  if (forked == 0) {
    const bool none = !machine.pasidOf(own);
    const bool unreachable = !machine.read(device, address, &got, sizeof got, 2);
    _exit(none && unreachable ? 0 : 1);
  }
  int status = -1;
  waitpid(forked, &status, 0);
  claim("S09: a forked child has no PASID, and the device reaches nothing of it", 0, status);
  claim("... the parent's bond goes on",
        machine.pasidOf(own) && machine.read(device, address, &got, sizeof got, *machine.pasidOf(own)));
}

// ---------------------------------------------------------------- memory

struct Area {
  const char* name;
  std::function<void*()> make;
  bool readable;
  bool writable;
  FaultIn why;  // what is told of a refused access
};

void* anonymous(int protection) {
  return mmap(nullptr, 4 * kPage, protection, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
}

// Memory that was touched, and then changed.
template <class Change>
void* touched(const Change& change) {
  void* const at = anonymous(PROT_READ | PROT_WRITE);
  std::memset(at, 1, 4 * kPage);
  change(at);
  return at;
}

// A mapping of a file of `size` bytes.
char* file(size_t size, size_t mapped, int flags) {
  const int fd = memfd_create("sva", MFD_CLOEXEC);
  claim("a file", 0, ftruncate(fd, static_cast<off_t>(size)));
  void* const at = mmap(nullptr, mapped, PROT_READ | PROT_WRITE, flags, fd, 0);
  close(fd);
  return static_cast<char*>(at);
}

void areas() {
  SvaMachine machine;
  auto& device = machine.device();
  (void)machine.enable(device);
  std::shared_ptr<Bond> bond;
  (void)machine.bind(device, 0, bond);
  Told told;
  machine.inside([&] { bond->join(told); });
  const Area all[] = {
      {"fresh memory", [] { return anonymous(PROT_READ | PROT_WRITE); }, true, true, FaultIn::done},
      {"read-only memory", [] { return anonymous(PROT_READ); }, true, false, FaultIn::notPermitted},
      {"no access", [] { return anonymous(PROT_NONE); }, false, false, FaultIn::notPermitted},
      {"touched, then no access",
       [] { return touched([](void* at) { mprotect(at, 4 * kPage, PROT_NONE); }); }, false, false,
       FaultIn::notPermitted},
      {"touched, then read-only",
       [] { return touched([](void* at) { mprotect(at, 4 * kPage, PROT_READ); }); }, true, false,
       FaultIn::notPermitted},
      {"unmapped memory", [] { return touched([](void* at) { munmap(at, 4 * kPage); }); }, false, false,
       FaultIn::noArea},
      {"trimmed memory", [] { return touched([](void* at) { madvise(at, 4 * kPage, MADV_DONTNEED); }); },
       true, true, FaultIn::done},
      {"a file, private", [] { return file(4 * kPage, 4 * kPage, MAP_PRIVATE); }, true, true, FaultIn::done},
      {"a file, shared", [] { return file(4 * kPage, 4 * kPage, MAP_SHARED); }, true, true, FaultIn::done},
      {"behind the end of a file", [] { return file(kPage, 8 * kPage, MAP_SHARED) + 2 * kPage; }, false,
       false, FaultIn::noMemory},
      {"below the stack",
       [] {
         // The lowest page of the main thread's stack, less a page: the processor would grow it.
         FILE* const maps = fopen("/proc/self/maps", "re");
         unsigned long start = 0;
         char line[512];
         while (fgets(line, sizeof line, maps) != nullptr) {
           if (std::strstr(line, "[stack]") != nullptr) sscanf(line, "%lx-", &start);
         }
         fclose(maps);
         return reinterpret_cast<void*>(start - kPage);
       },
       false, false, FaultIn::noArea},
      {"not canonical", [] { return reinterpret_cast<void*>(uint64_t{1} << 60); }, false, false,
       FaultIn::done},
  };
  for (const Area& area : all) {
    for (const bool write : {false, true}) {
      const auto at = reinterpret_cast<uint64_t>(area.make()) + 100;
      told.faults = 0;
      char bytes[16] = "sixteen of them";
      const bool moved = write ? machine.write(device, at, bytes, sizeof bytes, 1)
                               : machine.read(device, at, bytes, sizeof bytes, 1);
      const std::string name = std::string(write ? "S21: a write to " : "S21: a read of ") + area.name;
      claim(name, write ? area.writable : area.readable, moved);
      if (moved || area.why == FaultIn::done) continue;
      claim("... is told, with the reason", static_cast<int64_t>(area.why), static_cast<int64_t>(told.last));
      claim("... once, for the page", told.faults == 1 && told.address == (at & ~(kPage - 1)));
    }
  }
  // However many pages are refused, the pages behind them are accessed, and each refusal is told.
  constexpr size_t kRefused = 40;
  constexpr size_t kPages = kRefused + 2;
  auto* const at = static_cast<char*>(
      mmap(nullptr, kPages * kPage, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
  mprotect(at, kRefused * kPage, PROT_NONE);
  const std::vector<char> sevens(kPages * kPage, 7);
  told.faults = 0;
  claim("a write over refused pages fails", false,
        machine.write(device, reinterpret_cast<uint64_t>(at), sevens.data(), sevens.size(), 1));
  claim("... and reaches all pages behind them", 2 * kPage,
        std::count(at + kRefused * kPage, at + kPages * kPage, 7));
  claim("... and each refusal is told", kRefused, told.faults);
  machine.inside([&] { bond->leave(told); });
}

// What holds before the next access: each change of the memory, with no stale translation.
void changes() {
  SvaMachine machine;
  auto& device = machine.device();
  (void)machine.enable(device);
  std::shared_ptr<Bond> bond;
  (void)machine.bind(device, 0, bond);
  const auto readAt = [&](void* at) -> int64_t {
    uint32_t value = 0;
    return machine.read(device, reinterpret_cast<uint64_t>(at), &value, sizeof value, 1)
               ? static_cast<int64_t>(value)
               : -1;
  };
  const auto store = [](void* at, uint32_t value) { std::memcpy(at, &value, sizeof value); };
  auto* const at = static_cast<char*>(anonymous(PROT_READ | PROT_WRITE));
  store(at, 7);
  claim("memory", 7, readAt(at));
  void* const other = mmap(at, kPage, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0);
  claim("something else mapped over it", other == at && readAt(at) == 0);
  store(at + kPage, 8);
  void* const moved = mremap(at + kPage, kPage, kPage, MREMAP_MAYMOVE | MREMAP_FIXED, at + 3 * kPage);
  claim("moved by mremap", moved == at + 3 * kPage && readAt(at + kPage) == -1 && readAt(moved) == 8);
  mprotect(moved, kPage, PROT_NONE);
  claim("protected", -1, readAt(moved));
  mprotect(moved, kPage, PROT_READ);
  claim("... and readable again", 8, readAt(moved));
  munmap(moved, kPage);
  claim("unmapped", -1, readAt(moved));

  // A piece that spans a hole: what is before it moves, what is behind it too, and the rest is lost.
  auto* const pieces = static_cast<char*>(anonymous(PROT_READ | PROT_WRITE));
  std::memset(pieces, 9, 4 * kPage);
  munmap(pieces + kPage, kPage);
  std::vector<char> got(3 * kPage, 1);
  claim("a hole in a transfer is a fault",
        !machine.read(device, reinterpret_cast<uint64_t>(pieces), got.data(), got.size(), 1));
  claim("... of its page only", got[kPage - 1] == 9 && got[kPage] == 0 && got[2 * kPage] == 9);

  // Memory that the program has unmapped, while it is pinned for another address space: it is gone for a
  // bond.
  auto* const pinned = static_cast<char*>(anonymous(PROT_READ | PROT_WRITE));
  store(pinned, 5);
  int held = -1;
  machine.inside([&] { held = machine.host.memory().pin(reinterpret_cast<uint64_t>(pinned), kPage, true); });
  claim("pinned memory", held == 0 && readAt(pinned) == 5);
  claim("... that the program has unmapped", machine.host.munmap(pinned, kPage) == 0 && readAt(pinned) == -1);
  machine.inside([&] { machine.host.memory().unpin(reinterpret_cast<uint64_t>(pinned), kPage); });
}

// A device that waits: the group is answered once, the first error ends it.
void groups() {
  SvaMachine machine;
  auto& device = machine.device();
  (void)machine.enable(device);
  std::shared_ptr<Bond> bond;
  (void)machine.bind(device, 0, bond);
  Told told;
  machine.inside([&] { bond->join(told); });
  auto* const at = static_cast<char*>(anonymous(PROT_READ | PROT_WRITE));
  munmap(at + kPage, kPage);
  std::vector<char> bytes(4 * kPage);
  int outcome = -1;
  machine.inside([&] {
    device.dma.startRead(reinterpret_cast<uint64_t>(at), bytes.data(), bytes.size(), 1,
                         [&](bool moved) { outcome = moved ? 1 : 0; });
  });
  machine.host.settle();
  claim("S22: the first error of a group is its answer", outcome == 0 && told.faults == 1);
  claim("... and the requests behind it are not served", at + kPage == reinterpret_cast<char*>(told.address));
  machine.inside([&] {
    outcome = -1;
    device.dma.startRead(reinterpret_cast<uint64_t>(at + 2 * kPage), bytes.data(), 2 * kPage, 1,
                         [&](bool moved) { outcome = moved ? 1 : 0; });
  });
  machine.host.settle();
  claim("C7: pages that are missing are brought in", 1, outcome);
  machine.inside([&] { bond->leave(told); });
}

// What a device asks for besides reading, with the PASID of a bond: 1 it may, 0 not, -1 no answer. `in`: 0
// this process, or a child with the same memory. The unit is AMD's, since VT-d's driver refuses such requests
// itself.
void rights() {
  const auto fresh = [](int protection) {
    return [protection] {
      void* const at = anonymous(PROT_READ | PROT_WRITE);
      mprotect(at, 4 * kPage, protection);
      return at;
    };
  };
  const struct {
    const char* name;
    std::function<void*()> make;
    iommu::PageRequests::Asks asks;
    bool may;
  } all[] = {
      {"executes what is executable", fresh(PROT_READ | PROT_EXEC), {.execute = true}, true},
      {"executes what is not", fresh(PROT_READ | PROT_WRITE), {.execute = true}, false},
      {"executes what is not even readable", fresh(PROT_NONE), {.execute = true}, false},
      {"executes where nothing is",
       [] { return touched([](void* at) { munmap(at, 4 * kPage); }); },
       {.execute = true},
       false},
      {"reads as the supervisor", fresh(PROT_READ), {.privileged = true}, true},
  };
  for (const bool ours : {true, false}) {
    for (const auto& each : all) {
      auto* const at = static_cast<char*>(each.make());
      const Child child;
      SvaMachine machine(kNewestKernel, iommu::makeUnit({.model = &iommu::models::amd(),
                                                         .pasidBits = 16,
                                                         .pageRequests = iommu::PageRequestKind::pri}));
      auto& device = machine.device();
      std::shared_ptr<Bond> bond;
      Told told;
      claim("a device is bound",
            machine.enable(device) == 0 && machine.bind(device, ours ? 0 : child.pid, bond) == 0);
      machine.inside([&] { bond->join(told); });
      char bytes[16];
      int outcome = -1;
      machine.inside([&] {
        device.dma.startRead(
            reinterpret_cast<uint64_t>(at), bytes, sizeof bytes, *bond->pasid(),
            [&](bool moved) { outcome = moved ? 1 : 0; }, each.asks);
      });
      machine.host.settle();
      const std::string who = ours ? "C7: a device " : "C7: a device, in another process, ";
      claim(who + each.name, each.may ? 1 : 0, outcome);
      claim("... and is refused with a reason, if it is", each.may ? 0 : 1, told.faults);
      machine.inside([&] { bond->leave(told); });
      machine.unbind(bond);
    }
  }
}

// ---------------------------------------------------------------- random sequences against a reference

// What the calls should do, written apart from the code.
struct Reference {
  struct Pair {
    unsigned device;
    int process;
    bool operator<(const Pair& other) const {
      return std::pair(device, process) < std::pair(other.device, other.process);
    }
  };
  std::map<Pair, unsigned> bonds;  // with their counts
  std::map<int, uint32_t> pasids;  // of the processes that have bonds
  std::map<int, bool> ended;
  std::map<unsigned, bool> enabled;

  [[nodiscard]] bool has(int process) const {
    for (const auto& [pair, count] : bonds) {
      if (pair.process == process) return true;
    }
    return false;
  }
  int bind(Pair pair, unsigned bits) {
    const uint32_t most = 1U << bits;
    uint32_t pasid = 0;
    if (has(pair.process)) {
      pasid = pasids[pair.process];
      if (pasid >= most) return -EOVERFLOW;
    } else {
      for (pasid = 1;; ++pasid) {
        bool free = true;
        for (const auto& [process, number] : pasids) free &= number != pasid || !has(process);
        if (free) break;
      }
      if (pasid >= most) return -ENOSPC;
    }
    if (!bonds.contains(pair) && !enabled[pair.device]) return -EINVAL;
    pasids[pair.process] = pasid;
    ++bonds[pair];
    return 0;
  }
};

bool sequence(uint64_t seed, unsigned steps) {
  std::mt19937_64 random(seed);
  const auto below = [&random](uint64_t end) { return random() % end; };
  SvaMachine machine;
  constexpr unsigned kDevices = 3;
  constexpr std::array<unsigned, kDevices> kBits = {1, 2, 8};
  std::array<iommu::Endpoint*, kDevices> devices{};
  for (unsigned each = 0; each < kDevices; ++each) devices[each] = &machine.device(kBits[each]);
  static uint64_t memory = 0x1234'5678;
  std::vector<std::unique_ptr<Child>> children;
  for (int each = 0; each < 2; ++each) children.push_back(std::make_unique<Child>());
  const auto pidOf = [&](int process) { return process == 0 ? 0 : children[process - 1]->pid; };
  Reference reference;
  std::map<Reference::Pair, std::vector<std::shared_ptr<Bond>>> bonds;

  for (unsigned step = 0; step < steps; ++step) {
    const Reference::Pair pair{static_cast<unsigned>(below(kDevices)), static_cast<int>(below(3))};
    iommu::Endpoint& device = *devices[pair.device];
    std::string what;
    bool same = true;
    switch (below(8)) {
      case 0: {
        const bool on = below(4) != 0;
        bool busy = false;
        for (const auto& [each, count] : reference.bonds) busy |= each.device == pair.device;
        const bool was = reference.enabled[pair.device];
        const int expected = on ? (was ? -EBUSY : 0) : !was ? -EINVAL : busy ? -EBUSY : 0;
        if (expected == 0) reference.enabled[pair.device] = on;
        same = expected == (on ? machine.enable(device) : machine.disable(device));
        what = on ? "enable" : "disable";
        break;
      }
      case 1:
      case 2:
      case 3: {
        std::shared_ptr<Bond> bond;
        const int got = machine.bind(device, pidOf(pair.process), bond);
        const bool gone = reference.ended[pair.process];
        const int expected = gone ? -ESRCH : reference.bind(pair, kBits[pair.device]);
        same = got == expected;
        if (got == 0) bonds[pair].push_back(std::move(bond));
        what = "bind: " + std::to_string(got) + " for " + std::to_string(expected);
        break;
      }
      case 4:
      case 5: {
        auto& some = bonds[pair];
        if (some.empty()) break;
        machine.unbind(some.back());
        some.pop_back();
        if (--reference.bonds[pair] == 0) reference.bonds.erase(pair);
        what = "unbind";
        break;
      }
      case 6: {
        if (pair.process == 0 || below(6) != 0 || reference.ended[pair.process]) break;
        children[pair.process - 1]->end();
        reference.ended[pair.process] = true;
        machine.inside([] {});  // the next call looks
        what = "exit";
        break;
      }
      default: {
        if (below(8) != 0) break;
        machine.inside([&] { machine.host.sva().close(device); });
        for (auto& entry : bonds) {
          if (entry.first.device != pair.device) continue;
          for (auto& bond : entry.second) same &= !machine.pasidOf(bond);
          machine.inside([&] { entry.second.clear(); });
          reference.bonds.erase(entry.first);
        }
        reference.enabled[pair.device] = false;
        what = "close";
      }
    }
    for (const auto& [each, some] : bonds) {
      const bool gone = reference.ended[each.process];
      for (const auto& bond : some) {
        const auto pasid = machine.pasidOf(bond);
        same &= gone ? !pasid : pasid == reference.pasids[each.process];
      }
    }
    // An access by each device with each PASID: it reaches the process that has it, or nothing.
    for (unsigned at = 0; at < kDevices; ++at) {
      for (uint32_t pasid = 1; pasid < 4; ++pasid) {
        bool reaches = false;
        for (const auto& [each, count] : reference.bonds)
          reaches |=
              each.device == at && reference.pasids[each.process] == pasid && !reference.ended[each.process];
        uint64_t got = 0;
        same &= reaches == machine.read(*devices[at], reinterpret_cast<uint64_t>(&memory), &got, 8, pasid);
      }
    }
    (void)machine.host.takeFaults();
    if (!same) {
      std::printf("     seed %llu, step %u: device %u, process %d, %s\n",
                  static_cast<unsigned long long>(seed), step, pair.device, pair.process, what.c_str());
      return false;
    }
  }
  machine.inside([&] { bonds.clear(); });
  return true;
}

void sequences(double seconds, uint64_t seed) {
  const auto end = std::chrono::steady_clock::now() + std::chrono::duration<double>(seconds);
  unsigned count = 0;
  bool same = true;
  for (; same && std::chrono::steady_clock::now() < end; ++count) same = sequence(seed + count, 60);
  claim(std::to_string(count) + " random sequences of 60 calls from seed " + std::to_string(seed) +
            " do as the reference",
        same && count > 0);
}

}  // namespace
}  // namespace vfio::soft::check

int main(int argc, char** argv) {
  using namespace vfio::soft::check;
  binds();
  withoutPasids();
  taken();
  ends();
  areas();
  changes();
  groups();
  rights();
  sequences(argc > 1 ? std::atof(argv[1]) : 2, argc > 2 ? std::strtoull(argv[2], nullptr, 10) : 1);
  return failures == 0 ? 0 : 1;
}
