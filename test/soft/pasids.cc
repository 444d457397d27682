// PASIDs through VFIO, on all units and releases that have them: what can be attached, in which order, and
// who is skipped. The statements' numbers stand before their claims.
#include "../../native/soft/iommu/model.h"
#include "../../native/uapi/vfio.h"
#include "machine_harness.h"

namespace vfio::soft::check {
namespace {

constexpr uint32_t kPasids = uapi::IOMMU_HWPT_ALLOC_PASID;
constexpr uint32_t kParent = uapi::IOMMU_HWPT_ALLOC_NEST_PARENT;
constexpr KernelVersion kKernels[] = {{6, 15}, {6, 16}, {6, 19}, {7, 0}, kNewestKernel};

// A machine whose devices are bound to one iommufd, by the system calls of VFIO.
class Vfio {
 public:
  Vfio(KernelVersion kernel, const std::string& topology)
      : host(std::make_shared<mm::Memory>(), {.kernel = kernel, .topology = topology}),
        iommufd(host.open("/dev/iommu", O_RDWR)) {}
  ~Vfio() {
    for (const int device : devices) host.close(device);
    host.close(iommufd);
  }
  Vfio(const Vfio&) = delete;
  Vfio& operator=(const Vfio&) = delete;

  // Opens and binds the device with this number: its id in the iommufd.
  uint32_t bind(unsigned number) {
    const std::string path = "/dev/vfio/devices/vfio" + std::to_string(number);
    devices.push_back(host.open(path.c_str(), O_RDWR));
    uapi::vfio_device_bind_iommufd bind = {16, 0, iommufd, 0, 0};
    claim("bind", 0, call(devices.back(), uapi::VFIO_DEVICE_BIND_IOMMUFD, bind));
    return bind.out_devid;
  }
  uint32_t ioas() {
    uapi::iommu_ioas_alloc alloc = {sizeof(alloc), 0, 0};
    claim("an address space", 0, call(iommufd, uapi::IOMMU_IOAS_ALLOC, alloc));
    return alloc.out_ioas_id;
  }
  int table(uint32_t device, uint32_t pt, uint32_t flags, uint32_t& id) {
    uapi::iommu_hwpt_alloc alloc = {};
    alloc.size = sizeof(alloc);
    alloc.flags = flags;
    alloc.dev_id = device;
    alloc.pt_id = pt;
    const int result = call(iommufd, uapi::IOMMU_HWPT_ALLOC, alloc);
    id = alloc.out_hwpt_id;
    return result;
  }
  int attach(int device, uint32_t pt, std::optional<uint32_t> pasid = std::nullopt) {
    uapi::vfio_device_attach_iommufd_pt attach = {16, pasid ? uapi::VFIO_DEVICE_ATTACH_PASID : 0U, pt,
                                                  pasid.value_or(0)};
    return call(device, uapi::VFIO_DEVICE_ATTACH_IOMMUFD_PT, attach);
  }
  int detach(int device, std::optional<uint32_t> pasid = std::nullopt) {
    uapi::vfio_device_detach_iommufd_pt detach = {12, pasid ? uapi::VFIO_DEVICE_DETACH_PASID : 0U,
                                                  pasid.value_or(0)};
    return call(device, uapi::VFIO_DEVICE_DETACH_IOMMUFD_PT, detach);
  }
  int destroy(uint32_t id) {
    uapi::iommu_destroy destroy = {sizeof(destroy), id};
    return call(iommufd, uapi::IOMMU_DESTROY, destroy);
  }
  uint32_t ranges(uint32_t ioas) {
    uapi::iommu_iova_range list[8] = {};
    uapi::iommu_ioas_iova_ranges ranges = {sizeof(ranges), ioas, 8, 0, reinterpret_cast<uint64_t>(list), 0};
    (void)call(iommufd, uapi::IOMMU_IOAS_IOVA_RANGES, ranges);
    return ranges.num_iovas;
  }
  template <class Struct>
  int call(int fd, uint32_t request, Struct& argument) {
    return host.ioctl(fd, request, reinterpret_cast<uintptr_t>(&argument));
  }

  Host host;
  const int iommufd;
  std::vector<int> devices;
};

std::string devices(const std::string& unit, const std::vector<unsigned>& pasidBits) {
  std::string text = R"({"iommus":[{)" + unit + R"(}],"devices":[)";
  for (size_t at = 0; at < pasidBits.size(); ++at) {
    text += (at == 0 ? "" : ",") + std::string(R"({"model":"edu","bdf":"0000:00:10.)") + std::to_string(at) +
            R"(","driver":"vfio-pci")";
    if (pasidBits[at] != 0) text += R"(,"pasidBits":)" + std::to_string(pasidBits[at]);
    text += "}";
  }
  return text + "]}";
}

const std::string kVtd = R"("kind":"vtd","pasidBits":20)";
const std::string kArm = R"("kind":"smmuv3","pasidBits":20)";

void rules(KernelVersion kernel, const std::string& unit) {
  const std::string name = kernel.text() + " " + unit + ": ";
  Vfio vfio(kernel, devices(unit, {8}));
  const uint32_t id = vfio.bind(0);
  const int device = vfio.devices[0];
  const uint32_t ioas = vfio.ioas(), other = vfio.ioas();
  uint32_t plain = 0, first = 0, second = 0;
  claim(name + "tables, for PASIDs and not", vfio.table(id, ioas, 0, plain) == 0 &&
                                                 vfio.table(id, ioas, kPasids, first) == 0 &&
                                                 vfio.table(id, other, kPasids, second) == 0);
  claim("S30: " + name + "a table that isn't for PASIDs EINVAL", -EINVAL, vfio.attach(device, plain, 5));
  claim("S30: an address space makes none that is EINVAL", -EINVAL, vfio.attach(device, ioas, 5));
  claim("a PASID of 9 bits on a device with 8 EINVAL", -EINVAL, vfio.attach(device, first, 256));
  claim("no table ENOENT", -ENOENT, vfio.attach(device, 99, 5));
  claim("a PASID, with nothing else attached", 0, vfio.attach(device, second, 5));
  claim("S35: " + name + "an address space that only PASIDs use keeps no range for messages", 1,
        vfio.ranges(other));
  claim("S31: " + name + "no PASID, by a table that isn't for PASIDs EINVAL", -EINVAL,
        vfio.attach(device, plain));
  claim("S31: ... nor by the one that an address space makes EINVAL", -EINVAL, vfio.attach(device, ioas));
  claim("by one that is", 0, vfio.attach(device, first));
  claim("S35: ... which keeps it", 2, vfio.ranges(ioas));
  claim("S31: ... and isn't replaced by one that isn't EINVAL", -EINVAL, vfio.attach(device, plain));
  claim("S32: " + name + "a PASID again replaces its table", 0, vfio.attach(device, first, 5));
  claim("S32: ... the old one is free", 0, vfio.destroy(second));
  claim("S32: ... a replacement that fails EINVAL", -EINVAL, vfio.attach(device, plain, 5));
  claim("S32: ... keeps the table", vfio.detach(device) == 0 && vfio.destroy(first) == -EBUSY);
  claim("S34: " + name + "detach of a PASID that isn't attached succeeds", 0, vfio.detach(device, 6));
  claim("S34: ... also of one that no device has", 0, vfio.detach(device, 0xffffffff));
  claim("detach", 0, vfio.detach(device, 5));
  claim("... ends the last use", 0, vfio.destroy(first));
}

// PASID 0 with VFIO's flag, and no PASID, are one attachment for iommufd and two for VFIO.
void zero(KernelVersion kernel) {
  const std::string name = kernel.text() + ": ";
  Vfio vfio(kernel, devices(kVtd, {8}));
  (void)vfio.bind(0);
  const int device = vfio.devices[0];
  const uint32_t ioas = vfio.ioas(), other = vfio.ioas();
  claim("attach", 0, vfio.attach(device, ioas));
  for (const uint32_t pt : {ioas, other}) {
    claim("S32: " + name + "PASID 0 of a device that is attached without a PASID EBUSY", -EBUSY,
          vfio.attach(device, pt, 0));
  }
  claim("S32: ... an unknown table comes first ENOENT", -ENOENT, vfio.attach(device, 99, 0));
  claim("S34: ... it isn't detached by PASID 0", vfio.detach(device, 0) == 0 && vfio.destroy(ioas) == -EBUSY);
  claim("detach", vfio.detach(device) == 0 && vfio.destroy(ioas) == 0);
  claim("S32: " + name + "PASID 0 of a device that isn't attached", 0, vfio.attach(device, other, 0));
  claim("S35: ... is no PASID: it keeps the range for messages", 2, vfio.ranges(other));
  const uint32_t third = vfio.ioas();
  claim("S32: ... keeps an attach without a PASID away EBUSY", -EBUSY, vfio.attach(device, third));
  claim("S34: ... and isn't detached without one", vfio.detach(device) == 0 && vfio.destroy(other) == -EBUSY);
  claim("S32: ... PASID 0 again replaces", vfio.attach(device, third, 0) == 0 && vfio.destroy(other) == 0);
  claim("S34: ... until PASID 0 is detached", vfio.detach(device, 0) == 0 && vfio.destroy(third) == 0);
}

void skipped(KernelVersion kernel, const std::string& unit) {
  const std::string name = kernel.text() + " " + unit + ": ";
  {
    Vfio vfio(kernel, devices(unit, {8, 0, 6}));
    const uint32_t id = vfio.bind(0);
    uint32_t table = 0;
    claim("a table for PASIDs", 0, vfio.table(id, vfio.ioas(), kPasids, table));
    claim("S33: " + name + "a group member without PASIDs is skipped", 0,
          vfio.attach(vfio.devices[0], table, 5));
    claim("S33: ... the member with fewer of them counts EINVAL", -EINVAL,
          vfio.attach(vfio.devices[0], table, 64));
    (void)vfio.bind(1);
    claim("S33: ... the member without attaches too, and nothing happens", 0,
          vfio.attach(vfio.devices[1], table, 5));
    claim("S32: ... but not another table EINVAL", -EINVAL,
          vfio.attach(vfio.devices[1], table, 5) == 0 ? vfio.attach(vfio.devices[1], vfio.ioas(), 5) : 0);
    claim("detach both", vfio.detach(vfio.devices[0], 5) == 0 && vfio.destroy(table) == -EBUSY &&
                             vfio.detach(vfio.devices[1], 5) == 0 && vfio.destroy(table) == 0);
  }
  Vfio vfio(kernel, devices(unit, {0}));
  const uint32_t id = vfio.bind(0);
  uint32_t table = 0;
  claim("a table for PASIDs", 0, vfio.table(id, vfio.ioas(), kPasids, table));
  for (const uint32_t pasid : {1U, 1U << 20, 0x7fffffffU}) {
    claim("S33: " + name + "a lone device without PASIDs attaches any, and nothing happens", 0,
          vfio.attach(vfio.devices[0], table, pasid));
  }
  claim("... but none of 32 bits ENOSPC", -ENOSPC, vfio.attach(vfio.devices[0], table, 0x80000000));
  claim("... it keeps the table", -EBUSY, vfio.destroy(table));
}

void units(KernelVersion kernel) {
  const std::string name = kernel.text() + ": ";
  const auto attempt = [kernel](const std::string& unit, int& made) {
    Vfio vfio(kernel, devices(unit, {8}));
    const uint32_t id = vfio.bind(0);
    uint32_t table = 0;
    made = vfio.table(id, vfio.ioas(), kPasids, table);
    return vfio.attach(vfio.devices[0], made == 0 ? table : vfio.ioas(), 5);
  };
  int made = 0;
  claim("S37: " + name + "AMD attaches no page table for a PASID EOPNOTSUPP", -EOPNOTSUPP,
        attempt(R"("kind":"amd","pasidBits":16)", made));
  claim("S37: ... but makes one", 0, made);
  for (const char* kind : {"virtio", "ppc"}) {
    const std::string isolated = R"(","isolatesInterrupts":true)";
    const int attached = attempt(R"("kind":")" + std::string(kind) + isolated, made);
    claim("S37: " + name + kind + " makes none EOPNOTSUPP", -EOPNOTSUPP, made);
    claim("S37: ... so none is attached EINVAL", -EINVAL, attached);
  }
}

void arm(KernelVersion kernel) {
  const std::string name = kernel.text() + ": ";
  Vfio vfio(kernel, devices(kArm, {8}));
  const uint32_t id = vfio.bind(0);
  const int device = vfio.devices[0];
  const uint32_t ioas = vfio.ioas();
  uint32_t parent = 0, table = 0, none = 0;
  claim("a nest parent, and a table for PASIDs",
        vfio.table(id, ioas, kParent, parent) == 0 && vfio.table(id, ioas, kPasids, table) == 0);
  claim("S36: " + name + "SMMUv3 makes no nest parent for PASIDs EOPNOTSUPP", -EOPNOTSUPP,
        vfio.table(id, ioas, kParent | kPasids, none));
  claim("S36: " + name + "beside a nest parent, which is of stage 2, no PASID EINVAL", -EINVAL,
        vfio.attach(device, parent) == 0 ? vfio.attach(device, table, 5) : 0);
  claim("S36: ... beside what is blocked one can be", 0,
        vfio.detach(device) == 0 ? vfio.attach(device, table, 5) : -1);
  claim("S36: ... and beside another table of stage 1", 0, vfio.attach(device, table));
}

// The rule of the driver itself, since iommufd's own rule hides it.
void armDriver() {
  Host host(std::make_shared<mm::Memory>(), {});
  const iommu::Unit unit = iommu::makeUnit({.model = &iommu::models::smmuv3()});
  const auto domain = [&](bool parent) {
    auto made = std::make_shared<iommu::Domain>(host, unit);
    if (parent) made->becomeParent();
    return made;
  };
  const auto stage1 = domain(false), stage2 = domain(true);
  const auto serves = [&unit](const iommu::Domain& table, const iommu::Translation* plain) {
    return unit.model.servesPasid(table, table, plain);
  };
  claim("S36: stage 1 beside nothing", 0, serves(*stage1, nullptr));
  claim("S36: stage 1 beside stage 1", 0, serves(*stage1, stage1.get()));
  claim("S36: stage 1 beside stage 2 EINVAL", -EINVAL, serves(*stage1, stage2.get()));
  claim("S36: stage 2 EINVAL", -EINVAL, serves(*stage2, nullptr));
}

// A PASID that another part of the kernel has attached something for.
void taken() {
  EduMachine machine;
  uint32_t table = 0;
  claim("a table for PASIDs", 0, machine.fd.hwpt(machine.device->id(), machine.fd.ioas(), table, kPasids));
  const auto foreign = std::make_shared<iommu::Domain>(machine.host, machine.unit);
  machine.inside([&] { machine.edu.endpoint->attach(9, {.translation = foreign}); });
  claim("S32: a PASID that is in use elsewhere EBUSY", -EBUSY, [&] {
    int result = 0;
    machine.inside([&] { result = machine.device->attach(table, 9); });
    return result;
  }());
  claim("S32: ... another is free", 0, machine.attachTo(table, 10));
  machine.inside([&] { machine.edu.endpoint->attach(9, {}); });
  claim("S32: ... and that one afterwards", 0, machine.attachTo(table, 9));
}

}  // namespace
}  // namespace vfio::soft::check

int main() {
  using namespace vfio::soft::check;
  for (const vfio::soft::KernelVersion kernel : kKernels) {
    for (const std::string& unit : {kVtd, kArm}) {
      rules(kernel, unit);
      skipped(kernel, unit);
    }
    zero(kernel);
    units(kernel);
    arm(kernel);
  }
  armDriver();
  taken();
  std::printf("%d claims failed\n", failures);
  return failures == 0 ? 0 : 1;
}
