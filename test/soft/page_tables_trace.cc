// Prints a host's answers to a fixed sequence of calls on page tables: tables that are allocated explicitly
// or by an attach, moves of devices between them, and newer kinds that a plain unit refuses.
// `page_tables_trace soft` here (and `soft amd`), `page_tables_trace kernel` in the guest.
// page_tables_trace.txt contains the answers of Linux 6.12 with VT-d, and page_tables_trace_amd.txt those
// with IOMMU=amd.
#include <fcntl.h>
#include <poll.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <cstring>
#include <memory>
#include <string>
#include <vector>

#include "../../native/kernel/kernel.h"
#include "../../native/soft/host/host.h"
#include "../../native/soft/mm/memory.h"
#include "../../native/uapi/iommufd.h"
#include "../../native/uapi/iommufd_data.h"
#include "../../native/uapi/vfio.h"
#include "failing.h"

using namespace vfio;
using namespace vfio::uapi;

namespace {

std::unique_ptr<Backend> host;
int iommufd = -1;

const char* name(int64_t result) {
  if (result >= 0) return "ok";
  return strerrorname_np(static_cast<int>(-result));
}

template <class Struct>
int call(int fd, uint32_t request, Struct& arguments) {
  return host->ioctl(fd, request, reinterpret_cast<uintptr_t>(&arguments));
}

void put(const std::string& path, const std::string& value) {
  const int fd = host->open(path.c_str(), O_WRONLY);
  if (fd < 0) return;
  (void)host->write(fd, value.data(), value.size());
  host->close(fd);
}

// Binds a function to vfio-pci and opens its device file.
int open(const std::string& bdf) {
  const std::string device = "/sys/bus/pci/devices/" + bdf;
  put(device + "/driver/unbind", bdf);
  put(device + "/driver_override", "vfio-pci");
  put("/sys/bus/pci/drivers_probe", bdf);
  std::vector<std::string> names;
  if (host->list((device + "/vfio-dev").c_str(), names) != 0 || names.empty()) return -1;
  return host->open(("/dev/vfio/devices/" + names.front()).c_str(), O_RDWR);
}

uint32_t bind(const char* what, int device, int to) {
  vfio_device_bind_iommufd bind = {16, 0, to, 0, 0};
  const int result = call(device, VFIO_DEVICE_BIND_IOMMUFD, bind);
  std::printf("bind %s: %s %u\n", what, name(result), bind.out_devid);
  return bind.out_devid;
}

uint32_t attach(const char* what, int device, uint32_t pt) {
  vfio_device_attach_iommufd_pt attach = {12, 0, pt, 0};
  const int result = call(device, VFIO_DEVICE_ATTACH_IOMMUFD_PT, attach);
  std::printf("attach %s to %u: %s %u\n", what, pt, name(result), attach.pt_id);
  return attach.pt_id;
}

void detach(const char* what, int device) {
  vfio_device_detach_iommufd_pt detach = {8, 0, 0};
  std::printf("detach %s: %s\n", what, name(call(device, VFIO_DEVICE_DETACH_IOMMUFD_PT, detach)));
}

void destroy(uint32_t id) {
  iommu_destroy destroy = {sizeof(destroy), id};
  std::printf("destroy %u: %s\n", id, name(call(iommufd, IOMMU_DESTROY, destroy)));
}

uint32_t ioas() {
  iommu_ioas_alloc alloc = {sizeof(alloc), 0, 0};
  const int result = call(iommufd, IOMMU_IOAS_ALLOC, alloc);
  std::printf("ioas: %s %u\n", name(result), alloc.out_ioas_id);
  return alloc.out_ioas_id;
}

void map(uint32_t ioas, uint64_t iova, void* user, uint64_t length) {
  iommu_ioas_map map = {sizeof(map), 7, ioas, 0, reinterpret_cast<uintptr_t>(user), length, iova};
  std::printf("map %#llx: %s\n", static_cast<unsigned long long>(iova),
              name(call(iommufd, IOMMU_IOAS_MAP, map)));
}

void ranges(uint32_t ioas) {
  iommu_iova_range list[8] = {};
  iommu_ioas_iova_ranges ranges = {sizeof(ranges), ioas, 8, 0, reinterpret_cast<uintptr_t>(list), 0};
  const int result = call(iommufd, IOMMU_IOAS_IOVA_RANGES, ranges);
  std::printf("ranges of %u: %s, alignment %llu", ioas, name(result),
              static_cast<unsigned long long>(ranges.out_iova_alignment));
  for (uint32_t at = 0; at < ranges.num_iovas && at < 8; ++at) {
    std::printf(" %llx-%llx", static_cast<unsigned long long>(list[at].start),
                static_cast<unsigned long long>(list[at].last));
  }
  std::printf("\n");
}

struct Hwpt {
  uint32_t size = sizeof(iommu_hwpt_alloc);
  uint32_t flags = 0;
  uint32_t device = 0;
  uint32_t pt = 0;
  uint32_t reserved = 0;
  uint32_t type = 0;
  uint32_t length = 0;
  const void* data = nullptr;
  uint32_t fault = 0;
  uint32_t reserved2 = 0;
};

uint32_t hwpt(const Hwpt& of) {
  iommu_hwpt_alloc alloc = {of.size,  of.flags,    of.device,
                            of.pt,    0,           of.reserved,
                            of.type,  of.length,   reinterpret_cast<uintptr_t>(of.data),
                            of.fault, of.reserved2};
  const int result = call(iommufd, IOMMU_HWPT_ALLOC, alloc);
  std::printf("hwpt size %u flags %x device %u pt %u type %u length %u fault %u: %s %u\n", of.size, of.flags,
              of.device, of.pt, of.type, of.length, of.fault, name(result), alloc.out_hwpt_id);
  return result == 0 ? alloc.out_hwpt_id : 0;
}

void info(uint32_t device, uint32_t flags, uint32_t length, void* data,
          uint32_t size = sizeof(iommu_hw_info)) {
  iommu_hw_info info = {};
  info.size = size;
  info.flags = flags;
  info.dev_id = device;
  info.data_len = length;
  info.data_uptr = reinterpret_cast<uintptr_t>(data);
  const int result = call(iommufd, IOMMU_GET_HW_INFO, info);
  std::printf("info device %u flags %u length %u: %s type %u length %u pasid %u capabilities %llx\n", device,
              flags, length, name(result), info.out_data_type, info.data_len, info.out_max_pasid_log2,
              static_cast<unsigned long long>(info.out_capabilities));
}

void dirty(uint32_t id) {
  uint64_t bits = 0;
  const auto set = [id](uint32_t flags, uint32_t reserved) {
    iommu_hwpt_set_dirty_tracking set = {sizeof(set), flags, id, reserved};
    std::printf("dirty tracking of %u, flags %u: %s\n", id, flags,
                name(call(iommufd, IOMMU_HWPT_SET_DIRTY_TRACKING, set)));
  };
  for (const uint32_t flags : {0u, 1u, 2u, 3u}) set(flags, 0);
  set(1, 1);
  struct Range {
    uint64_t iova, length, page;
    uint32_t flags, reserved;
  };
  const Range kRanges[] = {{0, 4096, 4096, 0, 0},
                           {0, 4096, 4096, 1, 0},
                           {0, 4096, 4096, 2, 0},
                           {0, 4096, 4096, 0, 1},
                           {0, 0, 4096, 0, 0},
                           {1, 4096, 4096, 0, 0},
                           {0, 4097, 4096, 0, 0},
                           {0, 4096, 0, 0, 0},
                           {0, 4096, 8192, 0, 0},
                           {0, 4096, 1, 0, 0},
                           {0, 0x3000, 0x3000, 0, 0},
                           {UINT64_MAX - 4095, 4096, 4096, 0, 0},
                           {UINT64_MAX - 4095, 8192, 4096, 0, 0},
                           {UINT64_MAX, 1, 1, 0, 0}};
  for (const Range& range : kRanges) {
    iommu_hwpt_get_dirty_bitmap get = {
        sizeof(get), id,           range.flags, range.reserved,
        range.iova,  range.length, range.page,  reinterpret_cast<uintptr_t>(&bits)};
    std::printf("bitmap of %u, %llx+%llx by %llx flags %u: %s\n", id,
                static_cast<unsigned long long>(range.iova), static_cast<unsigned long long>(range.length),
                static_cast<unsigned long long>(range.page), range.flags,
                name(call(iommufd, IOMMU_HWPT_GET_DIRTY_BITMAP, get)));
  }
}

void invalidate(uint32_t id) {
  iommu_hwpt_vtd_s1_invalidate entries[2] = {};
  struct Case {
    uint32_t type, length, count, reserved;
    const void* data;
  };
  const Case kCases[] = {{0, 24, 2, 0, entries},   {0, 24, 2, 1, entries},      {0, 24, 0, 0, nullptr},
                         {7, 24, 0, 0, nullptr},   {0, 24, 2, 0, nullptr},      {0, 0, 2, 0, entries},
                         {0, 4097, 2, 0, entries}, {0, 24, 524289, 0, entries}, {0, 24, 524288, 0, entries}};
  for (const Case& test : kCases) {
    iommu_hwpt_invalidate call = {sizeof(call), id,          reinterpret_cast<uintptr_t>(test.data),
                                  test.type,    test.length, test.count,
                                  test.reserved};
    const int result = ::call(iommufd, IOMMU_HWPT_INVALIDATE, call);
    std::printf("invalidate %u, type %u length %u count %u reserved %u: %s %u\n", id, test.type, test.length,
                test.count, test.reserved, name(result), call.entry_num);
  }
}

uint32_t faults() {
  iommu_fault_alloc alloc = {sizeof(alloc), 1, 0, 0};
  std::printf("fault queue, flags: %s\n", name(call(iommufd, IOMMU_FAULT_QUEUE_ALLOC, alloc)));
  alloc.flags = 0;
  const int result = call(iommufd, IOMMU_FAULT_QUEUE_ALLOC, alloc);
  std::printf("fault queue: %s %u\n", name(result), alloc.out_fault_id);
  const int fd = static_cast<int>(alloc.out_fault_fd);
  char bytes[128] = {};
  pollfd state = {fd, POLLIN | POLLOUT, 0};
  const int polled = poll(&state, 1, 0);
  std::printf("polls: %d %x\n", polled, static_cast<unsigned>(state.revents));
  for (const size_t size : {0u, 1u, 39u, 40u, 80u}) {
    const int64_t moved = host->read(fd, bytes, size);
    std::printf("read %zu: %s %lld\n", size, name(moved), static_cast<long long>(moved < 0 ? 0 : moved));
  }
  for (const size_t size : {0u, 7u, 8u, 16u}) {
    const int64_t moved = host->write(fd, bytes, size);
    std::printf("write %zu: %s %lld\n", size, name(moved), static_cast<long long>(moved < 0 ? 0 : moved));
  }
  std::printf("pread: %s\n", name(host->pread(fd, bytes, 40, 0)));
  std::printf("pwrite: %s\n", name(host->pwrite(fd, bytes, 8, 0)));
  std::printf("ioctl: %s\n", name(host->ioctl(fd, IOMMU_DESTROY, reinterpret_cast<uintptr_t>(bytes))));
  destroy(alloc.out_fault_id);
  auto* page =
      static_cast<char*>(::mmap(nullptr, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
  auto* const there = reinterpret_cast<iommu_fault_alloc*>(page);
  *there = {sizeof(alloc), 0, 0, 0};
  ::mprotect(page, 4096, PROT_READ);
  std::printf("fault queue, nowhere to answer: %s\n", name(call(iommufd, IOMMU_FAULT_QUEUE_ALLOC, *there)));
  ::munmap(page, 4096);
  host->close(fd);
  return alloc.out_fault_id;
}

void alone() {
  const int edu = open("0000:00:10.0");
  const uint32_t device = bind("edu", edu, iommufd);
  char registers[64] = {};
  info(device, 0, 0, nullptr);
  info(device, 1, 0, nullptr);
  info(device, 0, 24, registers);
  info(device, 0, 64, registers);
  info(device, 0, 24, reinterpret_cast<void*>(8));
  info(99, 0, 0, nullptr);
  info(device, 0, 0, nullptr, 32);
  const uint32_t space = ioas();
  const uint32_t queue = faults();

  for (uint32_t flags = 0; flags < 32; ++flags) {
    if (const uint32_t id = hwpt({.flags = flags, .device = device, .pt = space})) destroy(id);
  }
  const iommu_hwpt_vtd_s1 stage1 = {0, 0x1000, 48, 0};
  hwpt({.device = 99, .pt = space});
  hwpt({.device = device, .pt = 99});
  hwpt({.device = device, .pt = device});
  hwpt({.device = device, .pt = queue});
  hwpt({.device = space, .pt = space});
  hwpt({.device = device, .pt = space, .reserved = 1});
  hwpt({.device = device, .pt = space, .type = 1});
  hwpt({.device = device, .pt = space, .length = 24, .data = &stage1});
  hwpt({.device = device, .pt = space, .type = 1, .length = 24, .data = &stage1});
  hwpt({.flags = 4, .device = device, .pt = space, .fault = queue});
  const uint32_t small = hwpt({.size = 24, .device = device, .pt = space});
  const uint32_t manual = hwpt({.device = device, .pt = space, .reserved2 = 1});
  ranges(space);
  for (const uint32_t type : {0u, 1u, 2u, 0xdeadu}) {
    for (const uint32_t length : {0u, 16u, 24u}) {
      hwpt({.device = device, .pt = manual, .type = type, .length = length, .data = &stage1});
    }
  }
  for (const uint32_t flags : {1u, 2u, 4u, 8u}) {
    hwpt({.flags = flags,
          .device = device,
          .pt = manual,
          .type = 1,
          .length = 24,
          .data = &stage1,
          .fault = queue});
  }
  dirty(manual);
  dirty(space);
  dirty(99);
  invalidate(manual);
  invalidate(99);

  // Attaches, and the state after each.
  attach("edu", edu, device);
  attach("edu", edu, queue);
  attach("edu", edu, 99);
  attach("edu", edu, manual);
  destroy(manual);
  destroy(space);
  attach("edu", edu, manual);
  const uint32_t automatic = attach("edu", edu, space);
  hwpt({.device = device, .pt = automatic, .type = 1, .length = 24, .data = &stage1});
  destroy(automatic);
  attach("edu", edu, space);
  attach("edu", edu, automatic);
  attach("edu", edu, small);
  destroy(automatic);
  attach("edu", edu, space);
  const uint32_t other = ioas();
  attach("edu", edu, other);
  ranges(space);
  ranges(other);
  // Address spaces that the device can't be attached to.
  auto* page = static_cast<char*>(
      ::mmap(nullptr, 1 << 20, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
  const uint32_t blocked = ioas();
  map(blocked, 0xfee00000, page, 4096);
  attach("edu", edu, blocked);
  hwpt({.device = device, .pt = blocked});
  attach("edu", edu, 99);
  ranges(blocked);
  ranges(other);
  const uint32_t far = ioas();
  map(far, uint64_t{1} << 50, page, 4096);
  attach("edu", edu, far);
  hwpt({.device = device, .pt = far});
  const uint32_t fine = ioas();
  map(fine, 0x1000, page + 1, 3);
  attach("edu", edu, fine);
  const uint32_t bad = ioas();
  map(bad, 0x1000, reinterpret_cast<void*>(0x1000), 4096);
  attach("edu", edu, bad);
  hwpt({.device = device, .pt = bad});
  detach("edu", edu);
  detach("edu", edu);
  attach("edu", edu, blocked);
  attach("edu", edu, bad);
  attach("edu", edu, small);
  detach("edu", edu);
  for (const uint32_t id : {small, manual, automatic, queue, space, other, blocked, far, fine, bad, device}) {
    destroy(id);
  }
  ::munmap(page, 1 << 20);
  host->close(edu);
  destroy(device);
}

// Two devices of one group, which always change their page table together.
void together() {
  const int left = open("0000:03:01.0");
  const int right = open("0000:03:02.0");
  const int other = host->open("/dev/iommu", O_RDWR);
  const uint32_t leftId = bind("left", left, iommufd);
  bind("right elsewhere", right, other);
  bind("right", right, iommufd);
  const uint32_t first = ioas();
  const uint32_t second = ioas();
  const uint32_t table = hwpt({.device = leftId, .pt = first});
  attach("left", left, first);
  attach("right", right, second);
  attach("right", right, table);
  attach("right", right, first);
  attach("left", left, second);
  attach("left", left, first);
  attach("right", right, table);
  destroy(table);
  detach("left", left);
  attach("left", left, second);
  attach("left", left, table);
  detach("right", right);
  attach("right", right, first);
  detach("left", left);
  attach("right", right, first);
  host->close(left);
  detach("right", right);
  destroy(table);
  destroy(first);
  destroy(second);
  host->close(right);
  host->close(other);
}

// The test devices of the default machine, behind another IOMMU.
std::string topology(const char* kind) {
  if (kind == nullptr) return "";
  return std::string(R"({ "iommus": [{ "kind": ")") + kind + R"(" }], "devices": [
    { "model": "edu", "bdf": "0000:00:10.0" },
    { "model": "root-port", "bdf": "0000:00:11.0" },
    { "model": "root-port", "bdf": "0000:00:12.0" },
    { "model": "bridge", "behind": "0000:00:12.0", "slot": 0 },
    { "model": "edu", "behind": "0000:02:00.0", "slot": 1 },
    { "model": "edu", "behind": "0000:02:00.0", "slot": 2 }]})";
}

}  // namespace

int main(int, char** arguments) {
  if (arguments[1] != nullptr && std::strcmp(arguments[1], "kernel") == 0) {
    host = std::make_unique<KernelBackend>();
  } else {
    const unsigned seed = arguments[1] != nullptr ? failing::seedOf(arguments[1]) : 0;
    auto made = std::make_unique<soft::Host>(
        std::make_shared<soft::mm::Memory>(),
        soft::HostOptions{
            .kernel = {6, 12},
            .topology = arguments[1] != nullptr ? std::optional(topology(arguments[2])) : std::nullopt});
    host = failing::wrap(std::move(made), seed);
  }
  iommufd = host->open("/dev/iommu", O_RDWR);
  alone();
  together();
  host->close(iommufd);
  host.reset();
  failing::sayOutcomes();
  return failing::wrong == 0 ? 0 : 1;
}
