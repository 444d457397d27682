// Machines that are built from topologies: the addresses, groups and drivers of their devices, and the errors
// for topologies that are not valid.
#include <fcntl.h>

#include <algorithm>
#include <array>
#include <stdexcept>

#include "../../native/uapi/vfio.h"
#include "iommufd_harness.h"

namespace vfio::soft::check {
namespace {

const std::string kDevices = "/sys/bus/pci/devices/";

std::unique_ptr<Host> machine(std::optional<std::string> topology, KernelVersion kernel = kNewestKernel) {
  return std::make_unique<Host>(std::make_shared<mm::Memory>(), HostOptions{kernel, std::move(topology)});
}

std::string read(Host& host, const std::string& path) {
  const int fd = host.open(path.c_str(), O_RDONLY);
  if (fd < 0) return "errno " + std::to_string(-fd);
  std::array<char, 4096> text{};
  const auto size = host.read(fd, text.data(), text.size());
  host.close(fd);
  return size < 0 ? "errno " + std::to_string(-size) : std::string(text.data(), static_cast<size_t>(size));
}

std::string last(Host& host, const std::string& path) {
  std::array<char, 4096> target{};
  const auto size = host.readlink(path.c_str(), target.data(), target.size());
  if (size < 0) return "errno " + std::to_string(-size);
  const std::string text(target.data(), static_cast<size_t>(size));
  return text.substr(text.rfind('/') + 1);
}

std::string names(Host& host, const std::string& path) {
  std::vector<std::string> list;
  if (const int failed = host.list(path.c_str(), list)) return "errno " + std::to_string(-failed);
  std::sort(list.begin(), list.end());
  std::string text;
  for (const auto& name : list) text += (text.empty() ? "" : " ") + name;
  return text;
}

void same(const std::string& text, const std::string& expected, const std::string& actual) {
  claim(text, expected == actual);
  if (expected != actual) std::printf("     expected %s, got %s\n", expected.c_str(), actual.c_str());
}

void theDefault() {
  const auto host = machine(std::nullopt);
  same("the default machine: its groups", "0 2 3 4 5 7", names(*host, "/sys/kernel/iommu_groups"));
  same("... and who shares one", "0000:02:00.0 0000:03:01.0 0000:03:02.0",
       names(*host, "/sys/kernel/iommu_groups/7/devices"));
  same("... ports have their driver", "pcieport", last(*host, kDevices + "0000:00:12.0/driver"));
}

// A port with an edu behind it. Behind another port is a conventional bus, and behind that a second one.
constexpr const char* kTree = R"({
  "iommus": [{ "kind": "vtd" }, { "kind": "vtd", "apertures": [{ "start": 0, "last": "0xffffffff" }] }],
  "devices": [
    { "model": "edu", "behind": "0000:02:00.0", "slot": 3, "driver": "e1000e" },
    { "model": "root-port", "bdf": "0000:00:02.0", "iommu": 1 },
    { "model": "root-port", "bdf": "0000:00:01.0" },
    { "model": "edu", "bdf": "0000:01:00.0", "behind": "0000:00:01.0", "driver": "vfio-pci" },
    { "model": "bridge", "behind": "0000:00:02.0", "slot": 0 },
    { "model": "bridge", "behind": "0000:02:00.0", "slot": 1, "group": 20 },
    { "model": "edu", "behind": "0000:03:01.0", "slot": 0 },
    { "model": "passive", "bdf": "0000:80:00.0", "vendor": "0x144d", "device": 43272, "classCode": "0x010802",
      "bars": [{ "kind": "memory64", "size": 16384 }, null, { "kind": "io", "size": 64 }], "msix": 32,
      "functionReset": true }
  ]})";

void tree() {
  const auto host = machine(kTree);
  same("buses are numbered behind one bridge after the other",
       "0000:00:01.0 0000:00:02.0 0000:01:00.0 0000:02:00.0 0000:03:01.0 0000:03:03.0 0000:04:00.0 "
       "0000:80:00.0",
       names(*host, "/sys/bus/pci/devices"));
  same("all behind a conventional bridge are one group (E2)",
       "0000:02:00.0 0000:03:01.0 0000:03:03.0 0000:04:00.0",
       names(*host, "/sys/kernel/iommu_groups/20/devices"));
  same("... and others are alone", "0 1 2 20 21", names(*host, "/sys/kernel/iommu_groups"));
  same("what is behind a port has the port's IOMMU", "dmar1", last(*host, kDevices + "0000:04:00.0/iommu"));
  same("... or the first", "dmar0", last(*host, kDevices + "0000:01:00.0/iommu"));
  same("a device starts on vfio-pci", "vfio-pci", last(*host, kDevices + "0000:01:00.0/driver"));
  same("... with its node", "vfio0", names(*host, "/dev/vfio/devices"));
  same("... on a driver of any name", "e1000e", last(*host, kDevices + "0000:03:03.0/driver"));
  same("... on the one that matches", "nvme", last(*host, kDevices + "0000:80:00.0/driver"));
  same("... or on none", "errno 2", last(*host, kDevices + "0000:04:00.0/driver"));
  same("ids are what was asked", "0x144d\n", read(*host, kDevices + "0000:80:00.0/vendor"));
  same("a function reset is listed", "flr\n", read(*host, kDevices + "0000:80:00.0/reset_method"));
  same("a bridge's buses", "4\n", read(*host, kDevices + "0000:00:02.0/subordinate_bus_number"));

  std::vector<std::string> resources;
  for (const char* bdf : {"0000:00:01.0", "0000:00:02.0", "0000:01:00.0", "0000:04:00.0", "0000:80:00.0"}) {
    resources.push_back(read(*host, kDevices + bdf + "/resource").substr(0, 56));
  }
  std::sort(resources.begin(), resources.end());
  claim("no two have the same addresses",
        std::adjacent_find(resources.begin(), resources.end()) == resources.end());
}

// Firmware numbers buses in any order. A bridge passes on a range of them, from its secondary to its
// subordinate bus.
void numbers() {
  const auto host = machine(R"({ "devices": [
    { "model": "root-port", "bdf": "0000:00:02.0" },
    { "model": "edu", "bdf": "0000:09:00.0", "behind": "0000:00:02.0" },
    { "model": "root-port", "bdf": "0000:00:03.0" },
    { "model": "upstream-port", "bdf": "0000:02:00.0", "behind": "0000:00:03.0" },
    { "model": "downstream-port", "bdf": "0000:03:00.0", "behind": "0000:02:00.0" },
    { "model": "downstream-port", "bdf": "0000:03:01.0", "behind": "0000:02:00.0" },
    { "model": "edu", "bdf": "0000:07:00.0", "behind": "0000:03:00.0" },
    { "model": "edu", "bdf": "0000:05:00.0", "behind": "0000:03:01.0" },
    { "model": "root-port", "bdf": "0000:00:04.0" }] })");
  const auto buses = [&host](const std::string& bdf) {
    return read(*host, kDevices + bdf + "/secondary_bus_number") +
           read(*host, kDevices + bdf + "/subordinate_bus_number");
  };
  same("a port has the bus that its device names, higher", "9\n9\n", buses("0000:00:02.0"));
  same("... or lower than the one before", "2\n7\n", buses("0000:00:03.0"));
  same("... with all buses behind it", "3\n7\n", buses("0000:02:00.0"));
  same("... whatever their order", "5\n5\n", buses("0000:03:01.0"));
  same("... and a port without a device, the next one above all", "10\n10\n", buses("0000:00:04.0"));
  same("an address is found there", "0x11e8\n", read(*host, kDevices + "0000:05:00.0/device"));
}

// IOMMUs of all kinds, and the fields of a topology that describe them.
void kinds() {
  const auto host = machine(R"({
    "iommus": [{ "kind": "vtd" }, { "kind": "smmuv3" }, { "kind": "amd" }, { "kind": "ppc" }, { "kind": "virtio" },
               { "kind": "custom", "apertures": [{ "start": 0, "last": "0xffffffff" }], "pageSizes": [4096],
                 "reserved": [{ "start": 4096, "last": 8191, "type": "direct" }] }],
    "devices": [
      { "model": "edu", "bdf": "0000:00:00.0", "iommu": 0 }, { "model": "edu", "bdf": "0000:00:01.0", "iommu": 1 },
      { "model": "edu", "bdf": "0000:00:02.0", "iommu": 2 }, { "model": "edu", "bdf": "0000:00:03.0", "iommu": 3 },
      { "model": "edu", "bdf": "0000:00:04.0", "iommu": 4 }, { "model": "edu", "bdf": "0000:00:05.0", "iommu": 5 }
    ]})");
  std::vector<std::string> units;
  claim("one IOMMU of each kind", host->list("/sys/class/iommu", units) == 0 && units.size() == 6);
  same("reserved regions are what was asked for", "0x0000000000001000 0x0000000000001fff direct\n",
       read(*host, "/sys/kernel/iommu_groups/5/reserved_regions"));
  same("... or those of the kind", "0x0000000008000000 0x00000000080fffff msi\n",
       read(*host, "/sys/kernel/iommu_groups/1/reserved_regions"));
  const auto registers = [&host](const std::string& bdf) {
    return names(*host, kDevices + bdf + "/iommu/intel-iommu");
  };
  same("only VT-d has VT-d's registers", "errno 2", registers("0000:00:01.0"));
  claim("... and it has them", registers("0000:00:00.0").find("ecap") != std::string::npos);
}

// The kernel of the machine: the effects of its command line, its modules and its user.
void systems() {
  const std::string edu = R"("devices": [{ "model": "edu", "bdf": "0000:00:10.0" }])";
  const auto vfio = "/sys/bus/pci/drivers/vfio-pci/bind";
  const auto write = [](Host& host, const char* path, const std::string& text) {
    const int fd = host.open(path, O_WRONLY);
    if (fd < 0) return fd;
    const auto result = static_cast<int>(host.write(fd, text.data(), text.size()));
    host.close(fd);
    return result < 0 ? result : 0;
  };
  const auto take = [&write, vfio](Host& host) {
    claim("the override is written", 0,
          write(host, (kDevices + "0000:00:10.0/driver_override").c_str(), "vfio-pci"));
    return write(host, vfio, "0000:00:10.0");
  };
  const auto off =
      machine(R"({ "system": { "commandLine": "quiet intel_iommu=on intel_iommu=off" }, )" + edu + "}");
  same("the command line", "quiet intel_iommu=on intel_iommu=off\n", read(*off, "/proc/cmdline"));
  same("an IOMMU that is off makes no groups", "", names(*off, "/sys/kernel/iommu_groups"));
  same("... and no link", "errno 2", last(*off, kDevices + "0000:00:10.0/iommu_group"));
  claim("... and vfio-pci refuses", -EINVAL, take(*off));
  const auto one = machine(R"({ "devices": [{ "model": "edu", "bdf": "0000:00:10.0", "iommu": null },
                                            { "model": "edu", "bdf": "0000:00:11.0" }] })");
  same("one device without IOMMU", "0", names(*one, "/sys/kernel/iommu_groups"));
  claim("... which vfio-pci refuses", -EINVAL, take(*one));
  one->addDevice(R"({ "model": "edu", "bdf": "0000:00:12.0", "iommu": null, "driver": null })", {});
  const int vendor = one->open((kDevices + "0000:00:12.0/vendor").c_str(), O_RDONLY);
  const int override = one->open((kDevices + "0000:00:12.0/driver_override").c_str(), O_WRONLY);
  claim("... one more is plugged in and out", 0, one->removeDevice("0000:00:12.0"));
  char letter = 0;
  claim("... whose open files are at their end", vendor >= 0 && override >= 0);
  claim("... to read", -ENODEV, static_cast<int>(one->read(vendor, &letter, 1)));
  claim("... and to write", -ENODEV, static_cast<int>(one->write(override, "x", 1)));
  one->close(vendor);
  one->close(override);
  same("... which leaves no trace", "0", names(*one, "/sys/kernel/iommu_groups"));

  const auto none = machine(R"({ "iommus": [], "devices": [
    { "model": "root-port", "bdf": "0000:00:01.0" },
    { "model": "edu", "behind": "0000:00:01.0", "slot": 0 },
    { "model": "edu", "bdf": "0000:00:10.0" }] })");
  same("a machine without IOMMU has no groups", "", names(*none, "/sys/kernel/iommu_groups"));
  claim("... vfio-pci refuses its devices", -EINVAL, take(*none));
  const char* noIommu = "/sys/module/vfio/parameters/enable_unsafe_noiommu_mode";
  claim("... unless it may take them", 0, write(*none, noIommu, "Y\n"));
  claim("... as then", 0, take(*none));
  same("... in a group that it makes", "0", names(*none, "/sys/kernel/iommu_groups"));
  none->addDevice(R"({ "model": "edu", "bdf": "0000:00:11.0", "driver": "vfio-pci" })", {});
  same("... and another one", "noiommu-0 noiommu-1 vfio", names(*none, "/dev/vfio"));
  claim("... which goes with the device", 0, none->removeDevice("0000:00:10.0"));
  same("... for good", "1", names(*none, "/sys/kernel/iommu_groups"));
  none->addDevice(R"({ "model": "edu", "bdf": "0000:00:12.0", "driver": "vfio-pci" })", {});
  same("... and leaves its number", "0 1", names(*none, "/sys/kernel/iommu_groups"));
  const auto started = machine(R"({ "system": { "commandLine": "vfio.enable_unsafe_noiommu_mode=1" },
    "iommus": [{ "kind": "vtd" }], "devices": [
    { "model": "root-port", "bdf": "0000:00:01.0", "iommu": null },
    { "model": "edu", "behind": "0000:00:01.0", "slot": 0, "driver": "vfio-pci" },
    { "model": "edu", "bdf": "0000:00:10.0" }] })");
  same("the command line allows it too, behind a port without IOMMU", "noiommu-1 vfio",
       names(*started, "/dev/vfio"));

  const auto parent = machine(R"({ "devices": [{ "model": "edu", "bdf": "0000:00:10.0", "driver": "edu",
    "mdevs": ["83b8f4f2-509f-382f-3c1e-e6bfe0fa1001", "83b8f4f2-509f-382f-3c1e-e6bfe0fa1002"] },
    { "model": "edu", "bdf": "0000:00:11.0", "driver": "edu", "mdevs": ["83b8f4f2-509f-382f-3c1e-e6bfe0fa1003",
      "83b8f4f2-509f-382f-3c1e-e6bfe0fa1004"], "mdevsIsolated": false }] })");
  const std::string uuid = "83b8f4f2-509f-382f-3c1e-e6bfe0fa1001";
  same("mediated devices have groups of their own", "0 1 2 3 4", names(*parent, "/sys/kernel/iommu_groups"));
  same("... of one each", uuid, names(*parent, "/sys/kernel/iommu_groups/2/devices"));
  same("... or of all that are not isolated",
       "83b8f4f2-509f-382f-3c1e-e6bfe0fa1003 83b8f4f2-509f-382f-3c1e-e6bfe0fa1004",
       names(*parent, "/sys/kernel/iommu_groups/4/devices"));
  same("... that are called as one without IOMMU is", "vfio-noiommu\n",
       read(*parent, "/sys/kernel/iommu_groups/2/name"));
  same("... with nodes as any", "2 3 4 devices vfio", names(*parent, "/dev/vfio"));
  same("... and character devices", "vfio0 vfio1 vfio2 vfio3", names(*parent, "/dev/vfio/devices"));
  const std::string mdev = "/sys/bus/mdev/devices/" + uuid;
  same("what it has in sysfs", "driver iommu_group mdev_type remove subsystem uevent vfio-dev",
       names(*parent, mdev));
  same("its type", "edu-1", last(*parent, mdev + "/mdev_type"));
  same("where it is found", uuid,
       names(*parent, "/sys/class/mdev_bus/0000:00:10.0/mdev_supported_types/edu-1/devices")
           .substr(0, uuid.size()));
  // The driver mtty gave these answers in the guest.
  for (const char* text : {"x", " 1", "-1", "18446744073709551616"})
    claim("to remove it takes a number", -EINVAL, write(*parent, (mdev + "/remove").c_str(), text));
  for (const char* text : {"0", "00", "+0", "0x0"})
    claim("... that is not 0", 0, write(*parent, (mdev + "/remove").c_str(), text));
  same("... as these were", uuid, names(*parent, "/sys/kernel/iommu_groups/2/devices"));
  claim("it can be removed", 0, write(*parent, (mdev + "/remove").c_str(), "+0x1\n"));
  same("... with its group", "0 1 3 4", names(*parent, "/sys/kernel/iommu_groups"));
  claim("... and goes with its parent", 0, parent->removeDevice("0000:00:11.0"));
  same("... and the group of that", "0 3", names(*parent, "/sys/kernel/iommu_groups"));
  same("... from the class too", "0000:00:10.0", names(*parent, "/sys/class/mdev_bus"));
  const std::string driver = "/sys/bus/pci/drivers/edu";
  const std::string other = "/dev/vfio/devices/" + names(*parent, "/dev/vfio/devices");
  const int open = parent->open(other.c_str(), O_RDWR);
  const int iommufd = parent->open("/dev/iommu", O_RDWR);
  uapi::vfio_device_bind_iommufd use{.argsz = sizeof use, .iommufd = iommufd};
  claim("one is in use", 0,
        parent->ioctl(open, uapi::VFIO_DEVICE_BIND_IOMMUFD, reinterpret_cast<uintptr_t>(&use)));
  claim("... so its parent's driver can't let go", -EBUSY,
        write(*parent, (driver + "/unbind").c_str(), "0000:00:10.0"));
  same("... and it stays", "83b8f4f2-509f-382f-3c1e-e6bfe0fa1002", names(*parent, "/sys/bus/mdev/devices"));
  parent->close(open);
  parent->close(iommufd);
  claim("then it can", 0, write(*parent, (driver + "/unbind").c_str(), "0000:00:10.0"));
  same("... and they go with it", "", names(*parent, "/sys/bus/mdev/devices"));
  same("... with their groups", "0", names(*parent, "/sys/kernel/iommu_groups"));
  same("... and nodes", "devices vfio", names(*parent, "/dev/vfio"));
  same("... and it is no parent any more", "", names(*parent, "/sys/class/mdev_bus"));
  claim("... not even for who looks at it", -ENOENT,
        parent->open("/sys/bus/pci/devices/0000:00:10.0/mdev_supported_types/edu-1/name", O_RDONLY));
  claim("bound again it has none", 0, write(*parent, (driver + "/bind").c_str(), "0000:00:10.0"));
  same("... since somebody has to make them", "", names(*parent, "/sys/bus/mdev/devices"));

  const auto variants = machine(R"({ "devices": [
    { "model": "edu", "bdf": "0000:00:10.0", "driver": "xe-vfio-pci" },
    { "model": "edu", "bdf": "0000:00:11.0", "driver": "xe-vfio" }] })");
  same("a variant of vfio-pci makes a node", "0 devices vfio", names(*variants, "/dev/vfio"));
  same("... of its device", "vfio0", names(*variants, "/sys/bus/pci/devices/0000:00:10.0/vfio-dev"));
  same("... and has it", "xe-vfio-pci", last(*variants, "/sys/bus/pci/devices/0000:00:10.0/driver"));

  const auto bound = [&take](Host& host) {
    claim("vfio-pci takes the device", 0, take(host));
    const int iommufd = host.open("/dev/iommu", O_RDWR);
    const int device = host.open("/dev/vfio/devices/vfio0", O_RDWR);
    uapi::vfio_device_bind_iommufd bind{.argsz = sizeof bind, .iommufd = iommufd};
    const int result = host.ioctl(device, uapi::VFIO_DEVICE_BIND_IOMMUFD, reinterpret_cast<uintptr_t>(&bind));
    host.close(device);
    host.close(iommufd);
    return result;
  };
  const auto unsafe = machine(R"({ "system": { "commandLine": "intremap=off" }, )" + edu + "}");
  claim("interrupts that are not remapped: no bind", -EPERM, bound(*unsafe));
  const char* parameter = "/sys/module/iommufd/parameters/allow_unsafe_interrupts";
  same("... by a parameter", "N\n", read(*unsafe, parameter));
  claim("... which takes truth values", -EINVAL, write(*unsafe, parameter, "maybe\n"));
  claim("... that can be set", 0, write(*unsafe, parameter, "1\n"));
  same("... and read", "Y\n", read(*unsafe, parameter));
  uapi::vfio_device_bind_iommufd bind{.argsz = sizeof bind, .iommufd = unsafe->open("/dev/iommu", O_RDWR)};
  claim("... then: a bind", 0,
        unsafe->ioctl(unsafe->open("/dev/vfio/devices/vfio0", O_RDWR), uapi::VFIO_DEVICE_BIND_IOMMUFD,
                      reinterpret_cast<uintptr_t>(&bind)));

  const auto bare = machine(R"({ "system": { "without": ["iommufd", "vfio-pci"] }, )" + edu + "}");
  claim("no iommufd", -ENOENT, bare->open("/dev/iommu", O_RDWR));
  same("no vfio-pci", "errno 2", names(*bare, "/sys/bus/pci/drivers/vfio-pci"));
  const auto old = machine(R"({ "system": { "without": ["device-nodes"] }, )" + edu + "}");
  claim("a device without a node of its own", 0, take(*old));
  same("... is a VFIO device", "vfio0", names(*old, kDevices + "0000:00:10.0/vfio-dev"));
  same("... has no node", "errno 2", names(*old, "/dev/vfio/devices"));

  const auto user = machine(R"({ "system": { "user": 1000 }, )" + edu + "}");
  claim("what is root's another user can't write (E1)", -EACCES, write(*user, vfio, "0000:00:10.0"));
  claim("... nor open", -EACCES, user->open("/dev/iommu", O_RDWR));
  claim("... nor own", -EPERM, user->own("/dev/iommu", 1000, 0600));
  user->become(0);
  claim("root may", 0, user->own("/dev/iommu", 1000, 0600));
  claim("... devices, not sysfs", -EPERM, user->own(vfio, 1000, 0600));
  user->become(1000);
  std::vector<int> pids;
  claim("nobody has it open", user->openers("/dev/iommu", pids) == 0 && pids.empty());
  const int opened = user->open("/dev/iommu", O_RDWR);
  claim("the owner may open it", opened >= 0);
  claim("... and is who has it open", user->openers("/dev/iommu", pids) == 0 && pids.size() == 1);
  user->close(opened);
  pids.clear();
  claim("... until it is closed", user->openers("/dev/iommu", pids) == 0 && pids.empty());

  const auto used = machine(R"({ "devices": [
    { "model": "edu", "bdf": "0000:00:10.0", "driver": "ahci", "disk": { "name": "sda", "mountedOn": "/my srv" } },
    { "model": "edu", "bdf": "0000:00:11.0", "driver": "e1000e",
      "network": { "name": "eth0", "up": true, "route": true } }] })");
  same("a disk", "0000:00:10.0/block/sda", [&used] {
    std::array<char, 256> target{};
    const auto size = used->readlink("/sys/class/block/sda", target.data(), target.size());
    const std::string text(target.data(), static_cast<size_t>(std::max<int64_t>(size, 0)));
    return text.substr(text.find("0000:00:10"));
  }());
  same("... that is mounted", "20 1 8:128 / /my\\040srv rw - ext4 /dev/sda rw\n",
       read(*used, "/proc/self/mountinfo"));
  same("an interface", "up\n", read(*used, "/sys/class/net/eth0/operstate"));
  claim("... with a route", read(*used, "/proc/net/route").find("\neth0\t00000000") != std::string::npos);
  claim("without its driver", 0, write(*used, "/sys/bus/pci/drivers/ahci/unbind", "0000:00:10.0"));
  same("... there is no disk", "", names(*used, "/sys/class/block"));
  same("... and no mount", "", read(*used, "/proc/self/mountinfo"));
}

// A user can't own a group while a device of it is bound to a driver of the kernel (requirement B2).
void ownership() {
  const auto host = machine(R"({ "devices": [
    { "model": "bridge", "bdf": "0000:00:01.0" },
    { "model": "edu", "behind": "0000:00:01.0", "slot": 0, "driver": "vfio-pci" },
    { "model": "edu", "behind": "0000:00:01.0", "slot": 1, "driver": "e1000e" }] })");
  const int iommufd = host->open("/dev/iommu", O_RDWR);
  const int device = host->open("/dev/vfio/devices/vfio0", O_RDWR);
  uapi::vfio_device_bind_iommufd bind{.argsz = sizeof bind, .iommufd = iommufd};
  claim("B2: a group with a driver of the kernel's can't be taken", -EPERM,
        host->ioctl(device, uapi::VFIO_DEVICE_BIND_IOMMUFD, reinterpret_cast<uintptr_t>(&bind)));
}

void levels() {
  const char* one = R"({ "devices": [{ "model": "edu", "bdf": "0000:00:01.0", "driver": "vfio-pci" }] })";
  const auto before = machine(one, {6, 5});
  same("before Linux 6.6 a device has no file", "errno 2", names(*before, "/dev/vfio/devices"));
  same("... but its entry in sysfs", "device subsystem uevent",
       names(*before, kDevices + "0000:00:01.0/vfio-dev/vfio0"));
}

std::string errorOf(const std::string& topology) {
  try {
    (void)machine(topology);
  } catch (const std::invalid_argument& error) {
    return error.what();
  }
  return "none";
}

void errors() {
  const auto device = [](const std::string& fields) { return "{ \"devices\": [{ " + fields + " }] }"; };
  const auto edu = [&device](const std::string& fields) { return device("\"model\": \"edu\", " + fields); };
  const std::pair<std::string, std::string> cases[] = {
      {"{\n\"devices\": [\n}", "line 3: Expected a value of JSON but received }"},
      {"{} x", "Expected nothing after the value but received x"},
      {"{\"devices\": [], \"devices\": []}",
       "Expected the name \"devices\" once in an object but received it twice"},
      {"[]", "Expected an object { iommus, devices, system } for topology but received a list of 0"},
      {"{}", "Expected a list of devices for topology.devices but received nothing"},
      {R"({ "devices": [], "system": { "without": ["pci"] } })",
       "Expected \"iommufd\", \"vfio-pci\" or \"device-nodes\" for system.without[0] but received "
       "\"pci\""},
      {edu(R"("bdf": "0000:00:01.0", "disk": { "name": "a/b" })"),
       "Expected the name of a disk for devices[0].disk.name but received \"a/b\""},
      {edu(R"("bdf": "0000:00:01.0", "network": { "name": "eth0", "route": true })"),
       "Expected false of an interface that is down for devices[0].network.route but received true"},
      {edu(R"("bdf": "0000:00:01.0", "mdevs": ["83B8F4F2-509f-382f-3c1e-e6bfe0fa1001"])"),
       "Expected a UUID in small letters for devices[0].mdevs[0] but received "
       "\"83B8F4F2-509f-382f-3c1e-e6bfe0fa1001\""},
      {edu(R"("bdf": "0000:00:01.0", "mdevs": ["83b8f4f2-509f-382f-3c1e-e6bfe0fa1001"])"),
       "Expected a driver of the host, which makes the mdevs for devices[0].driver but received "
       "nothing"},
      {edu(R"("bdf": "0000:00:01.0", "driver": "vfio-pci", "mdevs": ["83b8f4f2-509f-382f-3c1e-e6bfe0fa1001"])"),
       "Expected a driver of the host, which makes the mdevs for devices[0].driver but received "
       "\"vfio-pci\""},
      {edu(R"("bdf": "0000:00:01.0", "driver": "edu", "mdevs": ["83b8f4f2-509f-382f-3c1e-e6bfe0fa1001",
        "83b8f4f2-509f-382f-3c1e-e6bfe0fa1001"])"),
       "line 1: Expected UUIDs that no other device has for devices[0].mdevs but received "
       "\"83b8f4f2-509f-382f-3c1e-e6bfe0fa1001\""},
      {edu(R"("bdf": "0000:00:01.0", "iommu": null, "group": 3)"),
       "Expected nothing (no IOMMU translates it) for devices[0].group but received 3"},
      {"{\"devices\": [], \"cpus\": 1}",
       "Expected one of the fields iommus, devices, system for topology but received \"cpus\""},
      {edu("\n\"bdf\": \"0:10\""),
       "line 2: Expected a PCI address such as \"0000:00:10.0\" (domain 0000) for devices[0].bdf "
       "but "
       "received \"0:10\""},
      {edu("\"slot\": 1"),
       "Expected a device behind a bridge (the field \"behind\") for devices[0].slot but received 1"},
      {edu("\"behind\": \"0000:00:01.0\", \"slot\": 0"),
       "Expected the address of a bridge or port that is in the topology for devices[0].behind but "
       "received "
       "\"0000:00:01.0\""},
      {edu("\"bdf\": \"0000:00:01.0\", \"iommu\": 1"),
       "Expected the index of one of 1 iommus, or null for devices[0].iommu but received 1"},
      {edu("\"bdf\": \"0000:00:01.0\", \"addresses\": [4096]"),
       "Expected a multiple of the BAR's size below 0x100000000 for devices[0].addresses[0] but "
       "received "
       "0x1000"},
      {device("\"model\": \"root-port\", \"bdf\": \"0000:00:01.0\", \"driver\": \"vfio-pci\""),
       "Expected a driver that takes this device for devices[0].driver but received \"vfio-pci\""},
      {device("\"model\": \"nic\", \"bdf\": \"0000:00:01.0\""),
       "Expected one of \"edu\", \"ivshmem\", \"nvme\", \"virtio-net\", \"root-port\", "
       "\"upstream-port\", \"downstream-port\", \"bridge\", \"host-bridge\", \"passive\" for "
       "devices[0].model but received \"nic\""},
      {device("\"model\": \"nvme\", \"bdf\": \"0000:00:01.0\", \"size\": 1000"),
       "Expected a multiple of the block size, 512 for devices[0].size but received 1000"},
      {device("\"model\": \"nvme\", \"bdf\": \"0000:00:01.0\", \"blockSize\": 1024"),
       "Expected 512 or 4096 for devices[0].blockSize but received 1024"},
      {device("\"model\": \"nvme\", \"bdf\": \"0000:00:01.0\", \"doorbellStride\": 12"),
       "Expected a power of two from 4 to 64 for devices[0].doorbellStride but received 12"},
      {device("\"model\": \"nvme\", \"bdf\": \"0000:00:01.0\", \"file\": \"/nowhere/disk\""),
       "Expected a file that holds a block and can be written (No such file or directory) for "
       "devices[0].file but received \"/nowhere/disk\""},
      {device("\"model\": \"nvme\", \"bdf\": \"0000:00:01.0\", \"file\": \"/dev/null\""),
       "Expected a file that holds a block and can be written (Invalid argument) for "
       "devices[0].file but received \"/dev/null\""},
      {device("\"model\": \"virtio-net\", \"bdf\": \"0000:00:01.0\", \"mac\": \"01:00:5e:00:00:01\""),
       "Expected a MAC address of one station such as \"52:54:00:12:34:56\" for devices[0].mac but "
       "received \"01:00:5e:00:00:01\""},
      {device("\"model\": \"virtio-net\", \"bdf\": \"0000:00:01.0\", \"mac\": \"52:54:00:12:34:5\""),
       "Expected a MAC address of one station such as \"52:54:00:12:34:56\" for devices[0].mac but "
       "received \"52:54:00:12:34:5\""},
      {device("\"model\": \"virtio-net\", \"bdf\": \"0000:00:01.0\", \"peer\": \"4\""),
       "Expected a PCI address such as \"0000:00:10.0\" (domain 0000) for devices[0].peer but "
       "received \"4\""},
      {device("\"model\": \"edu\", \"bdf\": \"0000:00:01.0\", \"size\": 4096"),
       "Expected one of the fields model, bdf, behind, slot, function, iommu, driver, pasidBits, "
       "pageRequests, group, irq, addresses, acs, disk, network, mdevs, mdevsIsolated for devices[0] but "
       "received \"size\""},
      {"{ \"iommus\": [{ \"kind\": \"vtd\", \"pageSizes\": [3000] }], \"devices\": [] }",
       "Expected a power of two from 256 for iommus[0].pageSizes but received 3000"},
      {"{ \"devices\": [{ \"model\": \"edu\", \"bdf\": \"0000:00:01.0\" },\n{ \"model\": \"edu\", \"bdf\": "
       "\"0000:00:01.0\" }] }",
       "line 2: Expected an address that no other device has for devices[1].bdf but received "
       "\"0000:00:01.0\""},
      {"{ \"devices\": [{ \"model\": \"root-port\", \"bdf\": \"0000:00:01.0\" },\n{ \"model\": \"edu\", "
       "\"bdf\": "
       "\"0000:01:01.0\", \"behind\": \"0000:00:01.0\" }] }",
       "line 2: Expected 0, the only one behind a port for devices[1].slot but received 1"},
      {device("\"model\": \"root-port\", \"bdf\": \"0000:05:01.0\" },\n{ \"model\": \"edu\", \"bdf\": "
              "\"0000:04:00.0\", \"behind\": \"0000:05:01.0\""),
       "line 2: Expected a bus above 05 that no other bridge has behind 0000:05:01.0 for devices[1].bdf but "
       "received \"0000:04:00.0\""},
      {device("\"model\": \"root-port\", \"bdf\": \"0000:00:01.0\" },\n{ \"model\": \"bridge\", \"bdf\": "
              "\"0000:02:00.0\", \"behind\": \"0000:00:01.0\" },\n{ \"model\": \"edu\", \"bdf\": "
              "\"0000:04:00.0\", \"behind\": \"0000:02:00.0\" },\n{ \"model\": \"root-port\", \"bdf\": "
              "\"0000:00:02.0\" },\n{ \"model\": \"edu\", \"bdf\": \"0000:03:00.0\", \"behind\": "
              "\"0000:00:02.0\""),
       "line 1: Expected no bus but its own from 02 to 04, the buses behind it for devices[0].bdf but "
       "received bus "
       "03 "
       "elsewhere"},
      {edu("\"bdf\": \"0000:00:01.3\""),
       "Expected a device that has a function 0 for devices[0].bdf but received \"0000:00:01.3\""},
      {device("\"model\": \"downstream-port\", \"bdf\": \"0000:00:01.0\""),
       "Expected downstream ports, and nothing else, behind an upstream port for devices[0].bdf but "
       "received \"0000:00:01.0\""},
  };
  for (const auto& [text, expected] : cases)
    same("a topology that is none: " + expected, expected, errorOf(text));
  std::string deep;
  for (int i = 0; i < 100'000; ++i) deep += '[';
  claim("a text of brackets is no danger", errorOf(deep).starts_with("Expected no more than 32 levels"));
  // No prefix of a valid topology is valid.
  const std::string whole = kTree;
  bool all = true;
  for (size_t i = 1; i < whole.size(); ++i) all = all && errorOf(whole.substr(0, i)) != "none";
  claim("half a topology is none", all);
}

}  // namespace
}  // namespace vfio::soft::check

int main() {
  using namespace vfio::soft::check;
  theDefault();
  tree();
  numbers();
  kinds();
  systems();
  ownership();
  levels();
  errors();
  return failures == 0 ? 0 : 1;
}
