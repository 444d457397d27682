// Checks of the software iommufd and of the code that it uses: memory, translation, address spaces, objects,
// devices. Prints each claim; exits with 1 if one doesn't hold. The rules are those of Linux 6.12.
#include <fcntl.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <map>
#include <random>

#include "../../native/base/sanitizers.h"
#include "iommufd_harness.h"

namespace vfio::soft::check {
namespace {

using iommu::Endpoint;
using iommu::Group;
using iommu::Unit;
using iommufd::BoundDevice;
using mm::Memory;

// Can this address be read now?
bool mapped(uint64_t address) {
  char byte = 0;
  return Memory::copyIn(&byte, address, 1) == 0;
}

void wildPointers() {
  char bytes[256] = {};
  for (const uint64_t wild : {uint64_t{0}, uint64_t{8}, uint64_t{0x4141414141414141}, uint64_t{1} << 47,
                              uint64_t{0xffff800000000000}, UINT64_MAX, UINT64_MAX - 100}) {
    bool fault = true;
    for (const size_t size : {1, 2, 3, 4, 7, 8, 31, 64, 127, 128, 129, 256}) {
      fault = fault && Memory::copyIn(bytes, wild, size) == -EFAULT;
      fault = fault && Memory::copyOut(wild, bytes, size) == -EFAULT;
    }
    char name[64];
    std::snprintf(name, sizeof(name), "copies at wild address %#llx fault",
                  static_cast<unsigned long long>(wild));
    claim(name, fault);
  }
  claim("a copy of nothing works anywhere", 0, Memory::copyIn(bytes, 8, 0));

  Buffer two(2 * kPage);
  mprotect(two.bytes() + kPage, kPage, PROT_NONE);
  std::memset(two.bytes(), 7, kPage);
  bool exact = true;
  for (size_t before = 0; before < 200; ++before) {
    for (const size_t size : {200, 400, 20000}) {
      std::vector<char> into(size, 0);
      const size_t done = Memory::copyInSome(into.data(), two.user() + kPage - before, size);
      exact = exact && done == before && std::count(into.begin(), into.end(), 7) == static_cast<long>(before);
    }
  }
  claim("a copy into the dark says how far it got, to the byte", exact);
  bool round = true;
  for (size_t size = 1; size < 300; ++size) {
    std::vector<char> from(size);
    for (size_t at = 0; at < size; ++at) from[at] = static_cast<char>(at * 7 + size);
    round = round && Memory::copyOut(two.user() + 3, from.data(), size) == 0 &&
            std::memcmp(two.bytes() + 3, from.data(), size) == 0;
  }
  claim("copies of every small size are right", round);
  mprotect(two.bytes(), kPage, PROT_READ);
  claim("read-only memory can be copied from", 0, Memory::copyIn(bytes, two.user(), 256));
  claim("and not to", -EFAULT, Memory::copyOut(two.user(), bytes, 256));
  claim("a tail of zeroes", 1, Memory::allZero(two.user() + kPage - 1, 0));
}

void truncatedFile() {
  const int fd = memfd_create("short", MFD_CLOEXEC);
  claim("memfd", ftruncate(fd, static_cast<off_t>(kPage)) == 0);
  void* const at = mmap(nullptr, kPage, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
  claim("truncate", ftruncate(fd, 0) == 0);
  char byte = 0;
  claim("memory of a truncated file (SIGBUS) faults", -EFAULT,
        Memory::copyIn(&byte, reinterpret_cast<uint64_t>(at), 1));
  munmap(at, kPage);
  close(fd);
}

void otherFaults() {
  // In a child, since the fault ends it: the guard must not change the effect of any other fault.
  const auto dies = [](auto action) {
    const pid_t child = fork();
    if (child == 0) {
      signal(SIGALRM, SIG_DFL);
      alarm(10);
      const int null = open("/dev/null", O_WRONLY);
      dup2(null, STDERR_FILENO);
      action();
      _exit(0);
    }
    int status = 0;
    waitpid(child, &status, 0);
    return status;
  };
  volatile uintptr_t nowhere = 16;
  int status = dies([&nowhere] { *reinterpret_cast<volatile int*>(nowhere) = 1; });
#if VFIO_ASAN
  claim("a fault of other code still goes to the sanitizer",
        WIFEXITED(status) ? WEXITSTATUS(status) != 0 : true);
#else
  claim("a fault of other code still kills", WIFSIGNALED(status) && WTERMSIG(status) == SIGSEGV);
  status = dies([] { kill(getpid(), SIGSEGV); });
  claim("a SIGSEGV that was sent still kills", WIFSIGNALED(status) && WTERMSIG(status) == SIGSEGV);
#endif
}

void pins() {
  Memory memory;
  Buffer buffer(8 * kPage);
  buffer.forget();
  const uint64_t at = buffer.user();
  claim("pin for writing", 0, memory.pin(at, 8 * kPage, true));
  claim("pin twice", 0, memory.pin(at + 2 * kPage + 5, kPage, false));
  claim("a page knows its pins", memory.pins(at + 8 * kPage - 1) == 1 && memory.pins(at + 3 * kPage) == 2 &&
                                     memory.pins(at + 8 * kPage) == 0);
  claim("unmap of pinned memory", 0, memory.unmap(at, 6 * kPage));
  claim("it stays while it is pinned", mapped(at) && mapped(at + 5 * kPage));
  claim("pinning what was unmapped faults", -EFAULT, memory.pin(at, kPage, false));
  memory.unpin(at, 8 * kPage);
  claim("what no pin holds goes with its last pin", !mapped(at) && !mapped(at + 5 * kPage));
  claim("what another pin holds stays", mapped(at + 2 * kPage) && mapped(at + 3 * kPage));
  claim("what wasn't unmapped stays", mapped(at + 6 * kPage) && mapped(at + 7 * kPage));
  memory.unpin(at + 2 * kPage + 5, kPage);
  claim("the rest goes too", !mapped(at + 2 * kPage) && !mapped(at + 3 * kPage));
  claim("unmap of what isn't pinned is at once", 0, memory.unmap(at + 6 * kPage, 2 * kPage));
  claim("gone", !mapped(at + 6 * kPage));

  Buffer readOnly(kPage, PROT_READ);
  claim("read-only memory pins for reading", 0, memory.pin(readOnly.user(), kPage, false));
  claim("read-only memory doesn't pin for writing", -EFAULT, memory.pin(readOnly.user(), kPage, true));
  memory.unpin(readOnly.user(), kPage);
  Buffer none(kPage, PROT_NONE);
  claim("PROT_NONE memory doesn't pin", -EFAULT, memory.pin(none.user(), kPage, false));
  claim("nor does a wild address", -EFAULT, memory.pin(0x4141414141414000, kPage, true));
  Buffer data(kPage);
  std::memset(data.bytes(), 0x5a, kPage);
  claim("pin", 0, memory.pin(data.user(), kPage, true));
  claim("pinning doesn't change the data",
        std::all_of(data.bytes(), data.bytes() + kPage, [](char byte) { return byte == 0x5a; }));
  memory.unpin(data.user(), kPage);
}

// Compares the tree with a plain map, after every operation that changes the tree's shape.
void tree() {
  std::mt19937_64 random(1);
  SpanTree<int> tree;
  std::map<uint64_t, uint64_t> model;
  bool same = true;
  for (int round = 0; round < 400000; ++round) {
    const bool shrink = round / 50000 % 2 == 1;
    const uint64_t start = random() % 400000;
    const uint64_t last = start + random() % 12;
    auto next = model.lower_bound(start);
    const auto before = next == model.begin() ? model.end() : std::prev(next);
    auto hit = before != model.end() && before->second >= start ? before : next;
    if (hit != model.end() && hit->first > last) hit = model.end();
    const auto* const found = tree.find(start, last);
    same = same && (found == nullptr) == (hit == model.end());
    if (found != nullptr && hit != model.end()) same = same && found->start == hit->first;
    if (hit == model.end() && random() % 4 > (shrink ? 2U : 0U)) {
      tree.insert(start, last, 1);
      model.emplace(start, last);
    } else if (hit != model.end() && (shrink || random() % 4 == 0)) {
      tree.erase(hit->first);
      model.erase(hit);
    }
    if (round % 400 == 0) {
      const uint64_t low = random() % 400000;
      const uint64_t high = low + random() % 200000;
      const uint64_t need = 1 + random() % (shrink ? 300 : 60);
      std::vector<std::pair<uint64_t, uint64_t>> got;
      tree.firstGap(low, high, need, [&got](uint64_t from, uint64_t to) {
        got.emplace_back(from, to);
        return false;
      });
      std::vector<std::pair<uint64_t, uint64_t>> want;
      uint64_t cursor = low;
      for (const auto& [from, to] : model) {
        if (to < cursor) continue;
        if (from > high) break;
        if (from > cursor && from - cursor >= need) want.emplace_back(cursor, from - 1);
        cursor = to + 1;
      }
      if (cursor <= high && high - cursor + 1 >= need) want.emplace_back(cursor, high);
      same = same && got == want;
    }
    same = same && tree.size() == model.size();
  }
  claim("the interval tree agrees with a plain map over 400000 steps", same);
}

void commandLayer(Host& host) {
  Fd fd(host);
  claim("a bad pointer on a known number is EFAULT", -EFAULT, fd.file->ioctl(uapi::IOMMU_DESTROY, 8));
  claim("... before the exact number is looked at", -EFAULT, fd.file->ioctl(0x40003b80, 8));
  uint64_t words[16] = {8};
  const auto pointer = reinterpret_cast<uint64_t>(words);
  claim("direction bits are ENOTTY", -ENOTTY, fd.file->ioctl(0x40003b80, pointer));
  claim("a number behind the table is ENOTTY, pointer unread", -ENOTTY, fd.file->ioctl(0x3bf0, 8));
  uapi::iommu_ioas_alloc alloc = {8, 0, 0};
  claim("too small a size is EINVAL", -EINVAL, fd.call(uapi::IOMMU_IOAS_ALLOC, alloc));
  struct {
    uapi::iommu_ioas_alloc alloc;
    uint32_t more[100];
  } longer = {};
  longer.alloc.size = sizeof(longer);
  longer.more[99] = 1;
  claim("a longer struct that goes on with something is E2BIG", -E2BIG,
        fd.call(uapi::IOMMU_IOAS_ALLOC, longer));
  longer.more[99] = 0;
  claim("and with zeroes works", 0, fd.call(uapi::IOMMU_IOAS_ALLOC, longer));
  claim("the first id is 1", 1, longer.alloc.out_ioas_id);
  Buffer edge(2 * kPage);
  mprotect(edge.bytes() + kPage, kPage, PROT_NONE);
  auto* const cut = reinterpret_cast<uapi::iommu_ioas_alloc*>(edge.bytes() + kPage - sizeof(alloc));
  *cut = {64, 0, 0};
  claim("a tail that can't be read is EFAULT", -EFAULT, fd.call(uapi::IOMMU_IOAS_ALLOC, *cut));
  *cut = {sizeof(alloc), 0, 0};
  mprotect(edge.bytes(), kPage, PROT_READ);
  claim("a reply that can't be written is EFAULT", -EFAULT, fd.call(uapi::IOMMU_IOAS_ALLOC, *cut));
  claim("and the id is free again", 2, fd.ioas());
  claim("flags are EOPNOTSUPP", -EOPNOTSUPP, (alloc = {sizeof(alloc), 1, 0}, fd.call(0x3b81, alloc)));
  claim("ids go on", 3, fd.ioas());
  claim("destroy", 0, fd.destroy(2));
  claim("the lowest free id comes next", 2, fd.ioas());
  claim("id 0 is nothing", -ENOENT, fd.destroy(0));
  claim("nor is a large one", -ENOENT, fd.destroy(UINT32_MAX));
  char byte = 0;
  claim("read is EINVAL", -EINVAL, fd.file->read(reinterpret_cast<uint64_t>(&byte), 1));
}

void mapping(Host& host) {
  Fd fd(host);
  const uint32_t ioas = fd.ioas();
  Fd::Ranges ranges = fd.ranges(ioas);
  claim("a fresh IOAS has one range", ranges.result == 0 && ranges.count == 1 && ranges.list[0].start == 0 &&
                                          ranges.list[0].last == UINT64_MAX && ranges.alignment == 1);
  ranges = fd.ranges(ioas, 0);
  claim("no slots: EMSGSIZE and the count", ranges.result == -EMSGSIZE && ranges.count == 1);

  Buffer buffer(8 << 20);
  const uint64_t two = (buffer.user() + (2 << 20) - 1) & ~uint64_t{(2 << 20) - 1};
  uint64_t iova = 0;
  const auto place = [&](uint64_t user, uint64_t length) {
    iova = 0;
    const int error = fd.map(ioas, kBoth, user, length, iova);
    return error != 0 ? static_cast<uint64_t>(error) : iova;
  };
  claim("auto: 1 page at 0x1000", 0x1000, static_cast<int64_t>(place(two, kPage)));
  claim("auto: 1 page at 0x2000", 0x2000, static_cast<int64_t>(place(two, kPage)));
  claim("auto: 3 pages at 0x4000", 0x4000, static_cast<int64_t>(place(two, 3 * kPage)));
  claim("auto: 1 page in the hole, 0x3000", 0x3000, static_cast<int64_t>(place(two, kPage)));
  claim("auto: 5 pages at 0x8000", 0x8000, static_cast<int64_t>(place(two, 5 * kPage)));
  claim("auto: 2 MiB at 0x200000", 0x200000, static_cast<int64_t>(place(two, 2 << 20)));
  claim("auto: 2^63 bytes EOVERFLOW", -EOVERFLOW, fd.map(ioas, kBoth, 0, uint64_t{1} << 63, iova));

  claim("no access flags is EINVAL, before the id", -EINVAL, fd.mapAt(99, 0x9000000, two, kPage, 0));
  claim("unknown flag EOPNOTSUPP", -EOPNOTSUPP, fd.mapAt(99, 0x9000000, two, kPage, 8));
  claim("iova 2^64-1 EOVERFLOW", -EOVERFLOW, fd.mapAt(99, UINT64_MAX, two, kPage));
  claim("no such IOAS ENOENT", -ENOENT, fd.mapAt(99, 0x9000000, two, kPage));
  claim("length 0 EINVAL", -EINVAL, fd.mapAt(ioas, 0x9000000, two, 0));
  claim("va + length wraps EOVERFLOW", -EOVERFLOW, fd.mapAt(ioas, 0x9000000, UINT64_MAX - 5, 6));
  claim("iova + length wraps EOVERFLOW", -EOVERFLOW, fd.mapAt(ioas, UINT64_MAX - 4096, two, 2 * kPage));
  claim("overlap EEXIST", -EEXIST, fd.mapAt(ioas, 0x2fff, two, 2));
  claim("a wild VA maps while no page table wants it", 0, fd.mapAt(ioas, 0x9000000, 8, kPage));
  claim("bytes map", 0, fd.mapAt(ioas, 0x15000, two, 1));
  uint64_t three = 0;
  claim("3 bytes at +5 ...", 0, fd.map(ioas, kBoth, two + 5, 3, three));
  claim("... keep the page offset", 0x7005, static_cast<int64_t>(three));
  claim("and go", 0, fd.unmap(ioas, three, 3));

  uint64_t unmapped = 0;
  claim("unmap of a hole ENOENT", -ENOENT, fd.unmap(ioas, 0x40000000, kPage, &unmapped));
  claim("unmap length 0 EINVAL", -EINVAL, fd.unmap(ioas, 0x40000000, 0));
  claim("unmap wrap EOVERFLOW", -EOVERFLOW, fd.unmap(ioas, UINT64_MAX - 1, 4096));
  unmapped = 0;
  claim("unmap that cuts is ENOENT", -ENOENT, fd.unmap(ioas, 0x1000, 0x3000 + 1, &unmapped));
  claim("... its length is left alone", 0x3001, static_cast<int64_t>(unmapped));
  claim("... the lower ones are gone", -ENOENT, fd.unmap(ioas, 0x1000, 0x3000));
  claim("a superset unmaps", 0, fd.unmap(ioas, 0x3800, 0x4000, &unmapped));
  claim("... and says the bytes", 0x3000, static_cast<int64_t>(unmapped));
  claim("unmap everything", 0, fd.unmap(ioas, 0, UINT64_MAX, &unmapped));
  claim("unmap everything of nothing", 0, fd.unmap(ioas, 0, UINT64_MAX, &unmapped));
  claim("... 0 bytes", 0, static_cast<int64_t>(unmapped));

  claim("allow: start == last EINVAL", -EINVAL, fd.allow(ioas, {{5, 5}}));
  claim("allow: overlap EINVAL", -EINVAL, fd.allow(ioas, {{0x1000, 0x2fff}, {0x2fff, 0x3000}}));
  claim("allow two that touch", 0, fd.allow(ioas, {{0x11000, 0x11fff}, {0x12000, 0x12fff}}));
  claim("auto: two pages over both", 0x12000 - 0x1000, static_cast<int64_t>(place(two + 4096, 2 * kPage)));
  claim("auto: nothing left ENOSPC", -ENOSPC, static_cast<int64_t>(place(two, kPage)));
  claim("a fixed map may lie outside", 0, fd.mapAt(ioas, 0x20000, two, kPage));
  claim("allow nothing is no restriction", 0, fd.allow(ioas, {}));
  claim("auto: 0x1000 again", 0x1000, static_cast<int64_t>(place(two, kPage)));
  claim("a user pointer to nowhere EFAULT", [&] {
    uapi::iommu_ioas_allow_iovas allow = {sizeof(allow), ioas, UINT32_MAX, 0, 8};
    return fd.call(uapi::IOMMU_IOAS_ALLOW_IOVAS, allow);
  }() == -EFAULT);
}

void copying(Host& host) {
  Fd fd(host);
  const uint32_t from = fd.ioas();
  const uint32_t to = fd.ioas();
  Buffer buffer(16 * kPage);
  claim("two adjacent areas", 0, fd.mapAt(from, 0x10000, buffer.user(), 4 * kPage));
  claim("the second read-only", 0, fd.mapAt(from, 0x14000, buffer.user(), 4 * kPage, kRead));
  uint64_t iova = 0;
  claim("copy across both", 0, fd.copy(from, 0x12000, to, 4 * kPage, iova, kRead));
  claim("makes one area per piece", 0, fd.unmap(to, iova, 2 * kPage));
  claim("... the other stays", 0, fd.unmap(to, iova + 2 * kPage, 2 * kPage));
  claim("over a hole ENOENT", -ENOENT, fd.copy(from, 0x16000, to, 4 * kPage, iova));
  claim("write of read-only EPERM", -EPERM, fd.copy(from, 0x14000, to, kPage, iova));
  claim("no bytes EINVAL", -EINVAL, fd.copy(from, 0x14000, to, 0, iova));
  claim("source looked up before target", -ENOENT, fd.copy(from, 0x14000, 99, kPage, iova));
  iova = 0x50000;
  claim("copy to a fixed place", 0, fd.copy(from, 0x10000, to, kPage, iova, kBoth | kFixed));
  claim("onto a mapping EEXIST", -EEXIST, fd.copy(from, 0x10000, to, kPage, iova, kBoth | kFixed));
  claim("the source may go", 0, fd.destroy(from));
  claim("the copy stays", 0, fd.unmap(to, 0x50000, kPage));
}

void options(Host& host) {
  Fd fd(host);
  uint64_t value = 9;
  claim("rlimit mode", 0, fd.option(uapi::IOMMU_OPTION_RLIMIT_MODE, uapi::IOMMU_OPTION_OP_GET, 0, value));
  claim("is by user", 0, static_cast<int64_t>(value));
  claim("unknown option EOPNOTSUPP", -EOPNOTSUPP, fd.option(2, uapi::IOMMU_OPTION_OP_GET, 0, value));
  const uint32_t ioas = fd.ioas();
  claim("huge pages of nothing ENOENT", -ENOENT,
        fd.option(uapi::IOMMU_OPTION_HUGE_PAGES, uapi::IOMMU_OPTION_OP_GET, 99, value));
  claim("huge pages", 0, fd.option(uapi::IOMMU_OPTION_HUGE_PAGES, uapi::IOMMU_OPTION_OP_GET, ioas, value));
  claim("are on", 1, static_cast<int64_t>(value));
  Buffer buffer(kPage);
  claim("a byte", 0, fd.mapAt(ioas, 1, buffer.user(), 1));
  value = 0;
  claim("off is EADDRINUSE over it", -EADDRINUSE,
        fd.option(uapi::IOMMU_OPTION_HUGE_PAGES, uapi::IOMMU_OPTION_OP_SET, ioas, value));
  claim("without it", 0, fd.unmap(ioas, 1, 1));
  claim("off", 0, fd.option(uapi::IOMMU_OPTION_HUGE_PAGES, uapi::IOMMU_OPTION_OP_SET, ioas, value));
  claim("raises the alignment", 4096, static_cast<int64_t>(fd.ranges(ioas).alignment));
  value = 1;
  claim("on", 0, fd.option(uapi::IOMMU_OPTION_HUGE_PAGES, uapi::IOMMU_OPTION_OP_SET, ioas, value));
  claim("lowers it", 1, static_cast<int64_t>(fd.ranges(ioas).alignment));
}

void devices(Host& host) {
  Unit unit = vtd();
  Group group = {7, {}};
  Group pair = {8, {}};
  Endpoint nic(host, "0000:01:00.0", 0x100, unit, group);
  Endpoint left(host, "0000:02:00.0", 0x200, unit, pair);
  Endpoint right(host, "0000:02:00.1", 0x201, unit, pair);
  right.reserved.push_back({{0x100000, 0x1fffff}, iommu::ReservedKind::direct});
  right.reserved.push_back({{0x300000, 0x3fffff}, iommu::ReservedKind::directRelaxable});

  Fd fd(host);
  std::unique_ptr<BoundDevice> device;
  group.kernelDrivers = 1;
  claim("bind while a kernel driver is there EPERM", -EPERM, iommufd::bind(fd.file, nic, device));
  group.kernelDrivers = 0;
  claim("bind to a file of another kind EBADFD", -EBADFD,
        iommufd::bind(std::make_shared<File>(), nic, device));
  claim("bind", 0, iommufd::bind(fd.file, nic, device));
  claim("its id is 1", 1, device->id());
  std::unique_ptr<BoundDevice> again;
  claim("another file EPERM", -EPERM, iommufd::bind(Fd(host).file, nic, again));
  claim("destroy of a device EBUSY", -EBUSY, fd.destroy(1));
  char byte = 0;
  claim("unattached, its DMA is blocked", !nic.dma.read(0x1000, &byte, 1));
  claim("... and says so", host.takeFaults().back().reason == "blocked");

  const uint32_t ioas = fd.ioas();
  Buffer buffer(4 << 20);
  std::memset(buffer.bytes(), 0x11, buffer.size());
  uint32_t pt = 99;
  claim("attach to nothing ENOENT", -ENOENT, device->attach(pt));
  pt = device->id();
  claim("attach to a device EINVAL", -EINVAL, device->attach(pt));
  claim("a wild mapping", 0, fd.mapAt(ioas, 0x900000, 0x4141414141414000, kPage));
  claim("a good one below", 0, fd.mapAt(ioas, 0x10000, buffer.user(), 2 << 20));
  pt = ioas;
  claim("attach pins: EFAULT", -EFAULT, device->attach(pt));
  claim("... the id is unchanged", ioas, pt);
  Fd::Ranges ranges = fd.ranges(ioas);
  claim("... and the ranges", ranges.count == 1 && ranges.alignment == 1);
  claim("... and nothing is pinned or attached", nic.translation() == nullptr);
  claim("without it", 0, fd.unmap(ioas, 0x900000, kPage));
  claim("a mapping in the MSI window", 0, fd.mapAt(ioas, 0xfee00000, buffer.user(), kPage));
  claim("attach EADDRINUSE", -EADDRINUSE, device->attach(pt));
  claim("away with it", 0, fd.unmap(ioas, 0xfee00000, kPage));
  claim("attach", 0, device->attach(pt));
  claim("says the page table: 3", 3, pt);
  ranges = fd.ranges(ioas);
  claim("the ranges lose the window and what is above the aperture",
        ranges.count == 2 && ranges.list[0].last == 0xfedfffff && ranges.list[1].start == 0xfef00000 &&
            ranges.list[1].last == (uint64_t{1} << 48) - 1 && ranges.alignment == 4096);
  claim("destroy of an IOAS in use EBUSY", -EBUSY, fd.destroy(ioas));
  claim("a map into the window EINVAL", -EINVAL, fd.mapAt(ioas, 0xfee00000, buffer.user(), kPage));
  claim("a misaligned map EINVAL", -EINVAL, fd.mapAt(ioas, 0x800000, buffer.user() + 1, kPage));
  claim("a wild one EFAULT", -EFAULT, fd.mapAt(ioas, 0x800000, 8 * kPage, kPage));
  claim("leaves nothing", -ENOENT, fd.unmap(ioas, 0x800000, kPage));

  std::vector<char> data(3 * kPage);
  claim("DMA reads across pages",
        nic.dma.read(0x10000 + 100, data.data(), data.size()) && data[5000] == 0x11);
  std::memset(data.data(), 0x22, data.size());
  claim("DMA writes", nic.dma.write(0x10000 + 100, data.data(), data.size()) && buffer.bytes()[100] == 0x22 &&
                          buffer.bytes()[99] == 0x11 && buffer.bytes()[100 + data.size()] == 0x11);
  (void)host.takeFaults();
  claim("DMA over the end fails", !nic.dma.write(0x10000 + (2 << 20) - 10, data.data(), 20));
  const std::vector<DmaFault> faults = host.takeFaults();
  claim("... where it did", faults.size() == 1 && faults[0].iova == 0x10000 + (2 << 20) &&
                                faults[0].length == 10 && faults[0].write && faults[0].bdf == nic.bdf &&
                                faults[0].reason == "not mapped");
  claim("... and the bytes before it have moved", buffer.bytes()[(2 << 20) - 1] == 0x22);
  claim("DMA beyond the aperture", !nic.dma.read(uint64_t{1} << 48, &byte, 1) &&
                                       host.takeFaults().back().reason == "beyond the aperture");
  claim("DMA at the end of all", !nic.dma.read(UINT64_MAX, data.data(), 20));
  claim("a read-only mapping", 0, fd.mapAt(ioas, 0xa00000, buffer.user(), kPage, kRead));
  claim("can't be written",
        !nic.dma.write(0xa00000, &byte, 1) && host.takeFaults().back().reason == "not writable");
  mprotect(buffer.bytes() + kPage, kPage, PROT_NONE);
  claim("pinned memory that was protected is a fault",
        !nic.dma.read(0x10000 + kPage, &byte, 1) &&
            host.takeFaults().back().reason == "no memory behind the mapping");
  mprotect(buffer.bytes() + kPage, kPage, PROT_READ | PROT_WRITE);

  Buffer going(kPage);
  going.forget();
  claim("map", 0, fd.mapAt(ioas, 0xb00000, going.user(), kPage));
  uint64_t second = 0xc00000;
  claim("copy shares it", 0, fd.copy(ioas, 0xb00000, ioas, kPage, second, kBoth | kFixed));
  claim("munmap", 0, host.memory().unmap(going.user(), kPage));
  claim("DMA still works", nic.dma.write(0xb00000, &byte, 1));
  claim("unmap the original", 0, fd.unmap(ioas, 0xb00000, kPage));
  claim("DMA to the copy still works", nic.dma.write(0xc00000, &byte, 1) && mapped(going.user()));
  claim("unmap the copy", 0, fd.unmap(ioas, 0xc00000, kPage));
  claim("now the memory goes", !mapped(going.user()));

  uint32_t manual = 0;
  claim("a manual page table", 0, fd.hwpt(device->id(), ioas, manual));
  claim("is 4", 4, manual);
  uint32_t other = 0;
  claim("of no device ENOENT", -ENOENT, fd.hwpt(99, ioas, other));
  claim("of no IOAS EINVAL", -EINVAL, fd.hwpt(device->id(), 99, other));
  claim("nest parent EOPNOTSUPP", -EOPNOTSUPP, fd.hwpt(device->id(), ioas, other, 1));
  claim("dirty tracking EOPNOTSUPP", -EOPNOTSUPP, fd.hwpt(device->id(), ioas, other, 2));
  claim("faults EOPNOTSUPP", -EOPNOTSUPP, fd.hwpt(device->id(), ioas, other, 4));
  claim("nested without data EOPNOTSUPP", -EOPNOTSUPP, fd.hwpt(device->id(), manual, other));
  pt = manual;
  claim("replace", 0, device->replace(pt));
  claim("the auto page table is gone", -ENOENT, fd.destroy(3));
  claim("DMA goes on", nic.dma.read(0x10000, &byte, 1));
  claim("the manual one is busy", -EBUSY, fd.destroy(manual));
  pt = ioas;
  claim("replace by IOAS makes an auto one", 0, device->replace(pt));
  claim("with the free id", 3, pt);
  claim("the manual one stays until it is destroyed", 0, fd.destroy(manual));

  std::unique_ptr<BoundDevice> l;
  std::unique_ptr<BoundDevice> r;
  claim("bind the pair", iommufd::bind(fd.file, left, l) == 0 && iommufd::bind(fd.file, right, r) == 0);
  pt = ioas;
  claim("a second device shares the auto page table", 0, l->attach(pt));
  claim("so it does", 3, pt);
  claim("its whole group moves", right.translation() == nic.translation());
  claim("the other member's region is taken: EADDRINUSE", -EADDRINUSE, r->attach(pt));
  const uint32_t second_ioas = fd.ioas();
  pt = second_ioas;
  claim("the other member elsewhere EINVAL", -EINVAL, r->attach(pt));
  pt = second_ioas;
  claim("the first moves elsewhere", 0, l->replace(pt));
  claim("the other joins", 0, r->attach(pt));
  ranges = fd.ranges(second_ioas);
  claim("its direct region is out of use, the relaxable not", ranges.list[0].last == 0xfffff &&
                                                                  ranges.list[1].start == 0x200000 &&
                                                                  ranges.list[1].last == 0xfedfffff);
  pt = ioas;
  claim("moving back through one member fails for the other's region", -EADDRINUSE, l->replace(pt));
  claim("... and nothing has moved", fd.ranges(second_ioas).count == 3 &&
                                         right.translation() == left.translation() &&
                                         left.translation() != nic.translation());
  l->detach();
  claim("the group stays with its last member",
        right.translation() != nullptr && left.translation() == right.translation());
  r->detach();
  claim("detached: blocked", right.translation() == nullptr && left.translation() == nullptr);
  claim("the ranges are wide again", 1, fd.ranges(second_ioas).count);
  r->detach();

  uapi::iommu_hw_info_vtd info[2];
  std::memset(info, 0xff, sizeof(info));
  uapi::iommu_hw_info question = {};
  question.size = sizeof(question);
  question.dev_id = device->id();
  question.data_len = sizeof(info);
  question.data_uptr = reinterpret_cast<uint64_t>(info);
  claim("hardware info", 0, fd.call(uapi::IOMMU_GET_HW_INFO, question));
  claim("is of a VT-d", question.out_data_type == 1 && question.data_len == 24);
  claim("as QEMU has it",
        info[0].flags == 1 && info[0].cap_reg == 0x00d2008c222f0686 && info[0].ecap_reg == 0x00f00f4e);
  claim("the rest is zero", info[1].cap_reg == 0 && info[1].ecap_reg == 0);

  // The order in which files are closed.
  fd.file.reset();
  claim("a bound device works on after the file is closed", nic.dma.read(0x10000, &byte, 1));
  claim("and holds its group", nullptr != group.owner);
  device.reset();
  l.reset();
  r.reset();
  claim("unbound, the group is free", group.owner == nullptr && pair.owner == nullptr);
  claim("and its DMA blocked", nic.translation() == nullptr);
}

void container(Host& host) {
  Unit unit = vtd();
  Group group = {1, {}};
  Endpoint nic(host, "0000:01:00.0", 0x100, unit, group);
  Fd fd(host);
  claim("API version", 0, fd.file->ioctl(uapi::VFIO_GET_API_VERSION, 0));
  claim("type1v2", 1, fd.file->ioctl(uapi::VFIO_CHECK_EXTENSION, uapi::VFIO_TYPE1v2_IOMMU));
  claim("no coherency without an IOAS", -ENODEV,
        fd.file->ioctl(uapi::VFIO_CHECK_EXTENSION, uapi::VFIO_DMA_CC_IOMMU));
  claim("nothing else", 0, fd.file->ioctl(uapi::VFIO_CHECK_EXTENSION, 77));
  claim("set iommu ENODEV", -ENODEV, fd.file->ioctl(uapi::VFIO_SET_IOMMU, uapi::VFIO_TYPE1v2_IOMMU));
  claim("set another EINVAL", -EINVAL, fd.file->ioctl(uapi::VFIO_SET_IOMMU, 7));
  uint32_t id = 0;
  claim("no compat IOAS ENODEV", -ENODEV, fd.vfioIoas(uapi::IOMMU_VFIO_IOAS_GET, id));
  uint32_t ioas = fd.ioas();
  claim("set one", 0, fd.vfioIoas(uapi::IOMMU_VFIO_IOAS_SET, ioas));
  claim("get it", 0, fd.vfioIoas(uapi::IOMMU_VFIO_IOAS_GET, id));
  claim("it is that", ioas, id);
  claim("set iommu", 0, fd.file->ioctl(uapi::VFIO_SET_IOMMU, uapi::VFIO_TYPE1_IOMMU));
  std::unique_ptr<BoundDevice> device;
  uint32_t pt = ioas;
  claim("attach", iommufd::bind(fd.file, nic, device) == 0 && device->attach(pt) == 0);

  Buffer buffer(4 << 20);
  uapi::vfio_iommu_type1_dma_map map = {sizeof(map), 3, buffer.user(), 0x400000, 4 << 20};
  claim("map", 0, fd.call(uapi::VFIO_IOMMU_MAP_DMA, map));
  claim("again EEXIST", -EEXIST, fd.call(uapi::VFIO_IOMMU_MAP_DMA, map));
  uapi::vfio_iommu_type1_dma_unmap unmap = {sizeof(unmap), 0, 0x500000, 0x1000};
  claim("v1 cuts a hole", 0, fd.call(uapi::VFIO_IOMMU_UNMAP_DMA, unmap));
  claim("of that size", 0x1000, static_cast<int64_t>(unmap.size));
  char byte = 0;
  claim("the sides stay", nic.dma.read(0x4fffff, &byte, 1) && nic.dma.read(0x501000, &byte, 1) &&
                              nic.dma.read(0x7fffff, &byte, 1));
  claim("the hole doesn't", !nic.dma.read(0x500800, &byte, 1));
  unmap = {sizeof(unmap), 0, 0x500000, 0x1000};
  claim("nothing there is fine", fd.call(uapi::VFIO_IOMMU_UNMAP_DMA, unmap) == 0 && unmap.size == 0);
  unmap = {sizeof(unmap), 0, 0x600800, 0x1000};
  claim("a misaligned cut EINVAL, size left",
        fd.call(uapi::VFIO_IOMMU_UNMAP_DMA, unmap) == -EINVAL && unmap.size == 0x1000);
  unmap = {sizeof(unmap), uapi::VFIO_DMA_UNMAP_FLAG_ALL, 0, 0};
  claim("all of it", fd.call(uapi::VFIO_IOMMU_UNMAP_DMA, unmap) == 0 && unmap.size == (4 << 20) - 0x1000);

  struct {
    uapi::vfio_iommu_type1_info info;
    uint8_t rest[200];
  } answer = {};
  answer.info.argsz = 24;
  claim("info", 0, fd.call(uapi::VFIO_IOMMU_GET_INFO, answer));
  claim("short: needs 24+16+16+2*16", 88, answer.info.argsz);
  claim("no offset yet", answer.info.cap_offset == 0 && answer.info.flags == 3);
  claim("page sizes", 0x40201000, static_cast<int64_t>(answer.info.iova_pgsizes));
  answer.info.argsz = sizeof(answer);
  claim("info", 0, fd.call(uapi::VFIO_IOMMU_GET_INFO, answer));
  const auto* const words = reinterpret_cast<const uint16_t*>(&answer);
  claim("capabilities 3 and 1", answer.info.cap_offset == 24 && words[12] == 3 && words[14] == 40 &&
                                    words[20] == 1 && words[22] == 0 && words[24] == 2);
  device.reset();
  claim("destroy of the compat IOAS", 0, fd.destroy(ioas));
  claim("leaves none", -ENODEV, fd.vfioIoas(uapi::IOMMU_VFIO_IOAS_GET, id));
}

// Random maps and unmaps with an attached page table, compared with a simple model of the memory behind each
// page.
void translation(Host& host) {
  Unit unit = vtd();
  Group group = {1, {}};
  Endpoint nic(host, "0000:01:00.0", 0x100, unit, group);
  Fd fd(host);
  std::unique_ptr<BoundDevice> device;
  const uint32_t ioas = fd.ioas();
  uint32_t pt = ioas;
  claim("attach", iommufd::bind(fd.file, nic, device) == 0 && device->attach(pt) == 0);
  constexpr uint64_t kPages = 2048;
  Buffer buffer(kPages * kPage);
  for (uint64_t at = 0; at < kPages; ++at) {
    std::memcpy(buffer.bytes() + at * kPage, &at, sizeof(at));
  }
  std::mt19937_64 random(2);
  std::map<uint64_t, std::pair<uint64_t, uint64_t>> areas;  // by page: length, first page shown
  bool same = true;
  for (int round = 0; round < 4000; ++round) {
    const uint64_t at = random() % 8192;
    const uint64_t length = 1 + random() % (round % 10 == 0 ? 1200 : 8);
    const uint64_t first = round % 3 == 0 ? at % 512 : random() % (kPages - length);
    if (first + length > kPages) continue;
    auto next = areas.lower_bound(at);
    const bool below = next != areas.begin() && std::prev(next)->first + std::prev(next)->second.first > at;
    const bool overlaps = below || (next != areas.end() && next->first < at + length);
    const int error = fd.mapAt(ioas, at * kPage, buffer.user() + first * kPage, length * kPage);
    same = same && error == (overlaps ? -EEXIST : 0);
    if (!overlaps) areas[at] = {length, first};
    if (overlaps && !areas.empty()) {
      auto victim = areas.lower_bound(random() % 8192);
      if (victim == areas.end()) victim = areas.begin();
      same = same && fd.unmap(ioas, victim->first * kPage, victim->second.first * kPage) == 0;
      areas.erase(victim);
    }
    const uint64_t probe = random() % 9500;
    auto hit = areas.upper_bound(probe);
    const bool there = hit != areas.begin() && (--hit, probe < hit->first + hit->second.first);
    uint64_t got = 0;
    same = same && nic.dma.read(probe * kPage, &got, sizeof(got)) == there;
    if (there) same = same && got == hit->second.second + (probe - hit->first);
  }
  claim("translation agrees with a plain model over 4000 steps", same);
}

using Dirty = std::vector<std::pair<uint64_t, uint64_t>>;

Dirty dirtyOf(iommu::Domain& domain, uint64_t iova, uint64_t size, bool clear) {
  Dirty out;
  domain.collectDirty(iova, size, clear,
                      [&out](uint64_t at, uint64_t length) { out.emplace_back(at, length); });
  return out;
}

void dirtyBits(Host& host) {
  // The kernel's mock IOMMU has pages of half a processor page, and large pages of 1 MiB.
  constexpr uint64_t kHalf = kPage / 2;
  constexpr uint64_t kHuge = 512 * kHalf;
  constexpr uint64_t kBase = uint64_t{1} << 24;
  constexpr uint64_t kUser = uint64_t{1} << 32;
  const iommu::Unit mock = iommu::makeUnit({.model = &iommu::models::custom(),
                                            .apertures = {{{kBase, (uint64_t{1} << 31) - 1}}},
                                            .pageSizes = kHalf | kHuge,
                                            .dirtyTracking = true});
  iommu::Domain domain(host, mock);
  claim("half pages map", 0, domain.map(kBase + kHalf, kUser + kHalf, 5 * kHalf, iommu::kWrite, false));
  claim("and are one run of memory", 5 * kHalf, domain.translate(kBase + kHalf, kHuge)->size);
  domain.setDirtyTracking(true);
  domain.markDirty(kBase + 2 * kHalf + 1, kHalf);
  claim(
      "a write makes each page that it touches dirty",
      dirtyOf(domain, kBase, kHuge, false) == Dirty{{kBase + 2 * kHalf, kHalf}, {kBase + 3 * kHalf, kHalf}});
  claim("bits that weren't cleared stay, and those outside aren't shown",
        dirtyOf(domain, kBase, 3 * kHalf, true) == Dirty{{kBase + 2 * kHalf, kHalf}});
  claim("cleared ones are gone", dirtyOf(domain, kBase, kHuge, false) == Dirty{{kBase + 3 * kHalf, kHalf}});
  domain.setDirtyTracking(false);
  claim("turned off, bits stay", dirtyOf(domain, kBase, kHuge, false).size() == 1);
  domain.setDirtyTracking(true);
  claim("turned on, they are cleared", dirtyOf(domain, kBase, kHuge, false).empty());
  domain.markDirty(kBase + kHalf, 1);
  domain.unmap(kBase + kHalf, 5 * kHalf);
  claim("map anew", 0, domain.map(kBase, kUser, kHuge + kHalf, iommu::kWrite, false));
  claim("a new mapping is clean", dirtyOf(domain, 0, UINT64_MAX, false).empty());
  domain.markDirty(kBase + 5, 8);
  claim("a large page is dirty as a whole", dirtyOf(domain, kBase, 1, false) == Dirty{{kBase, kHuge}});
  claim("and from where one asks, as long as it is",
        dirtyOf(domain, kBase + kHalf, 1, false) == Dirty{{kBase + kHalf, kHuge}});
  const auto run = domain.translate(kBase + 3 * kHalf, kHalf);
  claim("a dirty leaf translates as before",
        run && run->user == kUser + 3 * kHalf && run->size == kHalf && run->access == iommu::kWrite);
  domain.markDirty(kBase - kHalf, kBase);
  claim("what isn't mapped can't be dirty",
        dirtyOf(domain, 0, UINT64_MAX, true) == Dirty{{kBase, kHuge}, {kBase + kHuge, kHalf}});
}

void dirtyWrites(Host& host) {
  iommu::Unit unit = vtd();
  iommu::Group group = {7, {}};
  iommu::Endpoint nic(host, "0000:07:00.0", 0x700, unit, group);
  Buffer buffer(4 * kPage);
  const auto table = std::make_shared<iommu::Domain>(host, unit);
  nic.attach(std::nullopt, {table, nullptr});
  iommu::Domain& domain = *table;
  claim("map", 0, domain.map(0, buffer.user(), 4 * kPage, iommu::kRead | iommu::kWrite, false));
  char bytes[16] = {};
  claim("DMA", nic.dma.write(0, bytes, sizeof(bytes)));
  domain.setDirtyTracking(true);
  claim("DMA that reads", nic.dma.read(0, bytes, sizeof(bytes)));
  claim("reading makes nothing dirty", dirtyOf(domain, 0, 4 * kPage, false).empty());
  claim("DMA that writes", nic.dma.write(2 * kPage - 8, bytes, sizeof(bytes)));
  claim("writing does", dirtyOf(domain, 0, 4 * kPage, false) == Dirty{{kPage, kPage}, {2 * kPage, kPage}});
  domain.unmap(0, 4 * kPage);
  nic.attach(std::nullopt, {});
}

}  // namespace
}  // namespace vfio::soft::check

int main() {
  using namespace vfio::soft::check;
  vfio::soft::Host host(std::make_shared<vfio::soft::mm::Memory>(), {.kernel = {6, 12}});
  wildPointers();
  truncatedFile();
  otherFaults();
  pins();
  tree();
  commandLayer(host);
  mapping(host);
  copying(host);
  options(host);
  devices(host);
  container(host);
  translation(host);
  dirtyBits(host);
  dirtyWrites(host);
  std::printf("%d claims failed\n", failures);
  return failures == 0 ? 0 : 1;
}
