// A device, used through the plain calls of its file and its session, which take values and spans. There is
// no system call, and no memory of a program is accessed. Another caller than the system calls would use the
// device like this.
#include <sys/eventfd.h>
#include <unistd.h>

#include <array>

#include "../../native/soft/vfio/device.h"
#include "../../native/soft/vfio/features/features.h"
#include "../../native/soft/vfio/group.h"
#include "../../native/soft/vfio/session.h"
#include "machine_harness.h"

using namespace vfio::soft;
using namespace vfio::uapi;
using check::claim;

namespace {

constexpr unsigned kConfig = VFIO_PCI_CONFIG_REGION_INDEX;

template <typename T>
int64_t get(cdev::Session& session, unsigned index, uint64_t offset, T& value) {
  return session.readRegion(index, offset, {reinterpret_cast<uint8_t*>(&value), sizeof value});
}

template <typename T>
int64_t set(cdev::Session& session, unsigned index, uint64_t offset, T value) {
  return session.writeRegion(index, offset, {reinterpret_cast<const uint8_t*>(&value), sizeof value});
}

void regions(cdev::Session& session) {
  cdev::Session::RegionInfo bar{};
  claim("BAR0 is there", 0, session.regionInfo(0, bar));
  claim("... with 1 MiB", 1 << 20, static_cast<int64_t>(bar.size));
  claim("a region that no device has is refused", -EINVAL, session.regionInfo(9, bar));

  uint32_t ids = 0;
  claim("config space is read into a span", 4, get(session, kConfig, 0, ids));
  claim("... and says who it is", 0x11e81234, ids);
  claim("memory decoding is turned on", 2, set<uint16_t>(session, kConfig, 4, pci::commandMemory));
  claim("a register is written from a span", 4, set<uint32_t>(session, 0, 4, 0x0f0f0f0f));
  uint32_t live = 0;
  claim("... and read", 4, get(session, 0, 4, live));
  claim("... inverted, as the device does it", 0xf0f0f0f0, live);

  std::array<uint32_t, 3> three{};
  claim("a span longer than a register moves all its pieces", 12, get(session, 0, 4, three));
  claim("... of 4 bytes and of 8, which this device does not decode there",
        three == std::array<uint32_t, 3>{0xf0f0f0f0, 0xffffffff, 0xffffffff});
  uint64_t last = 0;
  claim("at the end of a BAR fewer bytes move", 4, get(session, 0, (1 << 20) - 4, last));
  claim("behind it none", -EINVAL, get(session, 0, 1 << 20, last));

  size_t pieces = 0;
  const int64_t stopped = session.readRegion(0, 4, 20, [&pieces](size_t at, std::span<const uint8_t>) {
    ++pieces;
    return at == 0 ? 0 : -EPIPE;
  });
  claim("whoever takes the pieces can end the access", -EPIPE, stopped);
  claim("... and nothing is read behind that", 2, static_cast<int64_t>(pieces));
}

void interrupts(cdev::Session& session) {
  const int fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
  const vfio_irq_set request{
      .argsz = sizeof(vfio_irq_set),
      .flags = VFIO_IRQ_SET_DATA_EVENTFD | VFIO_IRQ_SET_ACTION_TRIGGER,
      .index = VFIO_PCI_MSI_IRQ_INDEX,
      .start = 0,
      .count = 1,
  };
  const std::span bytes(reinterpret_cast<const uint8_t*>(&fd), sizeof fd);
  claim("less data than the request has is refused", -EINVAL, session.setIrqs(request, bytes.first(2)));
  claim("MSI is turned on", 0, session.setIrqs(request, bytes));
  claim("bus mastering too", 2, set<uint16_t>(session, kConfig, 4, pci::commandMemory | pci::commandMaster));
  (void)set<uint32_t>(session, 0, 0x60, 1);
  uint64_t count = 0;
  claim("... and arrives", ::read(fd, &count, sizeof count) == sizeof count && count == 1);
  ::close(fd);
}

void features(cdev::Session& session) {
  using cdev::features::Call;
  using cdev::features::find;
  constexpr uint32_t enter = VFIO_DEVICE_FEATURE_LOW_POWER_ENTRY;
  constexpr uint32_t wakeup = VFIO_DEVICE_FEATURE_LOW_POWER_ENTRY_WITH_WAKEUP;
  Call call{};
  claim("a feature that it lacks is not found", -ENOTTY,
        find(session, VFIO_DEVICE_FEATURE_MIGRATION | VFIO_DEVICE_FEATURE_GET, 64, call));
  claim("one without a token has no feature for it", -ENOTTY,
        find(session, VFIO_DEVICE_FEATURE_PCI_VF_TOKEN | VFIO_DEVICE_FEATURE_SET, 64, call));
  claim("low power can't be read", -EINVAL, find(session, enter | VFIO_DEVICE_FEATURE_GET, 64, call));
  claim("... not even asked whether it can", -EINVAL,
        find(session, enter | VFIO_DEVICE_FEATURE_GET | VFIO_DEVICE_FEATURE_PROBE, 64, call));
  claim("a probe runs nothing", find(session, enter | VFIO_DEVICE_FEATURE_PROBE, 0, call) == 0 && !call.run);
  claim("no operation is none", -EINVAL, find(session, enter, 0, call));
  claim("too little room is refused", -EINVAL, find(session, wakeup | VFIO_DEVICE_FEATURE_SET, 4, call));
  claim("it goes to sleep",
        find(session, enter | VFIO_DEVICE_FEATURE_SET, 0, call) == 0 && call.run(session, {}) == 0);
  claim("... once", -EINVAL, call.run(session, {}));
}

// A bind asks for what the program gives when the kernel would look at it: not after an earlier refusal.
void binding(cdev::Device& device, const std::shared_ptr<File>& iommufd, uint32_t ioas) {
  const auto file = std::static_pointer_cast<cdev::DeviceFile>(device.open());
  const auto second = std::static_pointer_cast<cdev::DeviceFile>(device.open());
  int asked = 0;
  const cdev::BindRequest request{.checkToken = [](cdev::Device& of) { return of.checkToken(nullptr); },
                                  .findIommufd =
                                      [&](std::shared_ptr<File>& found) {
                                        ++asked;
                                        found = iommufd;
                                        return 0;
                                      }};
  uint32_t id = 0;
  claim("a token that is refused ends the bind", -EACCES,
        file->bind({.checkToken = [](cdev::Device&) { return -EACCES; }, .findIommufd = request.findIommufd},
                   id));
  claim("... before it asks for the iommufd", 0, asked);
  claim("the device is bound without a system call", 0, file->bind(request, id));
  claim("... and has an id", id != 0);
  claim("a second bind of the file is refused", -EINVAL, file->bind(request, id));
  claim("... before it asks for the iommufd", 1, asked);
  claim("a bind of another file is refused", -EINVAL, second->bind(request, id));
  uint32_t table = ioas;
  claim("it is attached to an IOAS", 0, file->attach(table, 0));
  claim("... and told the HWPT", table != ioas);
  table = ioas;
  claim("a PASID that the kernel cannot count is refused", -ENOSPC, file->attach(table, 0x80000000));
  file->detach(0);
  file->unbind();
  claim("after the unbind the other file is bound", 0, second->bind(request, id));
}

}  // namespace

int main() {
  check::EduMachine machine;
  const auto group = std::make_shared<cdev::Group>(machine.host, machine.group);
  const uint32_t ioas = machine.fd.ioas();
  machine.inside([&] {
    machine.device.reset();  // the harness has bound the endpoint itself
    cdev::Device bound(machine.host, machine.edu, 1, group);
    binding(bound, machine.host.file(std::static_pointer_cast<check::Descriptor>(machine.fd.file)->number),
            ioas);
  });
  machine.inside([&] {
    cdev::Device device(machine.host, machine.edu, 0, group);
    cdev::Session session(device);
    regions(session);
    interrupts(session);
    features(session);
    claim("it can't be reset alone, and says so", -EINVAL, session.reset());
    claim("a root bus has no reset", -ENODEV,
          session.hotReset(std::array{std::shared_ptr<cdev::GroupFile>()}));
  });
  std::printf("%s\n", check::failures == 0 ? "all held" : "FAILED");
  return check::failures == 0 ? 0 : 1;
}
