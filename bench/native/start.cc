// A new software host and a first DMA on it, the whole of bench/start-child.ts in C++.
#include <fcntl.h>
#include <poll.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <cstring>
#include <string>
#include <vector>

#include "../../native/soft/host/host.h"
#include "../../native/soft/mm/memory.h"
#include "../../native/uapi/iommufd.h"
#include "../../native/uapi/vfio.h"
#include "bench.h"

namespace vfio::bench {
namespace {

constexpr const char* kDevice = "/sys/bus/pci/devices/0000:00:10.0";
constexpr uint64_t kIova = 0x100000;
constexpr size_t kPage = 4096;

template <typename Argument>
int call(Napi::Env env, Backend& host, int fd, unsigned long request, Argument& argument, const char* what) {
  return static_cast<int>(
      checked(env, host.ioctl(fd, request, reinterpret_cast<uintptr_t>(&argument)), what));
}

void writeFile(Napi::Env env, Backend& host, const std::string& path, const std::string& text) {
  const auto fd = static_cast<int>(checked(env, host.open(path.c_str(), O_WRONLY), path.c_str()));
  checked(env, host.write(fd, text.data(), text.size()), path.c_str());
  host.close(fd);
}

uapi::vfio_region_info regionInfo(Napi::Env env, Backend& host, int device, uint32_t index) {
  uapi::vfio_region_info info{};
  info.argsz = sizeof info;
  info.index = index;
  call(env, host, device, uapi::VFIO_DEVICE_GET_REGION_INFO, info, "VFIO_DEVICE_GET_REGION_INFO");
  return info;
}

void enableMsi(Napi::Env env, Backend& host, int device, int eventfd) {
  struct {
    uapi::vfio_irq_set header;
    int32_t eventfd;
  } command{};
  command.header.argsz = sizeof command;
  command.header.flags = uapi::VFIO_IRQ_SET_DATA_EVENTFD | uapi::VFIO_IRQ_SET_ACTION_TRIGGER;
  command.header.index = 1;
  command.header.count = 1;
  command.eventfd = eventfd;
  call(env, host, device, uapi::VFIO_DEVICE_SET_IRQS, command, "VFIO_DEVICE_SET_IRQS");
}

// () : throws if the bytes did not arrive
Napi::Value firstDma(const Napi::CallbackInfo& info) {
  const Napi::Env env = info.Env();
  soft::Host host(std::make_shared<soft::mm::Memory>());

  const std::string sysfs = kDevice;
  writeFile(env, host, sysfs + "/driver_override", "vfio-pci\n");
  writeFile(env, host, "/sys/bus/pci/drivers_probe", "0000:00:10.0\n");
  std::vector<std::string> nodes;
  checked(env, host.list((sysfs + "/vfio-dev").c_str(), nodes), "vfio-dev");
  const std::string node = "/dev/vfio/devices/" + nodes.at(0);
  const auto device = static_cast<int>(checked(env, host.open(node.c_str(), O_RDWR), "open device"));
  const auto iommufd = static_cast<int>(checked(env, host.open("/dev/iommu", O_RDWR), "open /dev/iommu"));

  uapi::vfio_device_bind_iommufd bind{};
  bind.argsz = uapi::vfio_device_bind_iommufd_min;
  bind.iommufd = iommufd;
  call(env, host, device, uapi::VFIO_DEVICE_BIND_IOMMUFD, bind, "VFIO_DEVICE_BIND_IOMMUFD");
  uapi::iommu_ioas_alloc ioas{};
  ioas.size = sizeof ioas;
  call(env, host, iommufd, uapi::IOMMU_IOAS_ALLOC, ioas, "IOMMU_IOAS_ALLOC");
  uapi::vfio_device_attach_iommufd_pt attach{};
  attach.argsz = uapi::vfio_device_attach_iommufd_pt_min;
  attach.pt_id = ioas.out_ioas_id;
  call(env, host, device, uapi::VFIO_DEVICE_ATTACH_IOMMUFD_PT, attach, "VFIO_DEVICE_ATTACH_IOMMUFD_PT");

  const uint64_t config = regionInfo(env, host, device, 7).offset;
  uint16_t command = 0;
  checked(env, host.pread(device, &command, sizeof command, config + 4), "read command");
  command |= 1 << 2;  // bus master
  checked(env, host.pwrite(device, &command, sizeof command, config + 4), "write command");
  const uapi::vfio_region_info bar = regionInfo(env, host, device, 0);
  auto* registers = reinterpret_cast<uint8_t*>(checked(
      env, host.mmap(nullptr, bar.size, PROT_READ | PROT_WRITE, MAP_SHARED, device, bar.offset), "mmap BAR"));
  const int eventfd = ::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
  enableMsi(env, host, device, eventfd);

  auto* memory = static_cast<uint8_t*>(
      ::mmap(nullptr, 2 * kPage, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
  std::memset(memory, 0x5a, kPage);
  uapi::iommu_ioas_map map{};
  map.size = sizeof map;
  map.flags =
      uapi::IOMMU_IOAS_MAP_READABLE | uapi::IOMMU_IOAS_MAP_WRITEABLE | uapi::IOMMU_IOAS_MAP_FIXED_IOVA;
  map.ioas_id = ioas.out_ioas_id;
  map.user_va = reinterpret_cast<uint64_t>(memory);
  map.length = 2 * kPage;
  map.iova = kIova;
  call(env, host, iommufd, uapi::IOMMU_IOAS_MAP, map, "IOMMU_IOAS_MAP");

  const auto transfer = [&](uint64_t from, uint64_t to, uint64_t how) {
    (void)host.registerWrite(registers + 0x80, 8, from);
    (void)host.registerWrite(registers + 0x88, 8, to);
    (void)host.registerWrite(registers + 0x90, 8, kPage);
    (void)host.registerWrite(registers + 0x98, 8, how);
    pollfd wait{eventfd, POLLIN, 0};
    uint64_t count = 0;
    if (::poll(&wait, 1, 5000) != 1 || ::read(eventfd, &count, sizeof count) < 0)
      checked(env, -ETIMEDOUT, "interrupt");
    uint64_t status = 0;
    (void)host.registerRead(registers + 0x24, 4, status);
    (void)host.registerWrite(registers + 0x64, 4, status);
  };
  transfer(kIova, 0x40000, 1 | 4);
  transfer(0x40000, kIova + kPage, 1 | 2 | 4);
  if (std::memcmp(memory, memory + kPage, kPage) != 0) checked(env, -EIO, "DMA");

  host.munmap(registers, bar.size);
  host.close(device);
  host.close(iommufd);
  ::close(eventfd);
  ::munmap(memory, 2 * kPage);
  return env.Undefined();
}

}  // namespace

void addStart(Napi::Env env, Napi::Object exports) {
  exports.Set("firstDma", Napi::Function::New<firstDma>(env, "firstDma"));
}

}  // namespace vfio::bench
