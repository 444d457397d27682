// All steps of a user-space driver on the software host, through the interface Backend and without Node:
// open, bind, map, DMA in both directions, interrupts, closing in unusual orders. Prints each claim; exits
// with 1 if one does not hold.
#include <fcntl.h>
#include <poll.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <cstdio>
#include <cstring>
#include <string>
#include <thread>
#include <vector>

#include "../../native/soft/host/host.h"
#include "../../native/soft/mm/memory.h"
#include "../../native/uapi/iommufd.h"
#include "../../native/uapi/vfio.h"

using namespace vfio;
using namespace vfio::uapi;

namespace {

bool failed = false;

void check(bool holds, const char* claim) {
  std::printf("%s %s\n", holds ? "ok  " : "FAIL", claim);
  failed |= !holds;
}

std::shared_ptr<soft::mm::Memory> memory() {
  static const auto shared = std::make_shared<soft::mm::Memory>();
  return shared;
}

const std::string pci = "/sys/bus/pci/";
constexpr uint64_t config = uint64_t{7} << 40;
constexpr uint64_t bufferSize = 2 << 20;

int64_t put(soft::Host& host, const std::string& path, const std::string& text) {
  const int fd = host.open(path.c_str(), O_WRONLY);
  if (fd < 0) return fd;
  const int64_t result = host.write(fd, text.data(), text.size());
  host.close(fd);
  return result;
}

bool toVfio(soft::Host& host, const std::string& bdf) {
  return put(host, pci + "devices/" + bdf + "/driver_override", "vfio-pci") > 0 &&
         put(host, pci + "drivers_probe", bdf) > 0;
}

template <typename Struct>
int call(soft::Host& host, int fd, uint32_t request, Struct& argument) {
  return host.ioctl(fd, request, reinterpret_cast<uintptr_t>(&argument));
}

int bind(soft::Host& host, int fd, int iommufd) {
  vfio_device_bind_iommufd bind{.argsz = sizeof bind, .iommufd = iommufd};
  return call(host, fd, VFIO_DEVICE_BIND_IOMMUFD, bind);
}

int attach(soft::Host& host, int fd, uint32_t id) {
  vfio_device_attach_iommufd_pt attach{.argsz = sizeof attach, .pt_id = id};
  return call(host, fd, VFIO_DEVICE_ATTACH_IOMMUFD_PT, attach);
}

uint32_t allocIoas(soft::Host& host, int iommufd) {
  iommu_ioas_alloc alloc{.size = sizeof alloc};
  return call(host, iommufd, IOMMU_IOAS_ALLOC, alloc) == 0 ? alloc.out_ioas_id : 0;
}

int map(soft::Host& host, int iommufd, uint32_t ioas, void* buffer, uint64_t iova) {
  iommu_ioas_map map{.size = sizeof map,
                     .flags = IOMMU_IOAS_MAP_FIXED_IOVA | IOMMU_IOAS_MAP_READABLE | IOMMU_IOAS_MAP_WRITEABLE,
                     .ioas_id = ioas,
                     .user_va = reinterpret_cast<uintptr_t>(buffer),
                     .length = bufferSize,
                     .iova = iova};
  return call(host, iommufd, IOMMU_IOAS_MAP, map);
}

void setRegister(soft::Host& host, int fd, uint64_t at, uint64_t value, size_t size = 8) {
  if (host.pwrite(fd, &value, size, at) != static_cast<int64_t>(size))
    check(false, "a register takes a write");
}

uint64_t load(soft::Host& host, const uint8_t* address) {
  uint64_t value = 0;
  return host.registerRead(address, 4, value) == 0 ? value : 0xbad;
}

uint32_t getRegister(soft::Host& host, int fd, uint64_t at) {
  uint32_t value = 0;
  if (host.pread(fd, &value, sizeof value, at) != sizeof value) check(false, "a register can be read");
  return value;
}

constexpr uint64_t toMemory = 2, interruptWhenDone = 4;

void dma(soft::Host& host, int fd, uint64_t source, uint64_t destination, uint64_t count, uint64_t flags) {
  setRegister(host, fd, 0x80, source);
  setRegister(host, fd, 0x88, destination);
  setRegister(host, fd, 0x90, count);
  setRegister(host, fd, 0x98, 1 | flags);
  host.settle();
}

int setTrigger(soft::Host& host, int fd, uint32_t index, int event) {
  struct {
    vfio_irq_set head;
    int32_t fd;
  } set{{sizeof set, VFIO_IRQ_SET_DATA_EVENTFD | VFIO_IRQ_SET_ACTION_TRIGGER, index, 0, 1}, event};
  return call(host, fd, VFIO_DEVICE_SET_IRQS, set);
}

uint64_t count(int event) {
  uint64_t value = 0;
  return ::read(event, &value, sizeof value) == sizeof value ? value : 0;
}

void wholeJob() {
  soft::Host host(memory(), {.kernel = {6, 12}});
  check(toVfio(host, "0000:00:10.0"), "driver_override and drivers_probe give the edu to vfio-pci");
  const int device = host.open("/dev/vfio/devices/vfio0", O_RDWR | O_CLOEXEC);
  const int iommufd = host.open("/dev/iommu", O_RDWR | O_CLOEXEC);
  check(device >= 0 && iommufd >= 0, "the character device and /dev/iommu open");
  check(host.owns(device) && !host.owns(1), "the host knows its descriptors from others");
  check(bind(host, device, iommufd) == 0, "bind");
  const uint32_t ioas = allocIoas(host, iommufd);
  check(attach(host, device, ioas) == 0, "attach");
  const int64_t mapped =
      host.mmap(nullptr, bufferSize, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  auto* buffer = reinterpret_cast<uint8_t*>(mapped);
  check(map(host, iommufd, ioas, buffer, 0x100000) == 0, "map 2 MiB");

  for (unsigned i = 0; i < 4096; ++i) buffer[i] = static_cast<uint8_t>(i * 7);
  dma(host, device, 0x100000, 0x40000, 4096, 0);
  auto faults = host.takeFaults();
  check(faults.size() == 1 && faults[0].reason == "bus mastering is off",
        "DMA without bus mastering is refused");
  setRegister(host, device, config + 4, 0x0006, 2);
  dma(host, device, 0x100000, 0x40000, 4096, 0);
  dma(host, device, 0x40000, 0x100000 + 8192, 4096, toMemory);
  check(std::memcmp(buffer, buffer + 8192, 4096) == 0,
        "DMA into the device's buffer and back keeps the bytes");
  check(host.takeFaults().empty(), "and no fault was logged");
  dma(host, device, 0x40000, 0x900000, 16, toMemory);
  faults = host.takeFaults();
  check(faults.size() == 1 && faults[0].bdf == "0000:00:10.0" && faults[0].write, "DMA to a hole is a fault");
  dma(host, device, 0x40000 + 4090, 0x100000, 16, toMemory);
  check(host.takeFaults().size() == 1, "DMA past the device's buffer is refused");
  dma(host, device, 0x40000, ~uint64_t{0}, ~uint64_t{0}, toMemory);
  check(host.takeFaults().size() == 1, "so is a length that wraps");
  dma(host, device, 0x40000, 0x10100000, 16, toMemory);
  check(host.takeFaults().size() == 1, "an address beyond 28 bits is reported, and loses its upper bits");

  const int event = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
  check(setTrigger(host, device, VFIO_PCI_MSI_IRQ_INDEX, event) == 0, "an eventfd takes the MSI");
  dma(host, device, 0x40000, 0x100000, 64, toMemory | interruptWhenDone);
  check(count(event) == 1 && getRegister(host, device, 0x24) == 0x100, "the DMA interrupt arrives by MSI");
  setRegister(host, device, 0x64, 0x100, 4);
  setRegister(host, device, 0x20, 0x80, 4);
  setRegister(host, device, 0x08, 12, 4);
  host.settle();
  check(getRegister(host, device, 0x08) == 479001600 && count(event) == 1, "12! with an interrupt when done");
  ::close(event);
  setRegister(host, device, 0x60, 1, 4);
  check(true, "an interrupt whose eventfd its owner has closed is harmless");

  const int64_t bar = host.mmap(nullptr, 1 << 20, PROT_READ | PROT_WRITE, MAP_SHARED, device, 0);
  auto* registers = reinterpret_cast<uint8_t*>(bar);
  check(bar > 0 && host.trapped(registers) && host.trapped(registers + 0xfffff) &&
            !host.trapped(registers + (1 << 20)),
        "a mapped register BAR is trapped");
  check(load(host, registers) == 0x010000ed, "its registers can be read");
  (void)host.registerWrite(registers + 4, 4, 0x0f0f0f0f);
  check(load(host, registers + 4) == 0xf0f0f0f0, "and written");
  host.munmap(registers + 4096, 4096);
  check(!host.trapped(registers + 4096) && host.trapped(registers + 8192),
        "munmap of a page cuts the mapping");
  check(load(host, registers + 0x40000 - 0x3ff60) == 0xffffffff, "register holes read as ones");

  check(host.close(device) == 0, "close the device while its BAR is mapped");
  check(host.ioctl(device, VFIO_DEVICE_RESET, 0) == -EBADF, "a closed descriptor is EBADF");
  check(host.trapped(registers + 8192), "the mapping keeps the device open");
  check(put(host, pci + "drivers/vfio-pci/unbind", "0000:00:10.0") == -EBUSY,
        "so vfio-pci can't let go of it");
  host.munmap(registers, 1 << 20);
  check(put(host, pci + "drivers/vfio-pci/unbind", "0000:00:10.0") > 0, "munmap closes it");
  check(host.open("/dev/vfio/devices/vfio0", O_RDWR) == -ENOENT, "and its node has gone");
  host.close(iommufd);
  host.munmap(buffer, bufferSize);
}

void memoryBar() {
  soft::Host host(memory(), {.kernel = {6, 12}});
  check(toVfio(host, "0000:00:14.0"), "the memory device goes to vfio-pci");
  const int device = host.open("/dev/vfio/devices/vfio0", O_RDWR);
  const int iommufd = host.open("/dev/iommu", O_RDWR);
  check(bind(host, device, iommufd) == 0, "bind");
  const uint64_t offset = uint64_t{2} << 40;
  const int64_t mapped = host.mmap(nullptr, 1 << 20, PROT_READ | PROT_WRITE, MAP_SHARED, device, offset);
  auto* bytes = reinterpret_cast<uint8_t*>(mapped);
  check(mapped > 0 && !host.trapped(bytes), "a BAR of memory is mapped as memory");
  bytes[4097] = 0x5a;
  uint8_t seen = 0;
  check(host.pread(device, &seen, 1, offset + 4097) == 1 && seen == 0x5a, "a store is seen by read()");
  host.close(iommufd);
  host.close(device);
  bytes[0] = 1;
  check(put(host, pci + "drivers/vfio-pci/unbind", "0000:00:14.0") == -EBUSY, "the mapping holds the device");
  host.munmap(bytes, 1 << 20);
  check(put(host, pci + "drivers/vfio-pci/unbind", "0000:00:14.0") > 0, "until it is unmapped");
}

void sharedGroup() {
  soft::Host host(memory(), {.kernel = {6, 12}});
  check(toVfio(host, "0000:03:01.0") && toVfio(host, "0000:03:02.0"), "both functions go to vfio-pci");
  const int first = host.open("/dev/vfio/devices/vfio0", O_RDWR);
  const int second = host.open("/dev/vfio/devices/vfio1", O_RDWR);
  const int mine = host.open("/dev/iommu", O_RDWR);
  const int other = host.open("/dev/iommu", O_RDWR);
  check(bind(host, first, mine) == 0, "bind the first");
  check(bind(host, second, other) == -EPERM, "the second can't go to another iommufd");
  struct {
    vfio_pci_hot_reset_info head;
    vfio_pci_dependent_device devices[4];
  } info{.head = {.argsz = sizeof info}};
  check(call(host, first, VFIO_DEVICE_GET_PCI_HOT_RESET_INFO, info) == 0 && info.head.count == 2 &&
            info.devices[0].devid > 0 && info.devices[1].devid == 0,
        "hot reset info: one device with an id, one owned through its group");
  vfio_pci_hot_reset reset{.argsz = sizeof reset};
  check(call(host, first, VFIO_DEVICE_PCI_HOT_RESET, reset) == 0, "hot reset");
  check(getRegister(host, first, 0) == 0x010000ed, "after which the device answers as before");
  check(bind(host, second, mine) == 0, "the second goes to the same iommufd");
  check(bind(host, second, mine) == -EINVAL, "but once");
  host.close(mine);
  host.close(first);
  check(put(host, pci + "drivers/vfio-pci/unbind", "0000:03:02.0") == -EBUSY, "an open device stays bound");
  host.close(other);
  host.close(second);
  check(put(host, pci + "drivers/vfio-pci/unbind", "0000:03:02.0") > 0, "a closed one does not");
}

void descriptors() {
  soft::Host host(memory(), {.kernel = {6, 12}});
  check(toVfio(host, "0000:00:10.0"), "the edu goes to vfio-pci");
  int device = host.open("/dev/vfio/devices/vfio0", O_RDWR);
  const int iommufd = host.open("/dev/iommu", O_RDWR);
  check(bind(host, device, iommufd) == 0, "bind");
  const int copy = ::dup(device);
  check(host.owns(copy), "a dup made behind the host's back is recognised");
  host.close(device);
  check(getRegister(host, copy, 0) == 0x010000ed, "and works after the first has gone");
  host.close(copy);
  device = host.open("/dev/vfio/devices/vfio0", O_RDWR);
  check(bind(host, device, iommufd) == 0, "the last close released the device");
  ::close(device);
  device = host.open("/dev/vfio/devices/vfio0", O_RDWR);
  check(bind(host, device, iommufd) == 0, "so does a close behind the host's back");
  const int readOnly = host.open("/dev/vfio/devices/vfio0", O_RDONLY);
  uint32_t word = 0;
  check(host.pwrite(readOnly, &word, 4, 0) == -EBADF, "a read-only descriptor takes no writes");
  check(host.ioctl(1, VFIO_DEVICE_RESET, 0) == -EBADF, "foreign descriptors are EBADF");
  check(host.open(nullptr, O_RDONLY) == -EFAULT, "a null path is EFAULT");
  check(host.ioctl(device, VFIO_DEVICE_GET_INFO, 8) == -EFAULT, "a bad argument is EFAULT");
  pollfd state{device, POLLIN | POLLOUT, 0};
  check(poll(&state, 1, 0) == 1 && state.revents == (POLLIN | POLLOUT), "a file is always ready");
  const int full = eventfd(0, EFD_CLOEXEC);
  const uint64_t most = ~uint64_t{0} - 1;
  if (::write(full, &most, sizeof most) < 0) check(false, "an eventfd can be filled");
  check(setTrigger(host, device, VFIO_PCI_MSI_IRQ_INDEX, full) == 0, "a full eventfd for an interrupt");
  setRegister(host, device, config + 4, 6, 2);
  setRegister(host, device, 0x60, 1, 4);
  check(count(full) == most, "does not block the host");
  ::close(full);
}

// An attach whose answer can't be written (EFAULT): the device's attachment without a PASID is removed, even
// if the attach was for a PASID. The attachment for the PASID stays.
void unsaid() {
  soft::HostOptions options;
  options.topology = R"({"iommus":[{"kind":"vtd","pasidBits":8}],
    "devices":[{"model":"edu","bdf":"0000:00:10.0","pasidBits":8,"driver":"vfio-pci"}]})";
  soft::Host host(memory(), options);
  const int device = host.open("/dev/vfio/devices/vfio0", O_RDWR | O_CLOEXEC);
  const int iommufd = host.open("/dev/iommu", O_RDWR | O_CLOEXEC);
  check(bind(host, device, iommufd) == 0, "a device with PASIDs, bound");
  iommu_hwpt_alloc table{
      .size = sizeof table, .flags = IOMMU_HWPT_ALLOC_PASID, .dev_id = 1, .pt_id = allocIoas(host, iommufd)};
  check(call(host, iommufd, IOMMU_HWPT_ALLOC, table) == 0, "a page table for PASIDs");
  const uint32_t id = table.out_hwpt_id;
  const auto destroyed = [&] {
    iommu_destroy destroy{.size = sizeof destroy, .id = id};
    return call(host, iommufd, IOMMU_DESTROY, destroy);
  };
  void* const page = ::mmap(nullptr, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  auto* const request = static_cast<vfio_device_attach_iommufd_pt*>(page);
  *request = {.argsz = sizeof *request, .flags = VFIO_DEVICE_ATTACH_PASID, .pt_id = id, .pasid = 5};
  ::mprotect(page, 4096, PROT_READ);
  check(call(host, device, VFIO_DEVICE_ATTACH_IOMMUFD_PT, *request) == -EFAULT, "nowhere to answer: EFAULT");
  check(destroyed() == -EBUSY, "... the PASID stays attached");
  vfio_device_detach_iommufd_pt detach{.argsz = sizeof detach, .flags = VFIO_DEVICE_DETACH_PASID, .pasid = 5};
  check(call(host, device, VFIO_DEVICE_DETACH_IOMMUFD_PT, detach) == 0, "... until it is detached");

  check(attach(host, device, id) == 0, "without a PASID");
  check(call(host, device, VFIO_DEVICE_ATTACH_IOMMUFD_PT, *request) == -EFAULT, "nowhere to answer again");
  check(call(host, device, VFIO_DEVICE_DETACH_IOMMUFD_PT, detach) == 0 && destroyed() == 0,
        "... takes what was attached without");
  ::munmap(page, 4096);
  host.close(device);
  host.close(iommufd);
}

void threads() {
  soft::Host host(memory(), {.kernel = {6, 12}});
  check(toVfio(host, "0000:00:10.0"), "the edu goes to vfio-pci");
  const int device = host.open("/dev/vfio/devices/vfio0", O_RDWR);
  const int iommufd = host.open("/dev/iommu", O_RDWR);
  check(bind(host, device, iommufd) == 0, "bind");
  const int event = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
  check(setTrigger(host, device, VFIO_PCI_MSI_IRQ_INDEX, event) == 0, "MSI");
  setRegister(host, device, config + 4, 6, 2);
  const int64_t bar = host.mmap(nullptr, 1 << 20, PROT_READ | PROT_WRITE, MAP_SHARED, device, 0);
  auto* registers = reinterpret_cast<uint8_t*>(bar);
  std::atomic<bool> wrong = false;
  std::vector<std::thread> workers;
  for (int worker = 0; worker < 4; ++worker) {
    workers.emplace_back([&, worker] {
      for (int i = 0; i < 500; ++i) {
        if (worker == 0) (void)host.registerWrite(registers + 0x98, 4, 1);
        if (worker == 1) (void)host.registerWrite(registers + 0x08, 4, 5);
        if (load(host, registers) != 0x010000ed) wrong = true;
        uint32_t vendor = 0;
        if (host.pread(device, &vendor, 4, config) != 4 || vendor != 0x11e81234) wrong = true;
      }
    });
  }
  for (auto& worker : workers) worker.join();
  host.settle();
  check(!wrong, "four threads and the engine at once");
  // The host is destroyed while files are open and memory is mapped, and while work is posted.
  (void)host.registerWrite(registers + 0x98, 4, 1);
  ::close(event);
}

}  // namespace

int main() {
  wholeJob();
  memoryBar();
  sharedGroup();
  descriptors();
  unsaid();
  threads();
  return failed ? 1 : 0;
}
