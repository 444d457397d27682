// Prints a host's answers to calls on groups and containers, one on each line, so that two hosts can be
// compared with diff: `group_trace soft` here, `group_trace kernel` in the guest, as root. A last argument
// `amd` stands for a machine with AMD's IOMMU. The machine has edu devices at 0000:00:10.0, 0000:03:01.0 and
// 0000:03:02.0, which the program binds to vfio-pci. The numbers of groups differ between machines and are
// not printed.
#include <fcntl.h>
#include <linux/capability.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <cstring>
#include <string>
#include <vector>

#include "../../native/soft/topology/default_topology.h"
#include "../../native/uapi/iommufd.h"
#include "../../native/uapi/vfio.h"
#include "group_harness.h"

using namespace vfio;
using namespace vfio::trace;
using namespace vfio::uapi;

namespace {

constexpr uint64_t kPage = 4096;
// True: the machine has an AMD IOMMU. Two checks are then left out: the result of DMA from behind the
// conventional bridge, which QEMU's AMD IOMMU blocks; and a mapping of the very last page, which Linux 6.12
// never unmaps there.
bool amd = false;
uint8_t* memory(uint64_t pages, int protection = PROT_READ | PROT_WRITE,
                int flags = MAP_PRIVATE | MAP_ANONYMOUS, int fd = -1) {
  const int64_t at = host->mmap(nullptr, pages * kPage, protection, flags, fd, 0);
  if (at < 0) say("no memory: %s", answer(at).c_str());
  return reinterpret_cast<uint8_t*>(at);
}
void sayBehind(uint8_t byte) {
  if (!amd) say("  %02x", byte);
}
uint64_t asNumber(const void* pointer) { return reinterpret_cast<uint64_t>(pointer); }

constexpr uint32_t kRead = VFIO_DMA_MAP_FLAG_READ, kWrite = VFIO_DMA_MAP_FLAG_WRITE;

int map(int fd, uint64_t vaddr, uint64_t iova, uint64_t size, uint32_t flags = kRead | kWrite) {
  vfio_iommu_type1_dma_map request{sizeof request, flags, vaddr, iova, size};
  return call(fd, VFIO_IOMMU_MAP_DMA, request);
}
void sayMap(const char* what, int fd, uint64_t vaddr, uint64_t iova, uint64_t size,
            uint32_t flags = kRead | kWrite) {
  say("map %s: %s", what, answer(map(fd, vaddr, iova, size, flags)).c_str());
}
void sayUnmap(const char* what, int fd, uint64_t iova, uint64_t size, uint32_t flags = 0) {
  vfio_iommu_type1_dma_unmap request{sizeof request, flags, iova, size};
  const int result = call(fd, VFIO_IOMMU_UNMAP_DMA, request);
  say("unmap %s: %s iova %llx size %llx", what, answer(result).c_str(),
      static_cast<unsigned long long>(request.iova), static_cast<unsigned long long>(request.size));
}

void sayInfo(const char* what, int fd, uint32_t size, size_t room = 256) {
  std::vector<unsigned char> bytes(room, 0xee);
  vfio_iommu_type1_info head{size, 9, 9, 9, 9};
  std::memcpy(bytes.data(), &head, std::min(room, sizeof head));
  const int result = host->ioctl(fd, VFIO_IOMMU_GET_INFO, asNumber(bytes.data()));
  std::memcpy(&head, bytes.data(), sizeof head);
  say("info %s %u: %s argsz %u flags %x pages %llx cap %u pad %x", what, size, answer(result).c_str(),
      head.argsz, head.flags, static_cast<unsigned long long>(head.iova_pgsizes), head.cap_offset, head.pad);
  if (result != 0 || size < head.argsz || head.cap_offset < sizeof head || head.cap_offset == 9) return;
  std::string hex;
  for (size_t i = sizeof head; i < head.argsz && i < room; ++i) {
    char two[4];
    std::snprintf(two, sizeof two, "%02x", bytes[i]);
    hex += two;
  }
  say("  behind: %s", hex.c_str());
}

// One transfer between edu's own buffer and memory: from `source` into the buffer, or out of it to
// `destination`.
void sayDma(const char* what, int fd, uint64_t source, uint64_t destination, uint64_t flags) {
  uint16_t command = 6;
  (void)host->pwrite(fd, &command, 2, (uint64_t{7} << 40) + 4);
  uint64_t value = source;
  (void)host->pwrite(fd, &value, 8, 0x80);
  (void)host->pwrite(fd, &(value = destination), 8, 0x88);
  (void)host->pwrite(fd, &(value = 16), 8, 0x90);
  (void)host->pwrite(fd, &(value = 1 | flags), 8, 0x98);
  usleep(150000);
  value = 99;
  const int64_t got = host->pread(fd, &value, 8, 0x98);
  say("dma %s: %s command %llx", what, answer(got).c_str(), static_cast<unsigned long long>(value));
}

// ---------------------------------------------------------------- a container alone, a group alone

void emptyContainer() {
  say("==== a container without groups");
  int container = opened("open", openContainer());
  told("version", plain(container, VFIO_GET_API_VERSION, 5));
  sayExtensions("alone", container);
  for (const unsigned type : {0U, 1U, 3U, 6U, 8U, 99U})
    told("set iommu", plain(container, VFIO_SET_IOMMU, type));
  sayInfo("alone", container, 256);
  sayMap("alone", container, 0, 0, 0);
  sayUnmap("alone", container, 0, 0);
  told("nonsense", plain(container, 0x1234));
  told("a command of iommufd", plain(container, IOMMU_IOAS_ALLOC));
  char byte = 0;
  told("read", host->read(container, &byte, 1));
  told("write", host->write(container, &byte, 1));
  told("pread", host->pread(container, &byte, 1, 0));
  told("mmap", host->mmap(nullptr, kPage, PROT_READ, MAP_SHARED, container, 0));
  shut(container);
}

void groupAlone() {
  say("==== a group without container");
  int group = opened("open", openGroup(kAlone));
  opened("open again", openGroup(kAlone));
  sayStatus("alone", group);
  vfio_group_status status{.argsz = 7};
  told("status short", call(group, VFIO_GROUP_GET_STATUS, status));
  told("status null", plain(group, VFIO_GROUP_GET_STATUS));
  told("nonsense", plain(group, 0x1234));
  told("a container's command", plain(group, VFIO_GET_API_VERSION));
  told("a device's command", plain(group, VFIO_DEVICE_GET_INFO));
  told("unset", plain(group, VFIO_GROUP_UNSET_CONTAINER));
  char byte = 0;
  told("read", host->read(group, &byte, 1));
  told("mmap", host->mmap(nullptr, kPage, PROT_READ, MAP_SHARED, group, 0));
  told("set null", plain(group, VFIO_GROUP_SET_CONTAINER));
  told("set -1", setContainer(group, -1));
  told("set closed", setContainer(group, 999));
  told("set stdout", setContainer(group, 1));
  told("set itself", setContainer(group, group));
  told("device without container", deviceOf(group, kAlone));
  const std::string name = kAlone;
  for (const std::string& each :
       {std::string(), std::string("0000:00:10"), name + "x", name + "0", name + " ",
        name + "  vf_token=", name + " nonsense", name + " vf_token=bd8d9d2b-5a5f-4f5a-a211-f591514ba1f3",
        name + " vf_token=bd8d9d2b-5a5f-4f5a-a211-f591514ba1fz",
        name + " vf_token=bd8d9d2b-5a5f-4f5a-a211-f591514ba1f3x",
        name + " vf_token=bd8d9d2b5a5f-4f5a-a211-f591514ba1f3",
        name + "\tvf_token=bd8d9d2b-5a5f-4f5a-a211-f591514ba1f3", std::string(kFirst), std::string(4095, 'x'),
        std::string(4096, 'x'), std::string(9000, 'x')}) {
    say("device '%s': %s", each.substr(0, 60).c_str(), answer(deviceOf(group, each.c_str())).c_str());
  }
  told("device null", deviceOf(group, nullptr));
  auto* pages = memory(2);
  host->munmap(pages + kPage, kPage);
  std::memset(pages + kPage - 16, 'x', 16);
  told("device that goes on", deviceOf(group, reinterpret_cast<char*>(pages + kPage - 16)));
  host->munmap(pages, kPage);
  say("-- and its character device");
  int cdev = opened("open", openCdev(kAlone));
  int iommufd = host->open("/dev/iommu", O_RDWR);
  told("bind", bindCdev(cdev, iommufd));
  told("bind to nonsense", bindCdev(cdev, 999));
  shut(group);
  told("bind to nonsense, group closed", bindCdev(cdev, 999));
  told("bind, group closed", bindCdev(cdev, iommufd) < 0 ? -1 : 0);
  opened("open the group", openGroup(kAlone));
  told("bind again", bindCdev(cdev, iommufd));
  shut(cdev);
  opened("open the group, device closed", group = openGroup(kAlone));
  shut(group);
  shut(iommufd);
}

void setIommu() {
  say("==== SET_IOMMU");
  int container = openContainer();
  int group = openGroup(kAlone);
  told("set", setContainer(group, container));
  sayStatus("set", group);
  told("set again", setContainer(group, container));
  told("device without back end", deviceOf(group, kAlone));
  sayExtensions("with a group", container);
  for (const uintptr_t type : {uintptr_t{0}, uintptr_t{2}, uintptr_t{4}, uintptr_t{6}, uintptr_t{8},
                               uintptr_t{9}, uintptr_t{10}, uintptr_t{99}, uintptr_t{0x100000001}}) {
    say("set iommu %lx: %s", type, answer(plain(container, VFIO_SET_IOMMU, type)).c_str());
  }
  sayMap("without back end", container, 0, 0, 0);
  told("set iommu 3", plain(container, VFIO_SET_IOMMU, 3));
  told("set iommu 3 again", plain(container, VFIO_SET_IOMMU, 3));
  told("set iommu 1", plain(container, VFIO_SET_IOMMU, 1));
  told("version", plain(container, VFIO_GET_API_VERSION));
  sayExtensions("v2", container);
  told("nonsense", plain(container, 0x1234));
  told("iommu enable", plain(container, VFIO_IOMMU_ENABLE));
  told("unset", plain(group, VFIO_GROUP_UNSET_CONTAINER));
  sayStatus("unset", group);
  told("unset again", plain(group, VFIO_GROUP_UNSET_CONTAINER));
  sayMap("without groups", container, 0, 0, 0);
  sayExtensions("without groups", container);
  told("set iommu without groups", plain(container, VFIO_SET_IOMMU, 3));
  told("set", setContainer(group, container));
  told("set iommu 1", plain(container, VFIO_SET_IOMMU, 1));
  sayExtensions("v1", container);
  shut(container);
  sayStatus("container closed", group);
  int device = opened("device, container closed", deviceOf(group, kAlone));
  shut(group);
  opened("group, device open", openGroup(kAlone));
  shut(device);
  opened("group, device closed", group = openGroup(kAlone));
  sayStatus("anew", group);
  shut(group);
}

// ---------------------------------------------------------------- type1

void mapping(unsigned version) {
  say("==== mapping, version %u", version);
  int container = openContainer();
  int group = openGroup(kAlone);
  setContainer(group, container);
  told("set iommu", plain(container, VFIO_SET_IOMMU, version));
  for (const uint32_t size : {0U, 15U, 16U, 20U, 24U, 100U, 143U, 144U, 256U}) sayInfo("v", container, size);
  told("info null", plain(container, VFIO_IOMMU_GET_INFO));
  auto* const buffer = memory(16);
  const uint64_t at = asNumber(buffer);
  vfio_iommu_type1_dma_map request{31, kRead, at, 0x10000, kPage};
  told("map short", call(container, VFIO_IOMMU_MAP_DMA, request));
  told("map null", plain(container, VFIO_IOMMU_MAP_DMA));
  sayMap("flag 8", container, at, 0x10000, kPage, 8 | kRead);
  sayMap("no rights", container, at, 0x10000, kPage, 0);
  sayMap("vaddr and read", container, at, 0x10000, kPage, kRead | VFIO_DMA_MAP_FLAG_VADDR);
  sayMap("vaddr of nothing", container, at, 0x10000, kPage, VFIO_DMA_MAP_FLAG_VADDR);
  sayMap("nothing", container, at, 0x10000, 0);
  sayMap("odd size", container, at, 0x10000, kPage + 1);
  sayMap("odd iova", container, at, 0x10800, kPage);
  sayMap("odd address", container, at + 1, 0x10000, kPage);
  sayMap("wrapping iova", container, at, ~(kPage - 1), 2 * kPage);
  if (!amd) sayMap("last iova", container, at, ~(kPage - 1), kPage);
  sayMap("wrapping address", container, ~(kPage - 1), 0x10000, 2 * kPage);
  sayMap("last address", container, ~(kPage - 1), 0x10000, kPage);
  sayMap("address of nothing", container, 0x1000, 0x10000, kPage);
  sayMap("beyond the aperture", container, at, uint64_t{1} << 48, kPage);
  sayMap("across its end", container, at, (uint64_t{1} << 48) - kPage, 2 * kPage);
  sayMap("at its end", container, at, (uint64_t{1} << 48) - kPage, kPage);
  sayMap("the interrupt window", container, at, 0xfee00000, kPage);
  sayMap("into the window", container, at, 0xfedff000, 2 * kPage);
  sayMap("before the window", container, at, 0xfedff000, kPage);
  sayMap("after the window", container, at, 0xfef00000, kPage);
  sayMap("four pages", container, at, 0x10000, 4 * kPage);
  sayMap("the same", container, at, 0x10000, 4 * kPage);
  sayMap("overlapping", container, at, 0xf000, 2 * kPage);
  sayMap("inside", container, at, 0x12000, kPage);
  sayMap("behind", container, at, 0x14000, kPage, kRead);
  sayMap("write only", container, at + kPage, 0x15000, kPage, kWrite);
  sayMap("overlap before the window", container, at, 0x15000, uint64_t{1} << 47);
  sayInfo("mapped", container, 256);
  auto* const readOnly = memory(1, PROT_READ);
  sayMap("read-only memory to read", container, asNumber(readOnly), 0x20000, kPage, kRead);
  sayMap("read-only memory to write", container, asNumber(readOnly), 0x21000, kPage, kWrite);
  auto* const closed = memory(1, PROT_NONE);
  sayMap("closed memory", container, asNumber(closed), 0x22000, kPage, kRead);
  auto* const holes = memory(4);
  host->munmap(holes + 2 * kPage, kPage);
  sayMap("memory with a hole", container, asNumber(holes), 0x30000, 4 * kPage);
  sayInfo("after failures", container, 256);

  vfio_iommu_type1_dma_unmap unmap{23, 0, 0x10000, kPage};
  told("unmap short", call(container, VFIO_IOMMU_UNMAP_DMA, unmap));
  told("unmap null", plain(container, VFIO_IOMMU_UNMAP_DMA));
  sayUnmap("flag 8", container, 0x10000, kPage, 8);
  sayUnmap("nothing", container, 0x10000, 0);
  sayUnmap("odd size", container, 0x10000, kPage + 1);
  sayUnmap("odd iova", container, 0x10800, kPage);
  sayUnmap("wrapping", container, ~(kPage - 1), 2 * kPage);
  sayUnmap("the last page of all", container, ~(kPage - 1), kPage);
  sayUnmap("to the last page of all", container, 0x10000, ~uint64_t{0x10000} + 1);
  sayUnmap("what is not there", container, 0x400000, kPage);
  sayUnmap("all with an address", container, 0x10000, 0, VFIO_DMA_UNMAP_FLAG_ALL);
  sayUnmap("all with a size", container, 0, kPage, VFIO_DMA_UNMAP_FLAG_ALL);
  sayUnmap("all with dirty bits", container, 0, 0,
           VFIO_DMA_UNMAP_FLAG_ALL | VFIO_DMA_UNMAP_FLAG_GET_DIRTY_BITMAP);
  sayUnmap("dirty bits too short", container, 0x10000, kPage, VFIO_DMA_UNMAP_FLAG_GET_DIRTY_BITMAP);
  sayUnmap("the end of a mapping", container, 0x12000, 2 * kPage);
  sayUnmap("its middle", container, 0x11000, kPage);
  sayUnmap("from its middle over the next", container, 0x12000, 3 * kPage);
  sayUnmap("its start", container, 0x10000, kPage);
  sayMap("four pages again", container, at, 0x10000, 4 * kPage);
  sayUnmap("over its start", container, 0xf000, 2 * kPage);
  sayMap("four pages once more", container, at, 0x10000, 4 * kPage);
  sayUnmap("three mappings", container, 0xf000, 7 * kPage);
  sayUnmap("the same", container, 0xf000, 7 * kPage);
  say("-- addresses that change");
  sayMap("one", container, at, 0x10000, 4 * kPage);
  sayMap("two", container, at + 4 * kPage, 0x14000, 4 * kPage);
  sayMap("not gone", container, at, 0x10000, 4 * kPage, VFIO_DMA_MAP_FLAG_VADDR);
  sayUnmap("address, cut", container, 0x12000, 2 * kPage, VFIO_DMA_UNMAP_FLAG_VADDR);
  sayUnmap("address of nothing", container, 0x40000, kPage, VFIO_DMA_UNMAP_FLAG_VADDR);
  sayUnmap("address of the second", container, 0x14000, 4 * kPage, VFIO_DMA_UNMAP_FLAG_VADDR);
  sayUnmap("address of both", container, 0x10000, 8 * kPage, VFIO_DMA_UNMAP_FLAG_VADDR);
  sayMap("wrong size", container, at, 0x14000, 2 * kPage, VFIO_DMA_MAP_FLAG_VADDR);
  sayMap("wrong start", container, at, 0x15000, 3 * kPage, VFIO_DMA_MAP_FLAG_VADDR);
  int second = openGroup(kFirst);
  told("a group meanwhile", setContainer(second, container));
  sayMap("a mapping meanwhile", container, at, 0x50000, kPage);
  sayMap("the first, not gone", container, at, 0x10000, 4 * kPage, VFIO_DMA_MAP_FLAG_VADDR);
  sayMap("the second", container, 0x7000, 0x14000, 4 * kPage, VFIO_DMA_MAP_FLAG_VADDR);
  sayMap("the second again", container, 0x7000, 0x14000, 4 * kPage, VFIO_DMA_MAP_FLAG_VADDR);
  sayUnmap("all addresses", container, 0, 0, VFIO_DMA_UNMAP_FLAG_VADDR | VFIO_DMA_UNMAP_FLAG_ALL);
  sayUnmap("all addresses again", container, 0, 0, VFIO_DMA_UNMAP_FLAG_VADDR | VFIO_DMA_UNMAP_FLAG_ALL);
  sayUnmap("one without address", container, 0x10000, 4 * kPage);
  sayMap("the second once more", container, at, 0x14000, 4 * kPage, VFIO_DMA_MAP_FLAG_VADDR);
  sayMap("the third", container, at, 0x50000, kPage, VFIO_DMA_MAP_FLAG_VADDR);
  told("a group now", setContainer(second, container));
  shut(second);
  sayUnmap("all", container, 0, 0, VFIO_DMA_UNMAP_FLAG_ALL);
  sayUnmap("all of nothing", container, 0, 0, VFIO_DMA_UNMAP_FLAG_ALL);
  say("-- how many");
  int failed = 0;
  uint64_t count = 0;
  while (failed == 0 && count < 70000) {
    failed = map(container, at, 0x10000000 + count * kPage, kPage, kRead);
    if (failed == 0) ++count;
  }
  say("%llu mappings, then %s", static_cast<unsigned long long>(count), answer(failed).c_str());
  sayMap("one that is there", container, at, 0x10000000, kPage);
  sayMap("outside", container, at, 0xfee00000, kPage);
  sayInfo("full", container, 256);
  sayUnmap("one", container, 0x10000000, kPage);
  sayMap("one again", container, at, 0x10000000, kPage);
  sayUnmap("a range of many", container, 0x10000000, 1000 * kPage);
  sayUnmap("all", container, 0, 0, VFIO_DMA_UNMAP_FLAG_ALL);
  sayInfo("empty", container, 256);
  shut(group);
  shut(container);
}

// ---------------------------------------------------------------- dirty pages

struct Dirty {
  vfio_iommu_type1_dirty_bitmap head;
  vfio_iommu_type1_dirty_bitmap_get range;
};

std::string words(const std::vector<uint64_t>& bits) {
  std::string text;
  for (const uint64_t word : bits) {
    char hex[24];
    std::snprintf(hex, sizeof hex, " %llx", static_cast<unsigned long long>(word));
    text += hex;
  }
  return text;
}

void sayDirty(const char* what, int fd, uint64_t iova, uint64_t size, uint64_t page = kPage,
              uint64_t fill = 0, uint64_t bytes = 40) {
  std::vector<uint64_t> bits(5, fill);
  Dirty request{{sizeof request, VFIO_IOMMU_DIRTY_PAGES_FLAG_GET_BITMAP},
                {iova, size, {page, bytes, asNumber(bits.data())}}};
  const int result = call(fd, VFIO_IOMMU_DIRTY_PAGES, request);
  say("dirty %s: %s%s", what, answer(result).c_str(), words(bits).c_str());
}

void sayUnmapDirty(const char* what, int fd, uint64_t iova, uint64_t size, uint64_t page = kPage,
                   uint64_t bytes = 40) {
  std::vector<uint64_t> bits(5, 0);
  struct {
    vfio_iommu_type1_dma_unmap head;
    vfio_bitmap bitmap;
  } request{{sizeof request, VFIO_DMA_UNMAP_FLAG_GET_DIRTY_BITMAP, iova, size},
            {page, bytes, asNumber(bits.data())}};
  const int result = call(fd, VFIO_IOMMU_UNMAP_DMA, request);
  say("unmap dirty %s: %s size %llx%s", what, answer(result).c_str(),
      static_cast<unsigned long long>(request.head.size), words(bits).c_str());
}

void dirtyPages() {
  say("==== dirty pages");
  int container = openContainer();
  int group = openGroup(kAlone);
  setContainer(group, container);
  told("set iommu 3", plain(container, VFIO_SET_IOMMU, 3));
  const auto flags = [&](uint32_t value, uint32_t size = 8) {
    vfio_iommu_type1_dirty_bitmap request{size, value};
    say("dirty flags %x size %u: %s", value, size,
        answer(call(container, VFIO_IOMMU_DIRTY_PAGES, request)).c_str());
  };
  auto* const buffer = memory(256);
  const uint64_t at = asNumber(buffer);
  sayMap("10 pages", container, at, 0x100000, 10 * kPage);
  sayMap("70 pages behind", container, at, 0x10a000, 70 * kPage);
  told("dirty null", plain(container, VFIO_IOMMU_DIRTY_PAGES));
  flags(0);
  flags(8);
  flags(3);
  flags(1, 7);
  flags(2);
  flags(4);
  sayDirty("before the start", container, 0x100000, 10 * kPage);
  sayUnmapDirty("before the start", container, 0x100000, 10 * kPage);
  flags(1);
  flags(1);
  sayDirty("first", container, 0x100000, 10 * kPage);
  sayDirty("again", container, 0x100000, 10 * kPage);
  sayDirty("second", container, 0x10a000, 70 * kPage);
  sayDirty("both", container, 0x100000, 80 * kPage);
  sayDirty("second, after both", container, 0x10a000, 70 * kPage);
  sayDirty("both, what was there", container, 0x100000, 80 * kPage, kPage, 0xf0f0f0f0f0f0f0f0);
  sayDirty("second, after that", container, 0x10a000, 70 * kPage);
  sayDirty("with nothing before", container, 0xf0000, 26 * kPage, kPage, 0x5555555555555555);
  sayDirty("with nothing behind", container, 0x10a000, 200 * kPage, kPage, 0x5555555555555555);
  sayDirty("nothing at all", container, 0x400000, 10 * kPage, kPage, 0x5555);
  sayDirty("a part", container, 0x100000, 5 * kPage);
  sayDirty("from a part on", container, 0x105000, 5 * kPage);
  sayDirty("a size of none", container, 0x100000, 0);
  sayDirty("odd iova", container, 0x100800, 10 * kPage);
  sayDirty("odd size", container, 0x100000, 10 * kPage + 8);
  sayDirty("page of none", container, 0x100000, 10 * kPage, 0);
  sayDirty("page of 8 KiB", container, 0x100000, 10 * kPage, 8192);
  sayDirty("page of 2 MiB", container, 0x100000, 10 * kPage, 2 << 20);
  sayDirty("bitmap of none", container, 0x100000, 10 * kPage, kPage, 0, 0);
  sayDirty("bitmap of 7 bytes", container, 0x100000, 10 * kPage, kPage, 0, 7);
  sayDirty("bitmap of 8 bytes for 80", container, 0x100000, 80 * kPage, kPage, 0, 8);
  sayDirty("bitmap too large", container, 0x100000, 10 * kPage, kPage, 0, (1 << 28) + 8);
  sayDirty("wrapping", container, ~(kPage - 1), 2 * kPage);
  Dirty request{{sizeof request, VFIO_IOMMU_DIRTY_PAGES_FLAG_GET_BITMAP},
                {0x100000, 10 * kPage, {kPage, 8, 0x1000}}};
  told("bitmap nowhere", call(container, VFIO_IOMMU_DIRTY_PAGES, request));
  request.range.bitmap.data = ~uint64_t{0} - 100;
  told("bitmap beyond", call(container, VFIO_IOMMU_DIRTY_PAGES, request));
  request.head.argsz = 47;
  told("range too short", call(container, VFIO_IOMMU_DIRTY_PAGES, request));
  sayMap("33 pages while tracking", container, at, 0x200000, 33 * kPage, kRead);
  sayDirty("read-only", container, 0x200000, 33 * kPage);
  sayUnmapDirty("a part", container, 0x200000, kPage);
  sayUnmapDirty("page of 8 KiB", container, 0x200000, 33 * kPage, 8192);
  sayUnmapDirty("bitmap too short", container, 0x200000, 33 * kPage, kPage, 7);
  sayUnmapDirty("with nothing before", container, 0x1fd000, 36 * kPage);
  sayUnmapDirty("both", container, 0x100000, 80 * kPage);
  sayUnmapDirty("nothing", container, 0x100000, 80 * kPage);
  sayMap("again", container, at, 0x100000, 10 * kPage);
  flags(2);
  sayDirty("stopped", container, 0x100000, 10 * kPage);
  flags(2);
  shut(group);
  shut(container);

  container = openContainer();
  group = openGroup(kAlone);
  setContainer(group, container);
  told("set iommu 1", plain(container, VFIO_SET_IOMMU, 1));
  flags(1);
  told("dirty null", plain(container, VFIO_IOMMU_DIRTY_PAGES));
  shut(group);
  shut(container);
}

// ---------------------------------------------------------------- memory that may be locked

void memlock() {
  say("==== how much can be locked");
  int container = openContainer();
  int group = openGroup(kAlone);
  setContainer(group, container);
  told("set iommu 3", plain(container, VFIO_SET_IOMMU, 3));
  auto* const buffer = memory(64);
  const uint64_t at = asNumber(buffer);
  auto* const holes = memory(16);
  host->munmap(holes + 12 * kPage, kPage);
  sayMap("8 pages, unlimited", container, at, 0x100000, 8 * kPage);
  const rlimit limit{16 * kPage, 16 * kPage};
  setrlimit(RLIMIT_MEMLOCK, &limit);
  sayMap("16 pages, unlimited", container, at, 0x200000, 16 * kPage);
  setCapability(CAP_IPC_LOCK, false);
  sayMap("1 page", container, at, 0x300000, kPage);
  sayUnmap("8 pages", container, 0x100000, 8 * kPage);
  sayMap("1 page", container, at, 0x300000, kPage);
  sayUnmap("16 pages", container, 0x200000, 16 * kPage);
  sayMap("17 pages", container, at, 0x300000, 17 * kPage);
  sayMap("16 pages", container, at, 0x300000, 16 * kPage);
  sayMap("1 page", container, at, 0x400000, kPage);
  sayUnmap("16 pages", container, 0x300000, 16 * kPage);
  sayMap("10 pages", container, at, 0x300000, 10 * kPage);
  sayMap("the same memory, 6 pages", container, at, 0x400000, 6 * kPage);
  sayMap("and one page", container, at, 0x500000, kPage);
  sayUnmap("6 pages", container, 0x400000, 6 * kPage);
  sayMap("16 pages with a hole at 12", container, asNumber(holes), 0x500000, 16 * kPage);
  sayUnmap("10 pages", container, 0x300000, 10 * kPage);
  sayMap("16 pages with a hole at 12", container, asNumber(holes), 0x500000, 16 * kPage);
  sayMap("16 pages", container, at, 0x300000, 16 * kPage);
  shut(group);
  shut(container);
  container = openContainer();
  group = openGroup(kAlone);
  setContainer(group, container);
  told("set iommu 3", plain(container, VFIO_SET_IOMMU, 3));
  sayMap("16 pages anew", container, at, 0x300000, 16 * kPage);
  shut(group);
  shut(container);
}

// ---------------------------------------------------------------- devices

void openedDevices() {
  say("==== devices of a group");
  int container = openContainer();
  int group = openGroup(kFirst);
  told("set", setContainer(group, container));
  told("set iommu 3", plain(container, VFIO_SET_IOMMU, 3));
  told("device without driver", deviceOf(group, kSecond));
  int device = opened("device", deviceOf(group, kFirst));
  told("unset", plain(group, VFIO_GROUP_UNSET_CONTAINER));
  sayStatus("in use", group);
  int iommufd = host->open("/dev/iommu", O_RDWR);
  told("bind", bindCdev(device, iommufd));
  told("bind null", plain(device, VFIO_DEVICE_BIND_IOMMUFD));
  vfio_device_attach_iommufd_pt attach{.argsz = 12, .pt_id = 1};
  told("attach", call(device, VFIO_DEVICE_ATTACH_IOMMUFD_PT, attach));
  told("detach", call(device, VFIO_DEVICE_DETACH_IOMMUFD_PT, attach));
  vfio_device_info info{.argsz = sizeof info};
  const int result = call(device, VFIO_DEVICE_GET_INFO, info);
  say("info: %s flags %x regions %u irqs %u", answer(result).c_str(), info.flags, info.num_regions,
      info.num_irqs);
  told("nonsense", plain(device, 0x1234));
  int again = opened("device again", deviceOf(group, kFirst));
  uint32_t word = 0;
  told("read by the second", host->pread(again, &word, 4, 0));
  say("  %08x", word);
  int cdev = opened("character device", openCdev(kFirst));
  told("bind it", bindCdev(cdev, iommufd));
  shut(group);
  told("bind it, group closed", bindCdev(cdev, iommufd));
  opened("group", openGroup(kFirst));
  shut(device);
  told("read by the second, first closed", host->pread(again, &word, 4, 0));
  opened("group, one device closed", openGroup(kFirst));
  shut(container);
  told("read, container closed", host->pread(again, &word, 4, 0));
  shut(again);
  opened("group, all closed", group = openGroup(kFirst));
  told("bind it, all closed but the group", bindCdev(cdev, iommufd));
  shut(group);
  told("bind it, all closed", bindCdev(cdev, iommufd));
  shut(cdev);
  shut(iommufd);

  say("-- dma");
  container = openContainer();
  group = openGroup(kAlone);
  setContainer(group, container);
  told("set iommu 3", plain(container, VFIO_SET_IOMMU, 3));
  device = deviceOf(group, kAlone);
  auto* const buffer = memory(4);
  std::memset(buffer, 0x11, kPage);
  std::memset(buffer + kPage, 0x22, 3 * kPage);
  sayMap("two pages", container, asNumber(buffer), 0x10000, 2 * kPage);
  sayDma("in", device, 0x10000, 0x40000, 0);
  sayDma("out", device, 0x40000, 0x11000, 2);
  say("  %02x %02x", buffer[0], buffer[kPage]);
  sayMap("read only", container, asNumber(buffer + 2 * kPage), 0x20000, kPage, kRead);
  sayDma("out to read only", device, 0x40000, 0x20000, 2);
  sayDma("out to nothing", device, 0x40000, 0x30000, 2);
  say("  %02x %02x", buffer[2 * kPage], buffer[3 * kPage]);
  told("hot reset of a root bus", plain(device, VFIO_DEVICE_PCI_HOT_RESET));
  sayHotReset("on a root bus", device, {group}, 1);
  sayUnmap("all", container, 0, 0, VFIO_DMA_UNMAP_FLAG_ALL);
  buffer[kPage] = 0x33;
  sayDma("out after unmapping", device, 0x40000, 0x11000, 2);
  say("  %02x", buffer[kPage]);
  shut(container);
  shut(group);
  shut(device);
}

void twoGroups() {
  say("==== two groups in one container");
  int container = openContainer();
  int other = openContainer();
  int alone = openGroup(kAlone);
  int shared = openGroup(kFirst);
  told("set first", setContainer(alone, container));
  told("set first in another", setContainer(alone, other));
  told("set second", setContainer(shared, container));
  told("set iommu 3", plain(container, VFIO_SET_IOMMU, 3));
  auto* const buffer = memory(2);
  std::memset(buffer, 0x44, 2 * kPage);
  sayMap("two pages", container, asNumber(buffer), 0x10000, 2 * kPage);
  sayExtensions("both", container);
  int one = opened("device of the first", deviceOf(alone, kAlone));
  int two = opened("device of the second", deviceOf(shared, kFirst));
  opened("device of the other group", deviceOf(alone, kFirst));
  sayDma("one in", one, 0x10000, 0x40000, 0);
  buffer[0] = 0x55;
  sayDma("two in", two, 0x10000, 0x40000, 0);
  sayDma("one out", one, 0x40000, 0x11000, 2);
  say("  %02x", buffer[kPage]);
  sayDma("two out", two, 0x40000, 0x11000, 2);
  sayBehind(buffer[kPage]);
  told("unset the first", plain(alone, VFIO_GROUP_UNSET_CONTAINER));
  shut(one);
  told("unset the first, device closed", plain(alone, VFIO_GROUP_UNSET_CONTAINER));
  sayInfo("left", container, 256);
  buffer[kPage] = 0;
  sayDma("two out", two, 0x40000, 0x11000, 2);
  sayBehind(buffer[kPage]);
  told("set first anew", setContainer(alone, container));
  one = opened("device of the first", deviceOf(alone, kAlone));
  buffer[0] = 0x66;
  sayDma("one in", one, 0x10000, 0x40000, 0);
  sayDma("one out", one, 0x40000, 0x11000, 2);
  say("  %02x", buffer[kPage]);
  shut(one);
  shut(alone);
  shut(two);
  shut(shared);
  sayInfo("all gone", container, 256);
  told("set iommu", plain(container, VFIO_SET_IOMMU, 3));
  shut(container);
  shut(other);
}

void hotReset() {
  say("==== hot reset");
  int container = openContainer();
  int alone = openGroup(kAlone);
  int shared = openGroup(kFirst);
  setContainer(shared, container);
  told("set iommu 3", plain(container, VFIO_SET_IOMMU, 3));
  int device = opened("device", deviceOf(shared, kFirst));
  sayHotReset("sibling without driver", device, {shared}, 1);
  bindTo(kSecond, "pci-stub");
  sayStatus("sibling on pci-stub", shared);
  sayHotReset("sibling on pci-stub", device, {shared}, 1);
  bindTo(kSecond, "vfio-pci");
  sayHotReset("both", device, {shared}, 1);
  sayHotReset("no group", device, {}, 0);
  sayHotReset("the other group", device, {alone}, 1);
  sayHotReset("both groups", device, {alone, shared}, 2);
  sayHotReset("the group twice", device, {shared, shared}, 2);
  sayHotReset("three", device, {shared, shared, shared}, 3);
  sayHotReset("the container", device, {container}, 1);
  sayHotReset("a device", device, {device}, 1);
  sayHotReset("closed", device, {999}, 1);
  sayHotReset("-1", device, {shared, -1}, 2);
  sayHotReset("stdout", device, {1}, 1);
  vfio_pci_hot_reset request{.argsz = 11, .count = 1};
  told("short", call(device, VFIO_DEVICE_PCI_HOT_RESET, request));
  request = {.argsz = 12, .flags = 1, .count = 1};
  told("flags", call(device, VFIO_DEVICE_PCI_HOT_RESET, request));
  told("null", plain(device, VFIO_DEVICE_PCI_HOT_RESET));
  int second = opened("the sibling", deviceOf(shared, kSecond));
  sayHotReset("both open", device, {shared}, 1);
  shut(second);
  shut(device);
  shut(shared);
  shut(alone);
  shut(container);
  say("-- by device ids");
  int iommufd = host->open("/dev/iommu", O_RDWR);
  int cdev = openCdev(kFirst);
  told("bind", bindCdev(cdev, iommufd));
  sayHotReset("with a group", cdev, {iommufd}, 1);
  sayHotReset("without", cdev, {}, 0);
  opened("the group", openGroup(kFirst));
  shut(cdev);
  shut(iommufd);
}

// ---------------------------------------------------------------- an iommufd for a container

void sayIoas(const char* what, int iommufd) {
  iommu_vfio_ioas request{.size = sizeof request, .op = IOMMU_VFIO_IOAS_GET};
  const int result = call(iommufd, IOMMU_VFIO_IOAS, request);
  say("compat ioas %s: %s id %u", what, answer(result).c_str(), request.ioas_id);
}

void onIommufd() {
  say("==== an iommufd for a container");
  int iommufd = host->open("/dev/iommu", O_RDWR);
  int container = openContainer();
  int group = openGroup(kFirst);
  sayIoas("before", iommufd);
  told("set", setContainer(group, iommufd));
  sayStatus("set", group);
  sayIoas("set", iommufd);
  told("set again", setContainer(group, iommufd));
  told("set a container besides", setContainer(group, container));
  told("unset", plain(group, VFIO_GROUP_UNSET_CONTAINER));
  sayIoas("unset", iommufd);
  told("set", setContainer(group, iommufd));
  sayIoas("set again", iommufd);
  told("set iommu 3", plain(iommufd, VFIO_SET_IOMMU, 3));
  auto* const buffer = memory(2);
  std::memset(buffer, 0x77, 2 * kPage);
  sayMap("before a device", iommufd, asNumber(buffer), 0x10000, 2 * kPage);
  int device = opened("device", deviceOf(group, kFirst));
  sayInfo("of iommufd", iommufd, 256);
  sayDma("in", device, 0x10000, 0x40000, 0);
  buffer[kPage] = 0;
  sayDma("out", device, 0x40000, 0x11000, 2);
  sayBehind(buffer[kPage]);
  told("bind", bindCdev(device, iommufd));
  vfio_device_attach_iommufd_pt attach{.argsz = 12, .pt_id = 1};
  told("attach", call(device, VFIO_DEVICE_ATTACH_IOMMUFD_PT, attach));
  int second = opened("sibling", deviceOf(group, kSecond));
  int again = opened("device again", deviceOf(group, kFirst));
  sayHotReset("by group", device, {group}, 1);
  sayHotReset("by ids", device, {}, 0);
  told("unset, devices open", plain(group, VFIO_GROUP_UNSET_CONTAINER));
  sayStatus("unset, devices open", group);
  opened("device, unset", deviceOf(group, kFirst));
  told("a container now", setContainer(group, container));
  int other = host->open("/dev/iommu", O_RDWR);
  told("another iommufd", setContainer(group, other));
  int more = opened("device of another iommufd", deviceOf(group, kFirst));
  shut(more);
  shut(second);
  opened("sibling of another iommufd", deviceOf(group, kSecond));
  shut(group);
  opened("group, devices open", group = openGroup(kFirst));
  sayStatus("anew", group);
  shut(group);
  int cdev = openCdev(kFirst);
  told("bind", bindCdev(cdev, iommufd));
  shut(cdev);
  int sibling = openCdev(kSecond);
  told("bind the sibling elsewhere", bindCdev(sibling, other));
  told("bind the sibling", bindCdev(sibling, iommufd) < 0 ? -1 : 0);
  shut(sibling);
  shut(device);
  shut(again);
  sayIoas("devices closed", iommufd);
  say("-- without its compat IOAS");
  group = openGroup(kFirst);
  told("set", setContainer(group, iommufd));
  iommu_vfio_ioas clear{.size = sizeof clear, .op = IOMMU_VFIO_IOAS_CLEAR};
  told("clear", call(iommufd, IOMMU_VFIO_IOAS, clear));
  told("device", deviceOf(group, kFirst));
  sayStatus("after that", group);
  shut(group);
  shut(other);
  shut(iommufd);
  shut(container);
}

void drivers() {
  say("==== drivers that come and go");
  int container = openContainer();
  int group = openGroup(kFirst);
  told("set", setContainer(group, container));
  told("set iommu 3", plain(container, VFIO_SET_IOMMU, 3));
  bindTo(kSecond, "");
  sayStatus("one left", group);
  told("device that left", deviceOf(group, kSecond));
  bindTo(kFirst, "");
  sayStatus("none left", group);
  told("device", deviceOf(group, kFirst));
  told("set", setContainer(group, container));
  told("unset", plain(group, VFIO_GROUP_UNSET_CONTAINER));
  sayInfo("none left", container, 256);
  opened("open", openGroup(kFirst));
  bindTo(kFirst, "vfio-pci");
  sayStatus("of old", group);
  int anew = opened("open anew", openGroup(kFirst));
  sayStatus("anew", anew);
  told("set of old", setContainer(group, container));
  told("set anew", setContainer(anew, container));
  shut(anew);
  shut(group);
  shut(container);
}

// The default machine, with another kind of IOMMU if one is named.
std::string topology(const char* kind) {
  std::string text(soft::topology::defaultTopology);
  constexpr std::string_view vtd = R"("kind": "vtd")";
  if (kind) text.replace(text.find(vtd), vtd.size(), R"("kind": ")" + std::string(kind) + '"');
  return text;
}

}  // namespace

int main(int count, char** arguments) {
  const std::string machine = topology(count > 2 ? arguments[2] : nullptr);
  amd = machine.find(R"("amd")") != std::string::npos;
  chooseHost(arguments, machine.c_str());
  bindTo(kAlone, "vfio-pci");
  bindTo(kFirst, "vfio-pci");
  emptyContainer();
  groupAlone();
  setIommu();
  mapping(3);
  mapping(1);
  dirtyPages();
  openedDevices();
  twoGroups();
  hotReset();
  onIommufd();
  drivers();
  memlock();
  host.reset();
  failing::sayOutcomes();
  return failing::wrong == 0 ? 0 : 1;
}
