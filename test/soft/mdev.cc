// Mediated devices: their transfers through the address space that they are attached to, with every order of
// closing the files.
#include <fcntl.h>

#include <array>
#include <cstring>

#include "../../native/uapi/iommufd.h"
#include "../../native/uapi/vfio.h"
#include "../../native/uapi/vfio_container.h"
#include "iommufd_harness.h"

namespace vfio::soft::check {
namespace {

constexpr const char* kOne = "83b8f4f2-509f-382f-3c1e-e6bfe0fa1001";
constexpr const char* kTopology = R"({ "devices": [{ "model": "edu", "bdf": "0000:00:10.0", "driver": "edu",
  "mdevs": ["83b8f4f2-509f-382f-3c1e-e6bfe0fa1001", "83b8f4f2-509f-382f-3c1e-e6bfe0fa1002"] }] })";

template <typename Struct>
int call(Host& host, int fd, uint32_t request, Struct& argument) {
  return host.ioctl(fd, request, reinterpret_cast<uintptr_t>(&argument));
}

struct Machine {
  explicit Machine(KernelVersion kernel = kNewestKernel)
      : host(std::make_unique<Host>(std::make_shared<mm::Memory>(),
                                    HostOptions{.kernel = kernel, .topology = kTopology})),
        memory(static_cast<uint8_t*>(
            mmap(nullptr, 4 * kPage, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0))) {}
  ~Machine() { munmap(memory, 4 * kPage); }
  Machine(const Machine&) = delete;
  Machine& operator=(const Machine&) = delete;

  // Writes 8 bytes of registers, by a system call.
  void write(int device, uint64_t offset, uint64_t value) const {
    (void)host->pwrite(device, &value, sizeof value, offset);
  }
  void enable(int device) const {
    const uint16_t command = 6;
    (void)host->pwrite(device, &command, sizeof command, (uint64_t{7} << 40) + 4);
  }
  // Copies the first word at `from` through the device to `to`; returns the number of faults.
  size_t move(int device, uint64_t from, uint64_t to) const {
    constexpr uint64_t buffer = 0x40000;
    for (const auto& [source, destination, start] :
         {std::array<uint64_t, 3>{from, buffer, 1}, std::array<uint64_t, 3>{buffer, to, 3}}) {
      write(device, 0x80, source);
      write(device, 0x88, destination);
      write(device, 0x90, 8);
      write(device, 0x98, start);
      host->settle();
    }
    return host->takeFaults().size();
  }
  uint64_t map(int iommufd, uint32_t ioas, uint64_t iova, uint64_t pages = 4) const {
    uapi::iommu_ioas_map map{.size = sizeof map,
                             .flags = uapi::IOMMU_IOAS_MAP_FIXED_IOVA | uapi::IOMMU_IOAS_MAP_READABLE |
                                      uapi::IOMMU_IOAS_MAP_WRITEABLE,
                             .ioas_id = ioas,
                             .user_va = reinterpret_cast<uint64_t>(memory),
                             .length = pages * kPage,
                             .iova = iova};
    return static_cast<uint64_t>(-call(*host, iommufd, uapi::IOMMU_IOAS_MAP, map));
  }
  int unmap(int iommufd, uint32_t ioas, uint64_t iova, uint64_t pages) const {
    uapi::iommu_ioas_unmap unmap{
        .size = sizeof unmap, .ioas_id = ioas, .iova = iova, .length = pages * kPage};
    return call(*host, iommufd, uapi::IOMMU_IOAS_UNMAP, unmap);
  }
  uint32_t ioas(int iommufd) const {
    uapi::iommu_ioas_alloc alloc{.size = sizeof alloc};
    (void)call(*host, iommufd, uapi::IOMMU_IOAS_ALLOC, alloc);
    return alloc.out_ioas_id;
  }
  int bind(int device, int iommufd) const {
    uapi::vfio_device_bind_iommufd bind{.argsz = 16, .iommufd = iommufd};
    return call(*host, device, uapi::VFIO_DEVICE_BIND_IOMMUFD, bind);
  }
  int attach(int device, uint32_t pt, uint32_t pasid = 0) const {
    uapi::vfio_device_attach_iommufd_pt attach{.argsz = sizeof attach,
                                               .flags = pasid != 0 ? uapi::VFIO_DEVICE_ATTACH_PASID : 0U,
                                               .pt_id = pt,
                                               .pasid = pasid};
    return call(*host, device, uapi::VFIO_DEVICE_ATTACH_IOMMUFD_PT, attach);
  }
  int detach(int device, uint32_t pasid = 0) const {
    uapi::vfio_device_detach_iommufd_pt detach{
        .argsz = sizeof detach, .flags = pasid != 0 ? uapi::VFIO_DEVICE_DETACH_PASID : 0U, .pasid = pasid};
    return call(*host, device, uapi::VFIO_DEVICE_DETACH_IOMMUFD_PT, detach);
  }

  std::unique_ptr<Host> host;
  uint8_t* const memory;
};

void onIommufd() {
  const Machine machine;
  Host& host = *machine.host;
  const int iommufd = host.open("/dev/iommu", O_RDWR);
  const int device = host.open("/dev/vfio/devices/vfio0", O_RDWR);
  claim("it is bound", 0, machine.bind(device, iommufd));
  machine.enable(device);
  const uint32_t first = machine.ioas(iommufd), second = machine.ioas(iommufd);
  claim("its memory is mapped", 0, machine.map(iommufd, first, 0x100000));
  claim("before it is attached it reaches nothing", 2, machine.move(device, 0x100000, 0x101000));
  claim("it takes an IOAS", 0, machine.attach(device, first));
  claim("no PASIDs", -EOPNOTSUPP, machine.attach(device, first, 5));
  claim("... to be taken away either", -EOPNOTSUPP, machine.detach(device, 5));
  machine.memory[0] = 0x77;
  claim("a transfer", 0, machine.move(device, 0x100000, 0x101000));
  claim("... arrives", 0x77, machine.memory[kPage]);
  claim("nothing is pinned", 0, host.pinned());
  claim("half of it is not unmapped", -ENOENT, machine.unmap(iommufd, first, 0x102000, 2));
  claim("all of it is", 0, machine.unmap(iommufd, first, 0x100000, 4));
  claim("a transfer then fails", 2, machine.move(device, 0x100000, 0x101000));
  claim("another IOAS", 0, machine.attach(device, second));
  claim("... replaces the first", 0, machine.map(iommufd, second, 0x200000));
  claim("... where it finds memory", 0, machine.move(device, 0x200000, 0x203ff8));
  claim("... as far as it goes", 1, machine.move(device, 0x200000, 0x203ffc));
  claim("an IOAS that is not there", -ENOENT, machine.attach(device, 77));
  claim("... changes nothing", 0, machine.move(device, 0x200000, 0x201000));
  munmap(machine.memory + kPage, kPage);
  claim("memory that the program took away is found missing", 1, machine.move(device, 0x200000, 0x201000));
  host.close(iommufd);
  claim("it works on when the iommufd is closed", 0, machine.move(device, 0x200000, 0x202000));
  host.close(device);
}

void older() {
  const Machine machine({6, 12});
  Host& host = *machine.host;
  const int iommufd = host.open("/dev/iommu", O_RDWR);
  const int device = host.open("/dev/vfio/devices/vfio1", O_RDWR);
  claim("6.12 binds it", 0, machine.bind(device, iommufd));
  claim("... and knows no PASIDs", -EINVAL, machine.attach(device, machine.ioas(iommufd), 5));
  claim("... attaches", 0, machine.attach(device, machine.ioas(iommufd)));
}  // here the host is destroyed while all files are open

void inContainer() {
  const Machine machine;
  Host& host = *machine.host;
  const int container = host.open("/dev/vfio/vfio", O_RDWR);
  int group = host.open("/dev/vfio/1", O_RDWR);
  int number = container;
  claim("its group joins", 0, call(host, group, uapi::VFIO_GROUP_SET_CONTAINER, number));
  claim("type1", 0, host.ioctl(container, uapi::VFIO_SET_IOMMU, uapi::VFIO_TYPE1v2_IOMMU));
  const int device = host.ioctl(group, uapi::VFIO_GROUP_GET_DEVICE_FD, reinterpret_cast<uintptr_t>(kOne));
  claim("the device", true, device >= 0);
  machine.enable(device);
  uapi::vfio_iommu_type1_dma_map map{sizeof map, 3, reinterpret_cast<uint64_t>(machine.memory), 0x100000,
                                     4 * kPage};
  claim("memory", 0, call(host, container, uapi::VFIO_IOMMU_MAP_DMA, map));
  uapi::vfio_iommu_type1_dma_map nothing{sizeof nothing, 3, 0x1000, 0x200000, kPage};
  claim("memory that isn't there, since nobody looks", 0,
        call(host, container, uapi::VFIO_IOMMU_MAP_DMA, nothing));
  claim("nothing is pinned", 0, host.pinned());
  machine.memory[0] = 0x55;
  claim("a transfer", 0, machine.move(device, 0x100000, 0x101000));
  claim("... arrives", 0x55, machine.memory[kPage]);
  claim("what isn't there is found missing", 1, machine.move(device, 0x100000, 0x200000));
  host.close(container);
  claim("it works on when the container is closed", 0, machine.move(device, 0x100000, 0x102000));
  host.close(group);
  claim("... and the group", 0, machine.move(device, 0x100000, 0x103000));
  claim("... that has one user", -EBUSY, host.open("/dev/vfio/1", O_RDWR));
  host.close(device);
  group = host.open("/dev/vfio/1", O_RDWR);
  claim("all is closed", true, group >= 0);
  host.close(group);
}

}  // namespace
}  // namespace vfio::soft::check

int main() {
  using namespace vfio::soft::check;
  onIommufd();
  older();
  inContainer();
  return failures == 0 ? 0 : 1;
}
