// Makes sequences of calls on address spaces and prints each answer: where mappings fit, which pages are
// pinned and charged to whom, which memory can't be pinned, the requests of a container, users inside the
// kernel. Runs on the kernel (`kernel`, in the guest, with its mock devices) or on the software host
// (`soft`). ioas_trace.txt contains the kernel's answers (docs/testing.md).
#include <fcntl.h>
#include <linux/capability.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstdarg>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <memory>
#include <vector>

#include "../../native/kernel/kernel.h"
#include "../../native/soft/host/host.h"
#include "../../native/soft/iommufd/context.h"
#include "../../native/soft/mm/memory.h"
#include "../../native/soft/selftest/hooks.h"
#include "../../native/soft/selftest/test_command.h"
#include "../../native/uapi/iommufd.h"
#include "../../native/uapi/vfio_container.h"
#include "failing.h"

namespace {

using namespace vfio;
using soft::selftest::TestCommand;

constexpr uint64_t kPage = 4096;
constexpr uint32_t kFixed = uapi::IOMMU_IOAS_MAP_FIXED_IOVA;
constexpr uint32_t kWrite = uapi::IOMMU_IOAS_MAP_WRITEABLE;
constexpr uint32_t kRead = uapi::IOMMU_IOAS_MAP_READABLE;
// An IOVA in the mock unit's aperture.
constexpr uint64_t kBase = uint64_t{1} << 24;

std::unique_ptr<Backend> host;
soft::Host* software = nullptr;
const char* diskFile = nullptr;  // a file on a file system other than tmpfs

__attribute__((format(printf, 1, 2))) void say(const char* format, ...) {
  va_list arguments;
  va_start(arguments, format);
  std::vprintf(format, arguments);
  va_end(arguments);
  std::putchar('\n');
}

// Random numbers that are the same on every machine.
struct Random {
  uint64_t state;
  uint64_t next() {
    state ^= state << 13;
    state ^= state >> 7;
    state ^= state << 17;
    return state;
  }
  uint64_t below(uint64_t limit) { return next() % limit; }
};

// One open /dev/iommu; every call prints what it answered.
struct Fd {
  int fd;
  explicit Fd(bool payByMm = false) {
    if (software != nullptr && payByMm) {
      // Setting the option needs a capability that this process may lack.
      fd = software->install(
          std::make_shared<soft::iommufd::Context>(*software, soft::mm::Payer::mm, &soft::selftest::hooks()),
          soft::FdKind::plain, O_RDWR);
      return;
    }
    fd = host->open("/dev/iommu", O_RDWR);
    if (payByMm) {
      uapi::iommu_option option = {sizeof(option), uapi::IOMMU_OPTION_RLIMIT_MODE, 0, 0, 0, 1};
      if (host->ioctl(fd, uapi::IOMMU_OPTION, reinterpret_cast<uintptr_t>(&option)) != 0) std::abort();
    }
  }
  ~Fd() { host->close(fd); }

  template <class Struct>
  int call(uint32_t request, Struct& arguments) const {
    return host->ioctl(fd, request, reinterpret_cast<uintptr_t>(&arguments));
  }
  uint32_t ioas() const {
    uapi::iommu_ioas_alloc alloc = {sizeof(alloc), 0, 0};
    const int result = call(uapi::IOMMU_IOAS_ALLOC, alloc);
    say("ioas %d: %u", result, alloc.out_ioas_id);
    return alloc.out_ioas_id;
  }
  int destroy(uint32_t id) const {
    uapi::iommu_destroy destroy = {sizeof(destroy), id};
    const int result = call(uapi::IOMMU_DESTROY, destroy);
    say("destroy %u: %d", id, result);
    return result;
  }
  int map(uint32_t ioas, uint64_t user, uint64_t length, uint64_t iova, uint32_t flags) const {
    uapi::iommu_ioas_map map = {sizeof(map), flags, ioas, 0, user, length, iova};
    const int result = call(uapi::IOMMU_IOAS_MAP, map);
    say("map %u %llx+%llx: %d at %llx", flags, static_cast<unsigned long long>(iova),
        static_cast<unsigned long long>(length), result, static_cast<unsigned long long>(map.iova));
    return result;
  }
  int mapAt(uint32_t ioas, uint64_t user, uint64_t length, uint64_t iova,
            uint32_t flags = kRead | kWrite) const {
    return map(ioas, user, length, iova, flags | kFixed);
  }
  void unmap(uint32_t ioas, uint64_t iova, uint64_t length) const {
    uapi::iommu_ioas_unmap unmap = {sizeof(unmap), ioas, iova, length};
    const int result = call(uapi::IOMMU_IOAS_UNMAP, unmap);
    say("unmap %llx+%llx: %d, %llx", static_cast<unsigned long long>(iova),
        static_cast<unsigned long long>(length), result, static_cast<unsigned long long>(unmap.length));
  }
  void copy(uint32_t from, uint64_t source, uint32_t to, uint64_t length, uint64_t iova,
            uint32_t flags) const {
    uapi::iommu_ioas_copy copy = {sizeof(copy), flags, to, from, length, iova, source};
    const int result = call(uapi::IOMMU_IOAS_COPY, copy);
    say("copy %u %u:%llx+%llx to %u:%llx: %d at %llx", flags, from, static_cast<unsigned long long>(source),
        static_cast<unsigned long long>(length), to, static_cast<unsigned long long>(iova), result,
        static_cast<unsigned long long>(copy.dst_iova));
  }
  void allow(uint32_t ioas, std::vector<uapi::iommu_iova_range> list) const {
    uapi::iommu_ioas_allow_iovas allow = {sizeof(allow), ioas, static_cast<uint32_t>(list.size()), 0,
                                          reinterpret_cast<uint64_t>(list.data())};
    say("allow %zu: %d", list.size(), call(uapi::IOMMU_IOAS_ALLOW_IOVAS, allow));
  }
  void ranges(uint32_t ioas, uint32_t slots) const {
    std::vector<uapi::iommu_iova_range> list(8);
    uapi::iommu_ioas_iova_ranges ranges = {
        sizeof(ranges), ioas, slots, 0, reinterpret_cast<uint64_t>(list.data()), 7};
    const int result = call(uapi::IOMMU_IOAS_IOVA_RANGES, ranges);
    std::printf("ranges: %d, %u, %llx:", result, ranges.num_iovas,
                static_cast<unsigned long long>(ranges.out_iova_alignment));
    for (const auto& range : list) {
      std::printf(" %llx-%llx", static_cast<unsigned long long>(range.start),
                  static_cast<unsigned long long>(range.last));
    }
    say("%s", "");
  }
  void hugePages(uint32_t ioas, uint16_t op, uint64_t value) const {
    uapi::iommu_option option = {sizeof(option), uapi::IOMMU_OPTION_HUGE_PAGES, op, 0, ioas, value};
    const int result = call(uapi::IOMMU_OPTION, option);
    say("huge pages %u %llu: %d, %llu", op, static_cast<unsigned long long>(value), result,
        static_cast<unsigned long long>(option.val64));
  }
  // Makes a mock device that is attached to an address space or page table; 0: that failed.
  uint32_t device(uint32_t pt) const {
    TestCommand test = {};
    test.size = sizeof(test);
    test.op = soft::selftest::kMockDevice;
    test.id = pt;
    const int result = call(soft::selftest::kRequest, test);
    say("device on %u: %d, %u %u %u", pt, result, test.mockDevice.outStdevId, test.mockDevice.outHwptId,
        test.mockDevice.outIdevId);
    return result == 0 ? test.mockDevice.outStdevId : 0;
  }
  int test(const char* name, TestCommand& test) const {
    test.size = sizeof(test);
    const int result = call(soft::selftest::kRequest, test);
    say("%s: %d", name, result);
    return result;
  }
  void refs(uint64_t user, uint64_t length, uint32_t refs) const {
    TestCommand command = {};
    command.op = soft::selftest::kCheckRefs;
    command.checkRefs = {length, user, refs};
    test("refs", command);
  }
};

// ---------------------------------------------------------------- who pays

constexpr uint64_t kLimit = 16;  // pages

bool dropLock() {
  __user_cap_header_struct header = {_LINUX_CAPABILITY_VERSION_3, 0};
  __user_cap_data_struct data[_LINUX_CAPABILITY_U32S_3] = {};
  if (syscall(SYS_capget, &header, data) != 0) return false;
  data[CAP_TO_INDEX(CAP_IPC_LOCK)].effective &= ~CAP_TO_MASK(CAP_IPC_LOCK);
  return syscall(SYS_capset, &header, data) == 0;
}

// Prints the number of pinned pages, and the number of pages charged to the mm (with those that the program
// locked).
void counters() {
  if (software != nullptr) {
    const soft::mm::Charges& charges = software->memory().charges;
    say("pinned %llu, locked %llu", static_cast<unsigned long long>(charges.pinnedPages()),
        static_cast<unsigned long long>(charges.lockedPages()));
    return;
  }
  char text[8192] = {};
  const int fd = ::open("/proc/self/status", O_RDONLY);
  if (::read(fd, text, sizeof(text) - 1) <= 0) std::abort();
  ::close(fd);
  const auto pages = [&text](const char* name) {
    return std::strtoull(std::strstr(text, name) + 6, nullptr, 10) * 1024 / kPage;
  };
  say("pinned %llu, locked %llu", pages("VmPin:"), pages("VmLck:"));
}

char* memoryOf(uint64_t size, int protection = PROT_READ | PROT_WRITE) {
  return static_cast<char*>(mmap(nullptr, size, protection, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
}
uint64_t asUser(const void* pointer) { return reinterpret_cast<uint64_t>(pointer); }

void memlock(bool byMm) {
  say("--- charged to the %s", byMm ? "mm" : "user");
  Fd fd(byMm);
  const rlimit limit = {kLimit * kPage, kLimit * kPage};
  if (setrlimit(RLIMIT_MEMLOCK, &limit) != 0 || !dropLock()) std::abort();
  const uint32_t ioas = fd.ioas();
  char* const memory = memoryOf(64 * kPage);
  fd.mapAt(ioas, asUser(memory), 20 * kPage, kBase);
  fd.device(ioas);
  counters();
  fd.refs(asUser(memory), 20 * kPage, 0);
  fd.unmap(ioas, kBase, 20 * kPage);
  fd.mapAt(ioas, asUser(memory), 3 * kPage, kBase);
  const uint32_t device = fd.device(ioas);
  counters();
  fd.refs(asUser(memory), 3 * kPage, 1);
  fd.mapAt(ioas, asUser(memory), 14 * kPage, kBase + 0x100000);
  counters();
  fd.mapAt(ioas, asUser(memory), 13 * kPage, kBase + 0x100000);
  counters();
  fd.mapAt(ioas, asUser(memory), 1, kBase + 0x200000);
  fd.mapAt(ioas, asUser(memory), 2048, kBase + 0x200000);
  fd.copy(ioas, kBase + 0x100000, ioas, 4 * kPage, kBase + 0x300000, kRead | kFixed);
  counters();
  fd.unmap(ioas, kBase + 0x100000, 13 * kPage);
  counters();
  fd.copy(ioas, kBase, ioas, 3 * kPage, kBase + 0x400000, kRead | kFixed);
  fd.mapAt(ioas, asUser(memory + 30 * kPage), 9 * kPage, kBase + 0x500000);
  fd.mapAt(ioas, asUser(memory + 30 * kPage), 2048, kBase + 0x600000);
  mprotect(memory + 50 * kPage, kPage, PROT_NONE);
  fd.mapAt(ioas, asUser(memory + 30 * kPage), 21 * kPage, kBase + 0x600000);
  counters();
  fd.unmap(ioas, kBase + 0x500000, 9 * kPage);
  fd.mapAt(ioas, asUser(memory + 20 * kPage), 2048, kBase + 0x600000);
  fd.mapAt(ioas, asUser(memory + 20 * kPage) + 2048, 2048, kBase + 0x600800);
  counters();
  fd.destroy(device);
  counters();
  fd.mapAt(ioas, asUser(memory), 30 * kPage, kBase + 0x700000);
  fd.device(ioas);
  counters();
  fd.unmap(ioas, kBase + 0x700000, 30 * kPage);
  mlock(memory + 60 * kPage, 3 * kPage);
  fd.mapAt(ioas, asUser(memory), 8 * kPage, kBase + 0x700000);
  fd.device(ioas);
  fd.unmap(ioas, kBase + 0x700000, 8 * kPage);
  munlock(memory + 60 * kPage, 3 * kPage);

  // The same for a user inside the kernel, with huge pages off, and with a mapping that is cut.
  fd.unmap(ioas, 0, UINT64_MAX);
  fd.hugePages(ioas, uapi::IOMMU_OPTION_OP_SET, 0);
  fd.mapAt(ioas, asUser(memory), 8 * kPage, kBase);
  TestCommand create = {};
  create.op = soft::selftest::kCreateAccess;
  create.id = ioas;
  create.createAccess.flags = soft::selftest::kAccessNeedsPinPages;
  fd.test("access", create);
  const auto access = static_cast<int>(create.createAccess.outAccessFd);
  const auto pin = [&](uint64_t iova, uint64_t length) {
    TestCommand pages = {};
    pages.op = soft::selftest::kAccessPages;
    pages.id = static_cast<uint32_t>(access);
    pages.accessPages.iova = iova;
    pages.accessPages.length = length;
    fd.test("pin", pages);
    counters();
  };
  pin(kBase, 3 * kPage);
  pin(kBase + kPage, 4 * kPage);
  fd.mapAt(ioas, asUser(memory), 20 * kPage, 2 * kBase);
  pin(2 * kBase, 20 * kPage);
  pin(2 * kBase, 11 * kPage);
  fd.device(ioas);
  fd.unmap(ioas, 2 * kBase, 20 * kPage);
  fd.device(ioas);
  counters();
  host->close(access);
  counters();
  uapi::iommu_vfio_ioas vfio = {sizeof(vfio), ioas, uapi::IOMMU_VFIO_IOAS_SET, 0};
  say("compat: %d", fd.call(uapi::IOMMU_VFIO_IOAS, vfio));
  uapi::vfio_iommu_type1_dma_unmap cut = {sizeof(cut), 0, kBase + 2 * kPage, kPage};
  say("cut: %d", fd.call(uapi::VFIO_IOMMU_UNMAP_DMA, cut));
  counters();
}

// ---------------------------------------------------------------- what can be pinned

void kinds() {
  say("--- kinds of memory");
  Fd fd;
  const uint32_t ioas = fd.ioas();
  fd.device(ioas);
  uint64_t iova = kBase;
  const auto both = [&](const char* name, const void* at, uint64_t length = kPage) {
    say("%s", name);
    fd.mapAt(ioas, asUser(at), length, iova, kRead);
    iova += 0x10000;
    fd.mapAt(ioas, asUser(at), length, iova, kRead | kWrite);
    iova += 0x10000;
  };
  both("anonymous", memoryOf(kPage));
  both("read-only", memoryOf(kPage, PROT_READ));
  both("none", memoryOf(kPage, PROT_NONE));
  both("write-only", memoryOf(kPage, PROT_WRITE));
  both("null", nullptr);
  both("not an address", reinterpret_cast<void*>(0x4141414141414000));
  both("the kernel's", reinterpret_cast<void*>(0xffff800000000000));
  const auto memfd = static_cast<int>(syscall(SYS_memfd_create, "trace", 0));
  if (ftruncate(memfd, static_cast<off_t>(4 * kPage)) != 0) std::abort();
  both("memfd", mmap(nullptr, kPage, PROT_READ | PROT_WRITE, MAP_SHARED, memfd, 0));
  both("memfd, read-only", mmap(nullptr, kPage, PROT_READ, MAP_SHARED, memfd, 0));
  both(
      "memfd, behind its end",
      static_cast<char*>(mmap(nullptr, 8 * kPage, PROT_READ | PROT_WRITE, MAP_SHARED, memfd, 0)) + 4 * kPage);
  both("memfd, private", mmap(nullptr, kPage, PROT_READ | PROT_WRITE, MAP_PRIVATE, memfd, 0));
  both("shared", mmap(nullptr, kPage, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0));
  const int disk = ::open(diskFile, O_RDWR | O_CREAT | O_TRUNC, 0600);
  if (disk < 0 || ftruncate(disk, static_cast<off_t>(4 * kPage)) != 0) std::abort();
  auto* const shared =
      static_cast<char*>(mmap(nullptr, 3 * kPage, PROT_READ | PROT_WRITE, MAP_SHARED, disk, 0));
  both("disk", shared);
  both("disk, read-only", mmap(nullptr, kPage, PROT_READ, MAP_SHARED, disk, 0));
  both("disk, private", mmap(nullptr, kPage, PROT_READ | PROT_WRITE, MAP_PRIVATE, disk, 0));
  mmap(shared, kPage, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0);
  both("disk, second of two", shared, 2 * kPage);
  mprotect(shared + kPage, kPage, PROT_READ);
  both("disk, made read-only", shared + kPage);
  auto* const hole = memoryOf(3 * kPage);
  munmap(hole + kPage, kPage);
  both("a hole in the middle", hole, 3 * kPage);
  both("a hole behind", hole, kPage + 1);
  both("up to the hole", hole, kPage);
  unlink(diskFile);
}

// ---------------------------------------------------------------- sequences at random

constexpr uint64_t kWindow = 64;  // pages

void addressSpaces(uint64_t seed, unsigned steps) {
  say("--- address spaces, seed %llu", static_cast<unsigned long long>(seed));
  Random random = {seed};
  Fd fd;
  char* const memory = reinterpret_cast<char*>(0x700000000000);
  mmap(memory, kWindow * kPage, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, -1,
       0);
  const uint32_t spaces[] = {fd.ioas(), fd.ioas()};
  uint32_t devices[2] = {};
  // Some sequences use parts of pages, and some whole pages.
  const uint64_t grain = seed % 3 == 0 ? 512 : seed % 3 == 1 ? 2048 : kPage;
  const auto length = [&] {
    return (1 + random.below(random.below(4) == 0 ? 24 : 4)) * grain + (random.below(40) == 0 ? 1 : 0);
  };
  const auto place = [&] {
    return (random.below(6) == 0 ? 0 : kBase) + random.below(24) * grain * 2 +
           (random.below(40) == 0 ? 3 : 0);
  };
  const auto rights = [&] {
    return random.below(30) == 0 ? 0U : 1U + static_cast<uint32_t>(random.below(3));
  };
  for (unsigned step = 0; step < steps; ++step) {
    const auto at = static_cast<unsigned>(random.below(2));
    const uint32_t ioas = random.below(60) == 0 ? 99 : spaces[at];
    const uint32_t flags = rights() << 1;
    const uint64_t user =
        asUser(memory) + random.below(kWindow / 2) * grain + (random.below(40) == 0 ? 5 : 0);
    switch (random.below(16)) {
      case 0:
      case 1:
      case 2:
        fd.map(ioas, user, length(), place(), flags | kFixed);
        break;
      case 3:
      case 4:
        fd.map(ioas, random.below(8) == 0 ? 0 : user, length() << (random.below(5) == 0 ? 9 : 0), place(),
               flags);
        break;
      case 5:
      case 6:
      case 7:
        fd.unmap(ioas, place(), length());
        break;
      case 8:
      case 9: {
        const uint64_t source = place();
        fd.copy(ioas, source, spaces[random.below(2)], length(), place(),
                flags | (random.below(2) == 0 ? 0 : kFixed));
        break;
      }
      case 10: {
        const uint64_t first = place();
        const uint64_t second = place();
        const uint64_t size = length();
        const uint64_t count = random.below(3);
        std::vector<uapi::iommu_iova_range> list;
        if (count > 0) list.push_back({first, first + size});
        if (count > 1) list.push_back({second, second + 3 * size});
        fd.allow(ioas, list);
        break;
      }
      case 11:
        fd.ranges(ioas, static_cast<uint32_t>(random.below(4)));
        break;
      case 12: {
        const auto op = static_cast<uint16_t>(random.below(3));
        fd.hugePages(ioas, op, random.below(3));
        break;
      }
      case 13:
      case 14:
        if (devices[at] != 0) {
          fd.destroy(devices[at]);
          devices[at] = 0;
        } else {
          devices[at] = fd.device(spaces[at]);
        }
        break;
      default:
        if (random.below(4) == 0) {
          fd.unmap(ioas, 0, UINT64_MAX);
        } else {
          fd.refs(asUser(memory) + random.below(kWindow) * kPage, kPage,
                  static_cast<uint32_t>(random.below(4)));
        }
    }
  }
}

void container(uint64_t seed, unsigned steps) {
  say("--- container, seed %llu", static_cast<unsigned long long>(seed));
  Random random = {seed};
  Fd fd;
  char* const memory = memoryOf(kWindow * kPage);
  const auto set = [&fd](uint16_t op, uint32_t id) {
    uapi::iommu_vfio_ioas vfio = {sizeof(vfio), id, op, 0};
    const int result = fd.call(uapi::IOMMU_VFIO_IOAS, vfio);
    say("vfio ioas %u: %d, %u", op, result, vfio.ioas_id);
  };
  const auto info = [&](uint32_t size) {
    unsigned char bytes[128];
    std::memset(bytes, 0xee, sizeof(bytes));
    std::memcpy(bytes, &size, 4);
    const int result = host->ioctl(fd.fd, uapi::VFIO_IOMMU_GET_INFO, asUser(bytes));
    std::printf("info %u: %d ", size, result);
    for (const unsigned char byte : bytes) std::printf("%02x", byte);
    say("%s", "");
  };
  const auto extension = [&fd](uint64_t what) {
    say("extension %llu: %d", static_cast<unsigned long long>(what),
        host->ioctl(fd.fd, uapi::VFIO_CHECK_EXTENSION, what));
  };
  say("version: %d", host->ioctl(fd.fd, uapi::VFIO_GET_API_VERSION, 0));
  for (uint64_t what = 0; what < 14; ++what) extension(what);
  info(24);
  const uint32_t ioas = fd.ioas();
  set(uapi::IOMMU_VFIO_IOAS_GET, 0);
  set(uapi::IOMMU_VFIO_IOAS_SET, 99);
  set(uapi::IOMMU_VFIO_IOAS_SET, ioas);
  set(uapi::IOMMU_VFIO_IOAS_GET, 0);
  set(3, 0);
  uint32_t device = 0;
  for (unsigned step = 0; step < steps; ++step) {
    const uint64_t iova = (random.below(20) == 0 ? 0 : kBase) + random.below(24) * kPage +
                          (random.below(12) == 0 ? 2048 : 0) + (random.below(40) == 0 ? 1 : 0);
    const uint64_t size =
        random.below(30) == 0 ? 0 : (1 + random.below(8)) * (random.below(6) == 0 ? 2048 : kPage);
    switch (random.below(12)) {
      case 0:
      case 1:
      case 2:
      case 3: {
        uapi::vfio_iommu_type1_dma_map map = {static_cast<uint32_t>(random.below(30) == 0 ? 31 : sizeof(map)),
                                              static_cast<uint32_t>(random.below(9) % 5),
                                              asUser(memory) + random.below(kWindow / 2) * kPage, iova, size};
        const int result = fd.call(uapi::VFIO_IOMMU_MAP_DMA, map);
        say("map %u %llx+%llx: %d", map.flags, static_cast<unsigned long long>(iova),
            static_cast<unsigned long long>(size), result);
        break;
      }
      case 4:
      case 5:
      case 6:
      case 7: {
        const auto flags = static_cast<uint32_t>(random.below(12) == 0 ? 1 + random.below(3) : 0);
        const bool all = random.below(16) == 0;
        uapi::vfio_iommu_type1_dma_unmap unmap = {sizeof(unmap), all ? 2 : flags, all ? 0 : iova,
                                                  all ? 0 : size};
        const int result = fd.call(uapi::VFIO_IOMMU_UNMAP_DMA, unmap);
        say("unmap %u %llx+%llx: %d, %llx", unmap.flags, static_cast<unsigned long long>(iova),
            static_cast<unsigned long long>(size), result, static_cast<unsigned long long>(unmap.size));
        break;
      }
      case 8:
        info(static_cast<uint32_t>(8 + 8 * random.below(12)));
        break;
      case 9: {
        const uint64_t type = 1 + random.below(4);
        say("set iommu %llu: %d", static_cast<unsigned long long>(type),
            host->ioctl(fd.fd, uapi::VFIO_SET_IOMMU, type));
        break;
      }
      case 10:
        if (random.below(3) == 0) fd.hugePages(ioas, uapi::IOMMU_OPTION_OP_SET, 1);
        extension(uapi::VFIO_DMA_CC_IOMMU);
        break;
      default:
        if (device != 0) {
          fd.destroy(device);
          device = 0;
        } else {
          device = fd.device(ioas);
        }
    }
  }
  set(uapi::IOMMU_VFIO_IOAS_CLEAR, 0);
  info(72);
  set(uapi::IOMMU_VFIO_IOAS_SET, ioas);
  if (device != 0) fd.destroy(device);
  fd.destroy(ioas);
  set(uapi::IOMMU_VFIO_IOAS_GET, 0);
}

void accesses(uint64_t seed, unsigned steps) {
  say("--- accesses, seed %llu", static_cast<unsigned long long>(seed));
  Random random = {seed};
  Fd fd;
  char* const memory = memoryOf(kWindow * kPage);
  for (uint64_t at = 0; at < kWindow * kPage; ++at) memory[at] = static_cast<char>(at % 251);
  const uint32_t spaces[] = {fd.ioas(), fd.ioas()};
  int access[2] = {-1, -1};
  uint32_t device = 0;
  const uint64_t grain = seed % 2 == 0 ? 2048 : kPage;
  for (unsigned step = 0; step < steps; ++step) {
    const auto which = static_cast<unsigned>(random.below(2));
    const uint32_t ioas = spaces[random.below(5) == 0 ? 1 : 0];
    const uint64_t iova = kBase + random.below(12) * grain + (random.below(30) == 0 ? 1 : 0);
    const uint64_t size = (1 + random.below(5)) * grain + (random.below(30) == 0 ? 1 : 0);
    TestCommand command = {};
    switch (random.below(12)) {
      case 0:
      case 1:
      case 2:
        fd.map(ioas, asUser(memory) + random.below(kWindow / 2) * grain, size, iova,
               kFixed | static_cast<uint32_t>(2 + 2 * random.below(3)));
        break;
      case 3:
      case 4:
        fd.unmap(ioas, iova, size);
        break;
      case 5:
      case 6:
        if (access[which] < 0) {
          command.op = soft::selftest::kCreateAccess;
          command.id = ioas;
          command.createAccess.flags = random.below(3) == 0 ? 0 : soft::selftest::kAccessNeedsPinPages;
          if (fd.test("access", command) == 0)
            access[which] = static_cast<int>(command.createAccess.outAccessFd);
        } else if (random.below(3) == 0) {
          say("access closed");
          host->close(access[which]);
          access[which] = -1;
        } else {
          command.op = soft::selftest::kReplaceAccess;
          command.id = static_cast<uint32_t>(access[which]);
          command.replaceAccess.ioasId = random.below(10) == 0 ? 77 : ioas;
          fd.test("replace", command);
        }
        break;
      case 7:
      case 8:
        command.op = soft::selftest::kAccessPages;
        command.id = static_cast<uint32_t>(access[which]);
        command.accessPages.flags = static_cast<uint32_t>(random.below(2));
        command.accessPages.iova = iova;
        command.accessPages.length = size;
        fd.test("pin", command);
        say("... %u", command.accessPages.outAccessPagesId);
        break;
      case 9: {
        static unsigned char data[6 * kPage];
        command.op = soft::selftest::kAccessRw;
        command.id = static_cast<uint32_t>(access[which]);
        const auto write = static_cast<uint32_t>(random.below(2));
        command.accessRw.flags = write | (random.below(3) == 0 ? soft::selftest::kAccessRwSlowPath : 0);
        command.accessRw.iova = iova + random.below(100);
        command.accessRw.length = random.below(size) + 1;
        command.accessRw.user = asUser(data);
        if (write != 0) {
          for (unsigned char& byte : data) byte = static_cast<unsigned char>(random.below(256));
        }
        fd.test("rw", command);
        uint64_t sum = 0;
        for (const unsigned char byte : data) sum = sum * 31 + byte;
        for (uint64_t at = 0; at < kWindow * kPage; ++at)
          sum = sum * 31 + static_cast<unsigned char>(memory[at]);
        say("... %llx", static_cast<unsigned long long>(sum));
        break;
      }
      case 10:
        fd.refs(asUser(memory) + random.below(kWindow / 2) * kPage, kPage,
                static_cast<uint32_t>(random.below(3)));
        fd.ranges(ioas, 1);
        break;
      default:
        if (device != 0) {
          fd.destroy(device);
          device = 0;
        } else {
          device = fd.device(spaces[0]);
        }
    }
  }
  fd.destroy(spaces[0]);
  for (const int each : access) {
    if (each >= 0) host->close(each);
  }
}

// Runs each sequence in a new process, so that it starts with fresh limits and memory, and no pins.
void apart(const std::string& which, const std::function<void()>& body) {
  std::fflush(stdout);
  const pid_t child = fork();
  if (child == 0) {
    if (which == "kernel") {
      host = std::make_unique<KernelBackend>();
    } else {
      const unsigned seed = failing::seedOf(which);
      auto made = std::make_unique<soft::Host>(std::make_shared<soft::mm::Memory>(),
                                               soft::HostOptions{.kernel = {6, 12}, .selftest = true});
      software = made.get();
      host = failing::wrap(std::move(made), seed);
    }
    body();
    host.reset();
    std::fflush(stdout);
    failing::sayOutcomes();
    _exit(failing::wrong == 0 ? 0 : 1);
  }
  int status = 0;
  waitpid(child, &status, 0);
  if (status != 0) say("died: %d", status);
}

}  // namespace

int main(int, char** arguments) {
  if (arguments[1] == nullptr || arguments[2] == nullptr) return 2;
  const std::string which = arguments[1];
  diskFile = arguments[2];
  apart(which, [] { memlock(false); });
  apart(which, [] { memlock(true); });
  apart(which, kinds);
  for (uint64_t seed = 1; seed <= 4; ++seed) apart(which, [seed] { addressSpaces(seed, 400); });
  for (uint64_t seed = 1; seed <= 3; ++seed) apart(which, [seed] { container(seed, 300); });
  for (uint64_t seed = 1; seed <= 3; ++seed) apart(which, [seed] { accesses(seed, 300); });
  return 0;
}
