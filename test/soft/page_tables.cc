// Page tables for PASIDs, the order of checks when devices are attached and moved, and VFIO's calls for this
// in each release.
#include <map>

#include "../../native/uapi/vfio.h"
#include "machine_harness.h"

namespace vfio::soft::check {
namespace {

constexpr uint32_t kPasids = uapi::IOMMU_HWPT_ALLOC_PASID;

struct Table {
  Table(EduMachine& machine, uint32_t flags, size_t pages = 4) : buffer(pages * kPage) {
    ioas = machine.fd.ioas();
    claim("map", 0, machine.fd.mapAt(ioas, 0x10000, buffer.user(), buffer.size()));
    claim("a table", 0, machine.fd.hwpt(machine.device->id(), ioas, id, flags));
  }
  Buffer buffer;
  uint32_t ioas = 0;
  uint32_t id = 0;
};

void pasids() {
  EduMachine machine;
  Table plain(machine, 0), first(machine, kPasids), second(machine, kPasids), third(machine, kPasids);
  Fd& fd = machine.fd;
  // The byte that a transaction with this PASID reads; '-': it fails.
  const auto byte = [&machine](std::optional<uint32_t> pasid) {
    char found = -1;
    machine.inside([&] {
      if (!machine.edu.endpoint->dma.read(0x10000, &found, 1, pasid)) found = '-';
    });
    (void)machine.host.takeFaults();
    return std::string(1, found);
  };
  first.buffer.bytes()[0] = '1';
  second.buffer.bytes()[0] = '2';
  third.buffer.bytes()[0] = '3';
  plain.buffer.bytes()[0] = 'p';

  claim("a table that isn't for PASIDs EINVAL", -EINVAL, machine.attachTo(plain.id, 5));
  claim("an address space makes no such table EINVAL", -EINVAL, machine.attachTo(first.ioas, 5));
  claim("... and leaves none", -ENOENT, fd.destroy(third.id + 1));
  claim("a PASID that the device hasn't EINVAL", -EINVAL, machine.attachTo(first.id, 1 << 20));
  claim("no table at all ENOENT", -ENOENT, machine.attachTo(99, 5));
  claim("attach a PASID, with nothing else attached", 0, machine.attachTo(first.id, 5));
  claim("... translates by it", "1", byte(5));
  claim("... and only that", byte(6) == "-" && byte(std::nullopt) == "-");
  claim("... reserves nothing", 1, fd.ranges(first.ioas).count);
  claim("... keeps the table", -EBUSY, fd.destroy(first.id));
  claim("without a PASID, a table that isn't for them EINVAL", -EINVAL, machine.attachTo(plain.id));
  claim("... nor an address space's EINVAL", -EINVAL, machine.attachTo(plain.ioas));
  claim("one that is", 0, machine.attachTo(second.id));
  claim("another PASID", 0, machine.attachTo(third.id, 6));
  claim("each by its own table", byte(5) == "1" && byte(std::nullopt) == "2" && byte(6) == "3");
  claim("replace one", 0, machine.attachTo(third.id, 5));
  claim("... moves that only", byte(5) == "3" && byte(std::nullopt) == "2" && byte(6) == "3");
  claim("... and lets go of the old table", 0, fd.destroy(first.id));
  claim("replace by one that isn't for PASIDs EINVAL", -EINVAL, machine.attachTo(plain.id, 5));
  claim("... nor the one without a PASID EINVAL", -EINVAL, machine.attachTo(plain.id));
  claim("... the old ones stay", byte(5) == "3" && byte(std::nullopt) == "2");
  machine.detach(5);
  claim("detach one", byte(5) == "-" && byte(6) == "3" && byte(std::nullopt) == "2");
  machine.detach(5);
  machine.detach();
  claim("detach what has no PASID", byte(6) == "3" && byte(std::nullopt) == "-");
  machine.detach(6);
  claim("the last one", 0, machine.attachTo(plain.id));
  claim("... makes room for any", "p", byte(std::nullopt));
  claim("beside which PASIDs can't be EINVAL", -EINVAL, machine.attachTo(third.id, 6));
  machine.detach();
  claim("attach two and close", machine.attachTo(third.id, 6) == 0 && machine.attachTo(second.id) == 0);
  machine.inside([&] { machine.device.reset(); });
  claim("... nothing is attached", byte(6) == "-" && byte(std::nullopt) == "-");
  claim("... and no table used", fd.destroy(third.id) == 0 && fd.destroy(second.id) == 0);

  EduMachine amd(kNewestKernel, iommu::makeUnit({.model = &iommu::models::amd(), .pasidBits = 20}));
  Table other(amd, kPasids);
  claim("a unit whose driver attaches none EOPNOTSUPP", -EOPNOTSUPP, amd.attachTo(other.id, 1));
}

// The flags of HWPT_ALLOC in each release.
void flags() {
  constexpr uint32_t kParent = uapi::IOMMU_HWPT_ALLOC_NEST_PARENT;
  constexpr uint32_t kTracks = uapi::IOMMU_HWPT_ALLOC_DIRTY_TRACKING;
  struct Case {
    KernelVersion kernel;
    std::map<uint32_t, int> results;
  };
  const Case kCases[] = {
      {{6, 6}, {{0, 0}, {kParent, -EOPNOTSUPP}, {kTracks, -EOPNOTSUPP}, {kPasids, -EOPNOTSUPP}}},
      {{6, 7}, {{0, 0}, {kParent, 0}, {kTracks, 0}, {kParent | kTracks, 0}, {kPasids, -EOPNOTSUPP}}},
      {{6, 14}, {{kPasids, -EOPNOTSUPP}}},
      {{6, 15}, {{kPasids, 0}, {kParent | kTracks | kPasids, 0}, {16, -EOPNOTSUPP}}}};
  for (const Case& test : kCases) {
    EduMachine machine(test.kernel);
    const uint32_t ioas = machine.fd.ioas();
    for (const auto& [value, result] : test.results) {
      // Before 6.7 the struct has its first, shorter size.
      struct {
        uapi::iommu_hwpt_alloc alloc;
      } call = {};
      call.alloc.size = test.kernel < KernelVersion{6, 7} ? 24 : 40;
      call.alloc.flags = value;
      call.alloc.dev_id = machine.device->id();
      call.alloc.pt_id = ioas;
      claim("6." + std::to_string(test.kernel.minor) + ": flags " + std::to_string(value), result,
            machine.fd.call(uapi::IOMMU_HWPT_ALLOC, call.alloc));
    }
  }
  EduMachine machine(kNewestKernel,
                     iommu::makeUnit({.model = &iommu::models::virtio(), .isolatesInterrupts = true}));
  uint32_t id = 0;
  claim("a unit whose driver knows none EOPNOTSUPP", -EOPNOTSUPP,
        machine.fd.hwpt(machine.device->id(), machine.fd.ioas(), id, kPasids));
}

// --- VFIO's calls, on the edu of the default machine

struct Vfio {
  explicit Vfio(KernelVersion kernel) : host(std::make_shared<mm::Memory>(), {.kernel = kernel}) {
    put("/sys/bus/pci/devices/0000:00:10.0/driver_override", "vfio-pci");
    put("/sys/bus/pci/drivers_probe", "0000:00:10.0");
    iommufd = host.open("/dev/iommu", O_RDWR);
    device = host.open("/dev/vfio/devices/vfio0", O_RDWR);
  }
  ~Vfio() {
    host.close(device);
    host.close(iommufd);
  }
  Vfio(const Vfio&) = delete;
  Vfio& operator=(const Vfio&) = delete;
  void put(const char* path, const char* text) {
    const int fd = host.open(path, O_WRONLY);
    claim(std::string(text) + " to sysfs", host.write(fd, text, std::strlen(text)) > 0);
    host.close(fd);
  }
  int call(uint32_t request, const void* argument) {
    return host.ioctl(device, request, reinterpret_cast<uintptr_t>(argument));
  }
  uint32_t ioas() {
    uapi::iommu_ioas_alloc alloc = {sizeof(alloc), 0, 0};
    return host.ioctl(iommufd, uapi::IOMMU_IOAS_ALLOC, reinterpret_cast<uintptr_t>(&alloc)) == 0
               ? alloc.out_ioas_id
               : 0;
  }
  Host host;
  int iommufd = -1;
  int device = -1;
};

void binding(KernelVersion kernel) {
  const std::string name = std::to_string(kernel.major) + "." + std::to_string(kernel.minor) + ": ";
  const bool tokens = kernel >= KernelVersion{6, 17};
  const bool tokensWork = kernel >= KernelVersion{6, 19};
  Vfio vfio(kernel);
  const uint8_t token[16] = {};
  struct Longer {
    uapi::vfio_device_bind_iommufd bind;
    uint64_t more;
  };
  const auto bind = [&vfio](uint32_t size, uint32_t flags, int fd, const void* at = nullptr,
                            uint64_t more = 0) {
    Longer longer = {{size, flags, fd, 0, reinterpret_cast<uint64_t>(at)}, more};
    return vfio.call(uapi::VFIO_DEVICE_BIND_IOMMUFD, &longer);
  };
  constexpr uint32_t kToken = uapi::VFIO_DEVICE_BIND_FLAG_TOKEN;
  claim(name + "15 bytes EINVAL", -EINVAL, bind(15, 0, vfio.iommufd));
  claim("an unknown flag EINVAL", -EINVAL, bind(16, 2, vfio.iommufd));
  claim("a negative descriptor EINVAL", -EINVAL, bind(16, 0, -1));
  claim("none EBADF", -EBADF, bind(16, 0, 999));
  claim("another file EBADFD", -EBADFD, bind(16, 0, 0));
  claim("another file of the host EBADFD", -EBADFD, bind(16, 0, vfio.device));
  claim("a bad pointer EFAULT", -EFAULT,
        vfio.call(uapi::VFIO_DEVICE_BIND_IOMMUFD, reinterpret_cast<void*>(8)));
  claim("a token", !tokens ? -EINVAL : tokensWork ? -EINVAL : -E2BIG, bind(24, kToken, vfio.iommufd, token));
  claim("a token's bad pointer",
        !tokens      ? -EINVAL
        : tokensWork ? -EFAULT
                     : -E2BIG,
        bind(24, kToken, vfio.iommufd, reinterpret_cast<void*>(8)));
  claim("a longer struct that isn't zero", tokens ? -E2BIG : 0, bind(32, 0, vfio.iommufd, nullptr, 1));
  if (tokens) claim("a longer struct that is", 0, bind(32, 0, vfio.iommufd));
  claim("bound already EINVAL", -EINVAL, bind(16, 0, vfio.iommufd));
  claim("... before the descriptor EINVAL", -EINVAL, bind(16, 0, 999));
  const int first = vfio.device;
  vfio.device = vfio.host.open("/dev/vfio/devices/vfio0", O_RDWR);
  claim("another file of the device EINVAL", -EINVAL, bind(16, 0, vfio.iommufd));
  claim("... after the descriptor EBADF", -EBADF, bind(16, 0, 999));
  claim("... EBADFD", -EBADFD, bind(16, 0, first));
  vfio.host.close(first);
}

void attaching(KernelVersion kernel) {
  const std::string name = std::to_string(kernel.major) + "." + std::to_string(kernel.minor) + ": ";
  const bool pasid = kernel >= KernelVersion{6, 15};
  Vfio vfio(kernel);
  uapi::vfio_device_bind_iommufd bind = {16, 0, vfio.iommufd, 0, 0};
  claim(name + "bind", 0, vfio.call(uapi::VFIO_DEVICE_BIND_IOMMUFD, &bind));
  const uint32_t ioas = vfio.ioas();
  const auto attach = [&vfio](uint32_t size, uint32_t flags, uint32_t pt, uint32_t with = 0) {
    uapi::vfio_device_attach_iommufd_pt attach = {size, flags, pt, with};
    return vfio.call(uapi::VFIO_DEVICE_ATTACH_IOMMUFD_PT, &attach);
  };
  const auto detach = [&vfio](uint32_t size, uint32_t flags, uint32_t with = 0) {
    uapi::vfio_device_detach_iommufd_pt detach = {size, flags, with};
    return vfio.call(uapi::VFIO_DEVICE_DETACH_IOMMUFD_PT, &detach);
  };
  claim("11 bytes EINVAL", -EINVAL, attach(11, 0, ioas));
  claim("an unknown flag EINVAL", -EINVAL, attach(16, 2, ioas));
  claim("an unknown id ENOENT", -ENOENT, attach(12, 0, 99));
  claim("the device's own id EINVAL", -EINVAL, attach(12, 0, bind.out_devid));
  claim("a PASID in a struct without room EINVAL", -EINVAL, attach(12, 1, ioas, 1));
  claim("a PASID, unknown id", pasid ? -ENOENT : -EINVAL, attach(16, 1, 99, 1));
  claim("a PASID on a device without EINVAL", -EINVAL, attach(16, 1, ioas, 1));
  claim("a PASID of 32 bits", pasid ? -ENOSPC : -EINVAL, attach(16, 1, ioas, 0x80000000));
  claim("12 bytes", 0, attach(12, 0, ioas));
  claim("... again", 0, attach(4096, 0, ioas));
  claim("detach, 7 bytes EINVAL", -EINVAL, detach(7, 0));
  claim("detach, an unknown flag EINVAL", -EINVAL, detach(12, 2));
  claim("detach, a PASID without room EINVAL", -EINVAL, detach(8, 1, 1));
  claim("detach of a PASID that isn't attached", pasid ? 0 : -EINVAL, detach(12, 1, 1));
  claim("detach", 0, detach(8, 0));
  claim("... again", 0, detach(8, 0));

  Buffer page(kPage);
  auto* const there = reinterpret_cast<uapi::vfio_device_attach_iommufd_pt*>(page.bytes());
  *there = {16, 0, ioas, 0};
  mprotect(page.bytes(), kPage, PROT_READ);
  claim("attach with nowhere to answer EFAULT", -EFAULT,
        vfio.call(uapi::VFIO_DEVICE_ATTACH_IOMMUFD_PT, there));
  uapi::iommu_destroy destroy = {sizeof(destroy), ioas};
  claim("... leaves nothing attached", 0,
        vfio.host.ioctl(vfio.iommufd, uapi::IOMMU_DESTROY, reinterpret_cast<uintptr_t>(&destroy)));
}

}  // namespace
}  // namespace vfio::soft::check

int main() {
  using namespace vfio::soft::check;
  pasids();
  flags();
  for (const vfio::soft::KernelVersion kernel :
       {vfio::soft::KernelVersion{6, 12}, {6, 14}, {6, 15}, {6, 17}, {6, 19}, {7, 3}}) {
    binding(kernel);
    attaching(kernel);
  }
  std::printf("%d claims failed\n", failures);
  return failures == 0 ? 0 : 1;
}
