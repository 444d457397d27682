// Prints a host's answers to a fixed sequence of calls, one on each line, so that two hosts can be compared
// with diff: `vfio_trace soft` here, `vfio_trace kernel` in the guest. The machine has edu devices at
// 0000:00:10.0, 0000:03:01.0 and 0000:03:02.0, which the program binds to vfio-pci. Lines that may differ by
// design are marked with `~`.
#include <fcntl.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <cstring>
#include <string>
#include <vector>

#include "../../native/uapi/iommufd.h"
#include "../../native/uapi/vfio.h"
#include "trace_harness.h"

using namespace vfio;
using namespace vfio::trace;
using namespace vfio::uapi;

namespace {

const char* errorName(int64_t result) {
  return result < 0 ? strerrorname_np(static_cast<int>(-result)) : "ok";
}

std::string text(const std::string& path) {
  const int fd = host->open(path.c_str(), O_RDONLY);
  if (fd < 0) return errorName(fd);
  std::string out(4096, '\0');
  const int64_t size = host->read(fd, out.data(), out.size());
  host->close(fd);
  if (size < 0) return errorName(size);
  out.resize(static_cast<size_t>(size));
  return out;
}

std::string link(const std::string& path) {
  std::string out(4096, '\0');
  const int64_t size = host->readlink(path.c_str(), out.data(), out.size());
  if (size < 0) return errorName(size);
  out.resize(static_cast<size_t>(size));
  return out;
}

const std::string pci = "/sys/bus/pci/";
std::string dev(const char* bdf, const char* file) { return pci + "devices/" + bdf + "/" + file; }

void sayPut(const std::string& path, const std::string& value) {
  const int64_t result = put(path, value);
  say("write '%s' to %s: %s %ld", value.substr(0, 20).c_str(), path.c_str(), errorName(result),
      static_cast<long>(result < 0 ? 0 : result));
}

void sysfs() {
  for (const char* bdf : {"0000:00:10.0", "0000:03:01.0", "0000:00:12.0", "0000:02:00.0", "0000:00:00.0"}) {
    for (const char* file :
         {"vendor", "device", "subsystem_vendor", "subsystem_device", "class", "revision", "driver_override",
          "numa_node", "msi_bus", "modalias", "uevent", "reset_method", "enable"}) {
      say("%s/%s: %s", bdf, file, text(dev(bdf, file)).c_str());
    }
    for (const char* name : {"driver", "iommu_group", "iommu", "subsystem"}) {
      say("%s/%s -> %s", bdf, name, link(dev(bdf, name)).c_str());
    }
    say("%s -> %s", bdf, link(pci + "devices/" + bdf).c_str());
  }
  say("resource %s", text(dev("0000:00:10.0", "resource")).c_str());
  say("irq %s", text(dev("0000:00:10.0", "irq")).c_str());
  say("readlink of a file: %s", link(dev("0000:00:10.0", "vendor")).c_str());
  say("read a write-only file: %s", text(pci + "drivers_probe").c_str());
  say("absent: %s", text(dev("0000:00:10.0", "absent")).c_str());
  say("below a file: %s", text(dev("0000:00:10.0", "vendor/x")).c_str());
  say("open a directory for writing: %s", errorName(put(pci + "devices/0000:00:10.0", "x")));
  say("read a directory: %s", text(pci + "devices/0000:00:10.0").c_str());
  sayPut(dev("0000:00:10.0", "vendor"), "1");
  sayPut(dev("0000:00:10.0", "driver_override"), "abc\ndef");
  say("override %s", text(dev("0000:00:10.0", "driver_override")).c_str());
  sayPut(dev("0000:00:10.0", "driver_override"), std::string(4094, 'x'));
  sayPut(dev("0000:00:10.0", "driver_override"), std::string(4095, 'x'));
  sayPut(dev("0000:00:10.0", "driver_override"), "");
  say("override length %zu", text(dev("0000:00:10.0", "driver_override")).size());
  sayPut(dev("0000:00:10.0", "driver_override"), "\n");
  say("override %s", text(dev("0000:00:10.0", "driver_override")).c_str());
  sayPut(pci + "drivers/vfio-pci/bind", "0000:00:10.0");
  sayPut(pci + "drivers/vfio-pci/bind", "nonsense");
  sayPut(pci + "drivers/vfio-pci/unbind", "0000:00:10.0");
  sayPut(pci + "drivers_probe", "nonsense");
  sayPut(pci + "drivers_probe", "0000:00:10.0");
  sayPut(pci + "drivers/vfio-pci/new_id", "1234");
  sayPut(pci + "drivers/vfio-pci/new_id", "zz yy");
  sayPut(pci + "drivers/vfio-pci/new_id", "dead beef");
  sayPut(pci + "drivers/vfio-pci/new_id", "dead beef");
  sayPut(pci + "drivers/vfio-pci/remove_id", "dead beef");
  sayPut(pci + "drivers/vfio-pci/remove_id", "dead beef");
  sayPut(pci + "drivers/vfio-pci/remove_id", "dead");
  sayPut("/sys/kernel/iommu_groups/2/type", "nonsense");
  say("type %s", text("/sys/kernel/iommu_groups/2/type").c_str());
  say("reserved %s", text("/sys/kernel/iommu_groups/2/reserved_regions").c_str());
  sayPut(dev("0000:00:12.0", "driver_override"), "vfio-pci");
  sayPut(pci + "drivers/vfio-pci/bind", "0000:00:12.0");
  sayPut(dev("0000:02:00.0", "driver_override"), "vfio-pci");
  sayPut(pci + "drivers/vfio-pci/bind", "0000:02:00.0");
  sayPut(pci + "drivers_probe", "0000:02:00.0");
  sayPut(dev("0000:02:00.0", "driver_override"), "\n");
  sayPut(dev("0000:00:12.0", "driver_override"), "\n");
  sayPut(dev("0000:03:01.0", "reset"), "2");
  sayPut(dev("0000:03:01.0", "reset"), "1");
  sayPut(dev("0000:03:02.0", "reset"), "1");
  sayPut(dev("0000:03:01.0", "reset_method"), "flr");
  for (const char* file : {"reset", "enable"}) {
    for (const char* value :
         {"1", "0x1\n", "01", "+1", "+0X1", "0", "-1", " 1", "1 ", "1\n\n", "", "+", "0x", "0x1g", "08",
          "18446744073709551615", "18446744073709551616", "99999999999999999999999"}) {
      sayPut(dev("0000:03:01.0", file), value);
    }
  }
  say("enable %s", text(dev("0000:03:01.0", "enable")).c_str());
  for (int i = 0; i < 6; ++i) sayPut(dev("0000:03:01.0", "enable"), "0");
  say("enable %s", text(dev("0000:03:01.0", "enable")).c_str());
}

void bindDrivers() {
  for (const char* bdf : {"0000:00:10.0", "0000:03:01.0"}) {
    sayPut(dev(bdf, "driver_override"), "vfio-pci\n");
    sayPut(pci + "drivers_probe", std::string(bdf) + "\n");
    say("driver -> %s", link(dev(bdf, "driver")).c_str());
  }
  sayPut(pci + "drivers/vfio-pci/bind", "0000:00:10.0");
  sayPut(pci + "drivers/vfio-pci/unbind", "0000:00:10.0\n");
  sayPut(pci + "drivers/vfio-pci/bind", "0000:00:10.0");
  say("vfio-dev %s", text(dev("0000:00:10.0", "vfio-dev/vfio0/dev")).c_str());
  say("vfio-dev uevent %s", text("/sys/class/vfio-dev/vfio0/uevent").c_str());
  say("vfio-dev device -> %s", link(dev("0000:00:10.0", "vfio-dev/vfio0/device")).c_str());
  say("class -> %s", link("/sys/class/vfio-dev/vfio0").c_str());
  say("group class -> %s", link("/sys/class/vfio/2").c_str());
}

template <typename Struct>
int call(int fd, uint32_t request, Struct& argument) {
  return host->ioctl(fd, request, reinterpret_cast<uintptr_t>(&argument));
}

std::string bytes(int fd, uint64_t offset, size_t size) {
  std::string raw(size, '\0');
  const int64_t got = host->pread(fd, raw.data(), size, offset);
  std::string out = got < 0 ? errorName(got) : std::to_string(got) + ":";
  for (int64_t i = 0; i < got; ++i) {
    char hex[4];
    std::snprintf(hex, sizeof hex, " %02x", static_cast<unsigned char>(raw[static_cast<size_t>(i)]));
    out += hex;
  }
  return out;
}

void sayWrite(int fd, const char* what, uint64_t offset, uint64_t value, size_t size) {
  const int64_t result = host->pwrite(fd, &value, size, offset);
  say("%s: write %zu at %llx: %s %ld", what, size, static_cast<unsigned long long>(offset), errorName(result),
      static_cast<long>(result < 0 ? 0 : result));
}

constexpr uint64_t bar(unsigned index) { return uint64_t{index} << 40; }
constexpr uint64_t config = uint64_t{7} << 40;

void unboundAndBind(int fd, int iommufd) {
  say("open absent cdev: %s", errorName(host->open("/dev/vfio/devices/vfio99", O_RDWR)));
  vfio_device_info info{.argsz = sizeof info};
  say("info before bind: %s", errorName(call(fd, VFIO_DEVICE_GET_INFO, info)));
  say("nonsense before bind: %s", errorName(host->ioctl(fd, 0x1234, 0)));
  say("read before bind: %s", bytes(fd, config, 4).c_str());
  say("mmap before bind: %s", errorName(host->mmap(nullptr, 4096, PROT_READ, MAP_SHARED, fd, 0)));
  vfio_device_bind_iommufd bind{.argsz = 15, .iommufd = iommufd};
  say("bind short: %s", errorName(call(fd, VFIO_DEVICE_BIND_IOMMUFD, bind)));
  bind = {.argsz = 16, .flags = 2, .iommufd = iommufd};
  say("bind flags: %s", errorName(call(fd, VFIO_DEVICE_BIND_IOMMUFD, bind)));
  bind = {.argsz = 16, .iommufd = -1};
  say("bind -1: %s", errorName(call(fd, VFIO_DEVICE_BIND_IOMMUFD, bind)));
  bind = {.argsz = 16, .iommufd = 999};
  say("bind closed: %s", errorName(call(fd, VFIO_DEVICE_BIND_IOMMUFD, bind)));
  bind = {.argsz = 16, .iommufd = 1};
  say("bind stdout: %s", errorName(call(fd, VFIO_DEVICE_BIND_IOMMUFD, bind)));
  bind = {.argsz = 16, .iommufd = fd};
  say("bind itself: %s", errorName(call(fd, VFIO_DEVICE_BIND_IOMMUFD, bind)));
  say("bind null: %s", errorName(host->ioctl(fd, VFIO_DEVICE_BIND_IOMMUFD, 0)));
  bind = {.argsz = 16, .iommufd = iommufd};
  say("bind: %s", errorName(call(fd, VFIO_DEVICE_BIND_IOMMUFD, bind)));
  say("devid %u", bind.out_devid);
  say("bind again: %s", errorName(call(fd, VFIO_DEVICE_BIND_IOMMUFD, bind)));
  const int second = host->open("/dev/vfio/devices/vfio0", O_RDWR);
  say("second open: %s", errorName(second));
  say("second bind: %s", errorName(call(second, VFIO_DEVICE_BIND_IOMMUFD, bind)));
  say("second info: %s", errorName(call(second, VFIO_DEVICE_GET_INFO, info)));
  host->close(second);
}

void infos(int fd) {
  for (const uint32_t size : {0U, 15U, 16U, 20U, 24U, 4096U}) {
    vfio_device_info info{.argsz = size, .cap_offset = 7, .pad = 9};
    const int result = call(fd, VFIO_DEVICE_GET_INFO, info);
    say("info %u: %s argsz %u flags %x regions %u irqs %u cap %u pad %u", size, errorName(result), info.argsz,
        info.flags, info.num_regions, info.num_irqs, info.cap_offset, info.pad);
  }
  for (uint32_t i = 0; i < 11; ++i) {
    vfio_region_info info{.argsz = sizeof info, .index = i, .cap_offset = 5};
    const int result = call(fd, VFIO_DEVICE_GET_REGION_INFO, info);
    say("region %u: %s argsz %u flags %x cap %u size %llx offset %llx", i, errorName(result), info.argsz,
        info.flags, info.cap_offset, static_cast<unsigned long long>(info.size),
        static_cast<unsigned long long>(info.offset));
  }
  vfio_region_info small{.argsz = 31};
  say("region short: %s", errorName(call(fd, VFIO_DEVICE_GET_REGION_INFO, small)));
  for (uint32_t i = 0; i < 6; ++i) {
    vfio_irq_info info{.argsz = sizeof info, .index = i};
    const int result = call(fd, VFIO_DEVICE_GET_IRQ_INFO, info);
    say("irq %u: %s flags %x count %u", i, errorName(result), info.flags, info.count);
  }
  vfio_irq_info shortIrq{.argsz = 15};
  say("irq short: %s", errorName(call(fd, VFIO_DEVICE_GET_IRQ_INFO, shortIrq)));
  say("reset: %s", errorName(host->ioctl(fd, VFIO_DEVICE_RESET, 0)));
  say("nonsense: %s", errorName(host->ioctl(fd, 0x1234, 0)));
  say("info null: %s", errorName(host->ioctl(fd, VFIO_DEVICE_GET_INFO, 0)));
  struct {
    vfio_pci_hot_reset_info head;
    vfio_pci_dependent_device devices[8];
  } hot{.head = {.argsz = sizeof hot}};
  int result = call(fd, VFIO_DEVICE_GET_PCI_HOT_RESET_INFO, hot);
  say("hot reset info: %s flags %x count %u", errorName(result), hot.head.flags, hot.head.count);
  for (uint32_t i = 0; result == 0 && i < hot.head.count; ++i) {
    say("  devid %x segment %x bus %x devfn %x", hot.devices[i].devid, hot.devices[i].segment,
        hot.devices[i].bus, hot.devices[i].devfn);
  }
  hot.head = {.argsz = 12};
  result = call(fd, VFIO_DEVICE_GET_PCI_HOT_RESET_INFO, hot);
  say("hot reset info short: %s flags %x count %u", errorName(result), hot.head.flags, hot.head.count);
  vfio_pci_hot_reset reset{.argsz = sizeof reset, .count = 1};
  say("hot reset with a group: %s", errorName(call(fd, VFIO_DEVICE_PCI_HOT_RESET, reset)));
  reset = {.argsz = sizeof reset};
  say("hot reset: %s", errorName(call(fd, VFIO_DEVICE_PCI_HOT_RESET, reset)));
  for (uint32_t number = 0; number < 15; ++number) {
    for (const uint32_t operation :
         {VFIO_DEVICE_FEATURE_PROBE, VFIO_DEVICE_FEATURE_PROBE | VFIO_DEVICE_FEATURE_GET,
          VFIO_DEVICE_FEATURE_PROBE | VFIO_DEVICE_FEATURE_SET, VFIO_DEVICE_FEATURE_GET,
          VFIO_DEVICE_FEATURE_GET | VFIO_DEVICE_FEATURE_SET, uint32_t{0}}) {
      struct {
        vfio_device_feature head;
        uint8_t data[64];
      } feature{.head = {.argsz = sizeof feature, .flags = number | operation}};
      say("feature %u %x: %s", number, operation >> 16, errorName(call(fd, VFIO_DEVICE_FEATURE, feature)));
    }
  }
  vfio_device_feature low{.argsz = 8, .flags = VFIO_DEVICE_FEATURE_LOW_POWER_ENTRY | VFIO_DEVICE_FEATURE_SET};
  say("low power: %s", errorName(call(fd, VFIO_DEVICE_FEATURE, low)));
  say("low power again: %s", errorName(call(fd, VFIO_DEVICE_FEATURE, low)));
  low.flags = VFIO_DEVICE_FEATURE_LOW_POWER_EXIT | VFIO_DEVICE_FEATURE_SET;
  say("low power exit: %s", errorName(call(fd, VFIO_DEVICE_FEATURE, low)));
  say("low power exit again: %s", errorName(call(fd, VFIO_DEVICE_FEATURE, low)));
}

void configSpace(int fd) {
  for (unsigned at = 0; at < 256; at += 16) say("config %02x %s", at, bytes(fd, config + at, 16).c_str());
  say("config odd %s", bytes(fd, config + 1, 7).c_str());
  say("config end %s", bytes(fd, config + 252, 4).c_str());
  say("config past the end %s", bytes(fd, config + 252, 8).c_str());
  say("config beyond %s", bytes(fd, config + 256, 4).c_str());
  say("region 8 %s", bytes(fd, bar(8), 4).c_str());
  say("region 9 %s", bytes(fd, bar(9), 4).c_str());
  say("region 6 %s", bytes(fd, bar(6), 4).c_str());
  sayWrite(fd, "ROM", bar(6), 0, 4);
  say("region 1 %s", bytes(fd, bar(1), 4).c_str());
  // Every dword: which bits can be set to ones, and its value after zeros and after the old value were
  // written.
  for (unsigned at = 0; at < 256; at += 4) {
    uint32_t old = 0, ones = 0, zeros = 0, back = 0;
    host->pread(fd, &old, 4, config + at);
    const uint32_t all = 0xffffffff, none = 0;
    if (host->pwrite(fd, &all, 4, config + at) != 4) say("write failed at %x", at);
    host->pread(fd, &ones, 4, config + at);
    host->pwrite(fd, &none, 4, config + at);
    host->pread(fd, &zeros, 4, config + at);
    host->pwrite(fd, &old, 4, config + at);
    host->pread(fd, &back, 4, config + at);
    say("config %02x: %08x ones %08x zeros %08x back %08x", at, old, ones, zeros, back);
  }
  // Bytes and words with side effects.
  sayWrite(fd, "memory off", config + 4, 0, 1);
  say("BAR with memory off %s", bytes(fd, 0, 4).c_str());
  sayWrite(fd, "BAR with memory off", 4, 1, 4);
  say("command %s", bytes(fd, config + 4, 2).c_str());
  sayWrite(fd, "memory on", config + 4, 2, 1);
  say("command %s", bytes(fd, config + 4, 2).c_str());
  say("BAR %s", bytes(fd, 0, 4).c_str());
  sayWrite(fd, "intx off", config + 5, 4, 1);
  say("command %s", bytes(fd, config + 4, 2).c_str());
  sayWrite(fd, "intx on", config + 5, 0, 1);
  say("command %s", bytes(fd, config + 4, 2).c_str());
  sayWrite(fd, "msi enable", config + 0x42, 0x71, 2);
  say("msi %s", bytes(fd, config + 0x40, 16).c_str());
  sayWrite(fd, "msi disable", config + 0x42, 0x80, 2);
}

void registers(int fd) {
  sayWrite(fd, "past the end", (1 << 20) - 4, 0, 8);
  say("past the end %s", bytes(fd, (1 << 20) - 4, 8).c_str());
  say("beyond %s", bytes(fd, 1 << 20, 4).c_str());
  for (unsigned at : {0U, 4U, 8U, 0x20U, 0x24U, 0x60U, 0x80U, 0x84U, 0x88U, 0x90U, 0x98U, 0x100U, 0x40000U}) {
    for (size_t size : {1, 2, 4, 8}) say("register %x: %s", at, bytes(fd, at, size).c_str());
  }
  say("unaligned %s", bytes(fd, 1, 9).c_str());
  sayWrite(fd, "liveness", 4, 0x12345678, 4);
  say("liveness %s", bytes(fd, 4, 4).c_str());
  sayWrite(fd, "wide", 0x80, 0x1122334455667788, 8);
  say("wide %s", bytes(fd, 0x80, 8).c_str());
  sayWrite(fd, "narrow", 0x80, 0x99aabbcc, 4);
  say("narrow %s", bytes(fd, 0x80, 8).c_str());
  sayWrite(fd, "idle command", 0x98, 6, 4);
  say("idle command %s", bytes(fd, 0x98, 4).c_str());
  sayWrite(fd, "factorial", 8, 10, 4);
  usleep(100000);
  say("factorial %s status %s", bytes(fd, 8, 4).c_str(), bytes(fd, 0x20, 4).c_str());
  const auto map = [fd](size_t length, int protection, int flags, uint64_t offset) {
    const int64_t at = host->mmap(nullptr, length, protection, flags, fd, offset);
    if (at > 0) host->munmap(reinterpret_cast<void*>(at), length);
    return errorName(at < 0 ? at : 0);
  };
  say("mmap %s", map(1 << 20, PROT_READ | PROT_WRITE, MAP_SHARED, 0));
  say("mmap private %s", map(4096, PROT_READ, MAP_PRIVATE, 0));
  say("mmap too long %s", map((1 << 20) + 4096, PROT_READ, MAP_SHARED, 0));
  say("mmap end %s", map(8192, PROT_READ, MAP_SHARED, (1 << 20) - 4096));
  say("mmap odd offset %s", map(4096, PROT_READ, MAP_SHARED, 100));
  say("mmap nothing %s", map(0, PROT_READ, MAP_SHARED, 0));
  say("mmap config %s", map(4096, PROT_READ, MAP_SHARED, config));
  say("mmap absent BAR %s", map(4096, PROT_READ, MAP_SHARED, bar(1)));
  say("mmap region 20 %s", map(4096, PROT_READ, MAP_SHARED, bar(20)));
  say("mmap odd length %s", map(100, PROT_READ, MAP_SHARED, 0));
}

// `count` elements of `data` follow the header.
int irqs(int fd, uint32_t flags, uint32_t index, uint32_t start, uint32_t count,
         const std::vector<int32_t>& data, uint32_t argsz = 0) {
  std::vector<uint8_t> raw(sizeof(vfio_irq_set) + 4 * data.size() + 4);
  auto& head = *reinterpret_cast<vfio_irq_set*>(raw.data());
  head = {static_cast<uint32_t>(argsz != 0 ? argsz : sizeof head + 4 * data.size()), flags, index, start,
          count};
  if (!data.empty()) std::memcpy(raw.data() + sizeof head, data.data(), 4 * data.size());
  return host->ioctl(fd, VFIO_DEVICE_SET_IRQS, reinterpret_cast<uintptr_t>(raw.data()));
}

std::string counted(int event) {
  uint64_t value = 0;
  usleep(20000);
  return ::read(event, &value, sizeof value) == sizeof value ? std::to_string(value) : "none";
}

void interrupts(int fd) {
  const int event = eventfd(0, EFD_NONBLOCK);
  const int other = eventfd(0, EFD_NONBLOCK);
  constexpr uint32_t none = VFIO_IRQ_SET_DATA_NONE, flag = VFIO_IRQ_SET_DATA_BOOL,
                     fds = VFIO_IRQ_SET_DATA_EVENTFD;
  constexpr uint32_t mask = VFIO_IRQ_SET_ACTION_MASK, unmask = VFIO_IRQ_SET_ACTION_UNMASK,
                     trigger = VFIO_IRQ_SET_ACTION_TRIGGER;
  const auto set = [&](const char* what, uint32_t flags, uint32_t index, uint32_t start, uint32_t count,
                       const std::vector<int32_t>& data = {}, uint32_t argsz = 0) {
    const int result = irqs(fd, flags, index, start, count, data, argsz);
    say("irq %s: %s %d; event %s other %s", what, errorName(result), result < 0 ? 0 : result,
        counted(event).c_str(), counted(other).c_str());
  };
  // Every combination of flags, for all kinds of interrupt, while none is enabled.
  for (uint32_t index = 0; index < 6; ++index) {
    for (uint32_t flags = 0; flags < 64; ++flags) {
      for (uint32_t count = 0; count < 2; ++count) {
        const int result = irqs(fd, flags, index, 0, count, {-1});
        say("irqs index %u flags %x count %u: %s", index, flags, count, errorName(result));
        if (result == 0) irqs(fd, none | trigger, index, 0, 0, {});
      }
    }
  }
  set("short", fds | trigger, 1, 0, 1, {event}, 23);
  set("header", fds | trigger, 1, 0, 1, {event}, 19);
  set("overflow", none | trigger, 1, 1, 0xfffffffe);
  set("start", fds | trigger, 1, 1, 1, {event});
  set("count", fds | trigger, 1, 0, 2, {event, event});
  set("closed", fds | trigger, 1, 0, 1, {999});
  set("not an eventfd", fds | trigger, 1, 0, 1, {1});
  set("own file", fds | trigger, 1, 0, 1, {fd});
  set("unknown flag", 64 | fds | trigger, 1, 0, 1, {event});
  set("msi none before", none | trigger, 1, 0, 1);
  set("msi", fds | trigger, 1, 0, 1, {event});
  say("command %s msi %s", bytes(fd, config + 4, 2).c_str(), bytes(fd, config + 0x40, 16).c_str());
  set("msi loopback", none | trigger, 1, 0, 1);
  set("msi bool", flag | trigger, 1, 0, 1, {1});
  set("msi bool 0", flag | trigger, 1, 0, 1, {0});
  set("msi mask", none | mask, 1, 0, 1);
  set("intx while msi", fds | trigger, 0, 0, 1, {event});
  set("msix while msi", fds | trigger, 2, 0, 1, {event});
  sayWrite(fd, "raise without bus master", 0x60, 1, 4);
  say("event %s", counted(event).c_str());
  sayWrite(fd, "acknowledge", 0x64, 1, 4);
  sayWrite(fd, "bus master", config + 4, 6, 2);
  sayWrite(fd, "raise", 0x60, 1, 4);
  say("event %s status %s", counted(event).c_str(), bytes(fd, 0x24, 4).c_str());
  sayWrite(fd, "acknowledge", 0x64, 1, 4);
  set("msi other", fds | trigger, 1, 0, 1, {other});
  sayWrite(fd, "raise", 0x60, 2, 4);
  say("event %s other %s", counted(event).c_str(), counted(other).c_str());
  sayWrite(fd, "acknowledge", 0x64, 2, 4);
  sayWrite(fd, "msi off by config", config + 0x42, 0x80, 1);
  say("msi %s", bytes(fd, config + 0x40, 16).c_str());
  sayWrite(fd, "msi on by config", config + 0x42, 0x81, 1);
  say("msi %s", bytes(fd, config + 0x40, 16).c_str());
  sayWrite(fd, "raise", 0x60, 2, 4);
  say("other %s", counted(other).c_str());
  sayWrite(fd, "acknowledge", 0x64, 2, 4);
  set("msi disconnect", fds | trigger, 1, 0, 1, {-1});
  set("msi loopback to nobody", none | trigger, 1, 0, 1);
  set("msi bad", fds | trigger, 1, 0, 1, {999});
  set("msi off", none | trigger, 1, 0, 0);
  set("msi off again", none | trigger, 1, 0, 0);

  set("intx", fds | trigger, 0, 0, 1, {event});
  say("command %s", bytes(fd, config + 4, 4).c_str());
  sayWrite(fd, "raise", 0x60, 1, 4);
  say("event %s command %s", counted(event).c_str(), bytes(fd, config + 4, 4).c_str());
  set("unmask while asserted", none | unmask, 0, 0, 1);
  sayWrite(fd, "acknowledge", 0x64, 1, 4);
  sayWrite(fd, "raise while masked", 0x60, 1, 4);
  say("event %s", counted(event).c_str());
  sayWrite(fd, "acknowledge", 0x64, 1, 4);
  set("unmask", none | unmask, 0, 0, 1);
  sayWrite(fd, "raise", 0x60, 1, 4);
  say("event %s", counted(event).c_str());
  sayWrite(fd, "acknowledge", 0x64, 1, 4);
  set("unmask bool 0", flag | unmask, 0, 0, 1, {0});
  set("unmask bool", flag | unmask, 0, 0, 1, {1});
  set("mask", none | mask, 0, 0, 1);
  sayWrite(fd, "raise while masked", 0x60, 1, 4);
  say("event %s", counted(event).c_str());
  sayWrite(fd, "acknowledge", 0x64, 1, 4);
  set("mask eventfd", fds | mask, 0, 0, 1, {other});
  const int opener = eventfd(0, EFD_NONBLOCK);
  set("unmask eventfd", fds | unmask, 0, 0, 1, {opener});
  set("unmask eventfd twice", fds | unmask, 0, 0, 1, {other});
  const uint64_t one = 1;
  if (::write(opener, &one, 8) != 8) say("write failed");
  sayWrite(fd, "raise", 0x60, 1, 4);
  say("event %s", counted(event).c_str());
  if (::write(opener, &one, 8) != 8) say("write failed");
  say("still asserted: event %s", counted(event).c_str());
  sayWrite(fd, "acknowledge", 0x64, 1, 4);
  set("unmask eventfd gone", fds | unmask, 0, 0, 1, {-1});
  set("unmask", none | unmask, 0, 0, 1);
  sayWrite(fd, "disable in command", config + 4, 0x402, 2);
  sayWrite(fd, "raise", 0x60, 1, 4);
  say("event %s command %s", counted(event).c_str(), bytes(fd, config + 4, 4).c_str());
  set("loopback while disabled", none | trigger, 0, 0, 1);
  sayWrite(fd, "enable in command", config + 4, 0x002, 2);
  say("event %s", counted(event).c_str());
  sayWrite(fd, "acknowledge", 0x64, 1, 4);
  set("loopback", none | trigger, 0, 0, 1);
  set("intx off", none | trigger, 0, 0, 0);
  set("intx off again", none | trigger, 0, 0, 0);
  set("req", fds | trigger, 4, 0, 1, {event});
  set("req loopback", none | trigger, 4, 0, 1);
  set("req off", none | trigger, 4, 0, 0);
  set("req loopback", none | trigger, 4, 0, 1);

  vfio_device_ioeventfd io{.argsz = sizeof io, .flags = 3, .offset = 4, .data = 5, .fd = opener};
  say("ioeventfd two widths: %s", errorName(call(fd, VFIO_DEVICE_IOEVENTFD, io)));
  io = {.argsz = sizeof io, .flags = 4, .offset = config, .data = 5, .fd = opener};
  say("ioeventfd config: %s", errorName(call(fd, VFIO_DEVICE_IOEVENTFD, io)));
  io = {.argsz = sizeof io, .flags = 4, .offset = (1 << 20) - 2, .data = 5, .fd = opener};
  say("ioeventfd outside: %s", errorName(call(fd, VFIO_DEVICE_IOEVENTFD, io)));
  io = {.argsz = sizeof io, .flags = 4, .offset = 4, .data = 5, .fd = -1};
  say("ioeventfd unknown: %s", errorName(call(fd, VFIO_DEVICE_IOEVENTFD, io)));
  io = {.argsz = sizeof io, .flags = 4, .offset = 4, .data = 5, .fd = -2};
  say("ioeventfd -2: %s", errorName(call(fd, VFIO_DEVICE_IOEVENTFD, io)));
  io = {.argsz = sizeof io, .flags = 4, .offset = 4, .data = 5, .fd = 999};
  say("ioeventfd closed: %s", errorName(call(fd, VFIO_DEVICE_IOEVENTFD, io)));
  io = {.argsz = 27, .flags = 4, .offset = 4, .data = 5, .fd = opener};
  say("ioeventfd short: %s", errorName(call(fd, VFIO_DEVICE_IOEVENTFD, io)));
  io = {.argsz = sizeof io, .flags = 4, .offset = 4, .data = 5, .fd = opener};
  say("ioeventfd: %s", errorName(call(fd, VFIO_DEVICE_IOEVENTFD, io)));
  say("ioeventfd twice: %s", errorName(call(fd, VFIO_DEVICE_IOEVENTFD, io)));
  if (::write(opener, &one, 8) != 8) say("write failed");
  usleep(20000);
  say("written %s", bytes(fd, 4, 4).c_str());
  io.fd = -1;
  say("ioeventfd off: %s", errorName(call(fd, VFIO_DEVICE_IOEVENTFD, io)));
  ::close(event);
  ::close(other);
  ::close(opener);
}

void edu(const char* bdf, const std::string& node) {
  say("==== %s", bdf);
  const int fd = host->open(node.c_str(), O_RDWR);
  const int iommufd = host->open("/dev/iommu", O_RDWR);
  unboundAndBind(fd, iommufd);
  infos(fd);
  configSpace(fd);
  registers(fd);
  interrupts(fd);
  say("override while open: %s", text(dev(bdf, "driver_override")).c_str());
  say("enable while open: %s", text(dev(bdf, "enable")).c_str());
  sayWrite(fd, "leave changed", config + 4, 0x406, 2);
  host->close(fd);
  const int raw = host->open(dev(bdf, "config").c_str(), O_RDWR);
  say("after close %s", bytes(raw, 0, 64).c_str());
  say("config file past the end %s", bytes(raw, 252, 8).c_str());
  say("config file beyond %s", bytes(raw, 256, 8).c_str());
  sayWrite(raw, "config file beyond", 256, 0, 4);
  host->close(raw);
  host->close(iommufd);
}

uint32_t attachTo(int fd, uint32_t id) {
  vfio_device_attach_iommufd_pt attach{.argsz = sizeof attach, .pt_id = id};
  say("attach %u: %s pt %u", id, errorName(call(fd, VFIO_DEVICE_ATTACH_IOMMUFD_PT, attach)), attach.pt_id);
  return attach.pt_id;
}

void sayBind(int fd, int iommufd) {
  vfio_device_bind_iommufd bind{.argsz = sizeof bind, .iommufd = iommufd};
  const int result = call(fd, VFIO_DEVICE_BIND_IOMMUFD, bind);
  say("bind: %s devid %u", errorName(result), bind.out_devid);
}

void sayHotReset(int fd) {
  struct {
    vfio_pci_hot_reset_info head;
    vfio_pci_dependent_device devices[8];
  } hot{.head = {.argsz = sizeof hot}};
  int result = call(fd, VFIO_DEVICE_GET_PCI_HOT_RESET_INFO, hot);
  say("hot reset info: %s flags %x count %u", errorName(result), hot.head.flags, hot.head.count);
  for (uint32_t i = 0; result == 0 && i < hot.head.count; ++i) {
    say("  devid %x segment %x bus %x devfn %x", hot.devices[i].devid, hot.devices[i].segment,
        hot.devices[i].bus, hot.devices[i].devfn);
  }
  hot.head = {.argsz = 12};
  result = call(fd, VFIO_DEVICE_GET_PCI_HOT_RESET_INFO, hot);
  say("hot reset info short: %s flags %x count %u", errorName(result), hot.head.flags, hot.head.count);
  vfio_pci_hot_reset reset{.argsz = sizeof reset};
  say("hot reset: %s", errorName(call(fd, VFIO_DEVICE_PCI_HOT_RESET, reset)));
  say("reset: %s", errorName(host->ioctl(fd, VFIO_DEVICE_RESET, 0)));
}

void sayDma(int fd, uint8_t* buffer, uint64_t source, uint64_t destination, uint64_t flags,
            uint64_t size = 16) {
  uint64_t value = source;
  if (host->pwrite(fd, &value, 8, 0x80) != 8) say("write failed");
  value = destination;
  if (host->pwrite(fd, &value, 8, 0x88) != 8) say("write failed");
  if (host->pwrite(fd, &size, 8, 0x90) != 8) say("write failed");
  value = 1 | flags;
  if (host->pwrite(fd, &value, 8, 0x98) != 8) say("write failed");
  usleep(150000);
  say("dma %llx -> %llx flags %llx: command %s bytes %02x %02x", static_cast<unsigned long long>(source),
      static_cast<unsigned long long>(destination), static_cast<unsigned long long>(flags),
      bytes(fd, 0x98, 8).c_str(), buffer[0], buffer[4096]);
}

void sharedGroup() {
  say("==== one group");
  sayPut(dev("0000:03:02.0", "driver_override"), "\n");
  int first = host->open("/dev/vfio/devices/vfio1", O_RDWR);
  const int iommufd = host->open("/dev/iommu", O_RDWR);
  const int other = host->open("/dev/iommu", O_RDWR);
  sayBind(first, iommufd);
  sayHotReset(first);
  sayPut(dev("0000:03:02.0", "driver_override"), "vfio-pci");
  sayPut(pci + "drivers_probe", "0000:03:02.0");
  const int second = host->open("/dev/vfio/devices/vfio2", O_RDWR);
  sayHotReset(first);
  sayBind(second, other);
  sayBind(second, iommufd);
  sayHotReset(second);
  iommu_ioas_alloc alloc{.size = sizeof alloc};
  say("ioas: %s %u", errorName(call(iommufd, IOMMU_IOAS_ALLOC, alloc)), alloc.out_ioas_id);
  const uint32_t ioas = alloc.out_ioas_id;
  attachTo(first, 999);
  attachTo(first, 1);
  attachTo(first, ioas);
  attachTo(first, ioas);
  attachTo(second, ioas);
  vfio_device_attach_iommufd_pt shorter{.argsz = 11};
  say("attach short: %s", errorName(call(first, VFIO_DEVICE_ATTACH_IOMMUFD_PT, shorter)));
  shorter = {.argsz = 16, .flags = 1};
  say("attach flags: %s", errorName(call(first, VFIO_DEVICE_ATTACH_IOMMUFD_PT, shorter)));
  vfio_device_detach_iommufd_pt detach{.argsz = 7};
  say("detach short: %s", errorName(call(first, VFIO_DEVICE_DETACH_IOMMUFD_PT, detach)));
  detach = {.argsz = 12};
  say("detach: %s", errorName(call(first, VFIO_DEVICE_DETACH_IOMMUFD_PT, detach)));
  say("detach again: %s", errorName(call(first, VFIO_DEVICE_DETACH_IOMMUFD_PT, detach)));
  attachTo(first, ioas);

  const int64_t at = host->mmap(nullptr, 8192, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  auto* buffer = reinterpret_cast<uint8_t*>(at);
  std::memset(buffer, 0x11, 4096);
  std::memset(buffer + 4096, 0x22, 4096);
  iommu_ioas_map map{.size = sizeof map,
                     .flags = IOMMU_IOAS_MAP_FIXED_IOVA | IOMMU_IOAS_MAP_READABLE | IOMMU_IOAS_MAP_WRITEABLE,
                     .ioas_id = ioas,
                     .user_va = static_cast<uint64_t>(at),
                     .length = 8192,
                     .iova = 0x10000};
  say("map: %s", errorName(call(iommufd, IOMMU_IOAS_MAP, map)));
  sayDma(first, buffer, 0x10000, 0x40000, 0);
  sayDma(first, buffer, 0x40000, 0x11000, 2);
  sayWrite(first, "bus master", config + 4, 6, 2);
  sayDma(first, buffer, 0x10000, 0x40000, 0);
  sayDma(first, buffer, 0x40000, 0x11000, 2);
  sayDma(first, buffer, 0x40000, 0x90000, 2);
  buffer[4096] = 0x33;
  sayDma(first, buffer, 0x40000, 0xf00011000, 2);
  const int event = eventfd(0, EFD_NONBLOCK);
  say("msi: %s",
      errorName(irqs(first, VFIO_IRQ_SET_DATA_EVENTFD | VFIO_IRQ_SET_ACTION_TRIGGER, 1, 0, 1, {event})));
  sayDma(first, buffer, 0x40000, 0x11000, 6);
  say("event %s status %s", counted(event).c_str(), bytes(first, 0x24, 4).c_str());
  sayHotReset(first);
  say("config after a hot reset %s", bytes(first, config, 64).c_str());
  say("msi after a hot reset %s", bytes(first, config + 0x40, 16).c_str());
  sayDma(first, buffer, 0x40000, 0x11000, 6);
  say("event %s", counted(event).c_str());
  host->close(iommufd);
  sayDma(first, buffer, 0x10000, 0x40000, 0);
  host->close(first);
  host->close(other);
  host->close(second);
  first = host->open("/dev/vfio/devices/vfio1", O_RDONLY);
  const int again = host->open("/dev/iommu", O_RDWR);
  sayBind(first, again);
  say("read-only: read %s", bytes(first, config, 4).c_str());
  sayWrite(first, "read-only", config + 4, 0, 2);
  const int64_t writable = host->mmap(nullptr, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, first, 0);
  say("read-only: map for writing %s", errorName(writable < 0 ? writable : 0));
  const int64_t readable = host->mmap(nullptr, 4096, PROT_READ, MAP_SHARED, first, 0);
  say("read-only: map for reading %s", errorName(readable < 0 ? readable : 0));
  host->close(first);
  first = host->open("/dev/vfio/devices/vfio1", O_RDWR);
  sayBind(first, again);
  if (readable > 0) host->munmap(reinterpret_cast<void*>(readable), 4096);
  sayBind(first, again);
  uint32_t word = 0;
  say("read at the start: %ld %08x", static_cast<long>(host->read(first, &word, 4)), word);
  say("read on: %ld %08x", static_cast<long>(host->read(first, &word, 4)), word);
  say("bad buffer: %ld", static_cast<long>(host->pread(first, reinterpret_cast<void*>(8), 4, config)));
  say("nothing: %ld", static_cast<long>(host->pread(first, nullptr, 0, config)));
  host->close(first);
  host->close(again);
  ::close(event);
  sayPut(pci + "drivers/vfio-pci/unbind", "0000:03:01.0");
  say("node gone: %s", errorName(host->open("/dev/vfio/devices/vfio1", O_RDWR)));
  sayPut(pci + "drivers/vfio-pci/unbind", "0000:03:02.0");
  say("group class: %s", link("/sys/class/vfio/7").c_str());
  sayPut(pci + "drivers/vfio-pci/new_id", "1234 11e8");
  say("driver of one: %s", link(dev("0000:03:01.0", "driver")).c_str());
}

}  // namespace

int main(int, char** arguments) {
  chooseHost(arguments);
  sysfs();
  bindDrivers();
  edu("0000:00:10.0", "/dev/vfio/devices/vfio0");
  sharedGroup();
  host.reset();
  failing::sayOutcomes();
  return failing::wrong == 0 ? 0 : 1;
}
