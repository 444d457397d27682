// The groups that follow from access control services (ACS), and requests between the members of a group.
#include <fcntl.h>

#include <algorithm>
#include <array>

#include "../../native/uapi/vfio.h"
#include "iommufd_harness.h"

namespace vfio::soft::check {
namespace {

std::unique_ptr<Host> machine(const std::string& devices) {
  return std::make_unique<Host>(std::make_shared<mm::Memory>(),
                                HostOptions{.topology = "{ \"devices\": [" + devices + "] }"});
}

// ---------------------------------------------------------------- groups

// The guest's machine, with more switches, ports and functions that QEMU was told to add.
constexpr const char* kGuest = R"(
  { "model": "host-bridge", "bdf": "0000:00:00.0" },
  { "model": "ivshmem", "bdf": "0000:00:04.0" }, { "model": "ivshmem", "bdf": "0000:00:05.0" },
  { "model": "edu", "bdf": "0000:00:10.0" },
  { "model": "root-port", "bdf": "0000:00:11.0" }, { "model": "root-port", "bdf": "0000:00:12.0" },
  { "model": "ivshmem", "bdf": "0000:00:13.0" }, { "model": "ivshmem", "bdf": "0000:00:14.0" },
  { "model": "root-port", "bdf": "0000:00:15.0" },
  { "model": "root-port", "bdf": "0000:00:16.0", "acs": false },
  { "model": "root-port", "bdf": "0000:00:17.0", "acs": false },
  { "model": "root-port", "bdf": "0000:00:18.0" },
  { "model": "root-port", "bdf": "0000:00:19.0", "acs": false },
  { "model": "root-port", "bdf": "0000:00:19.1", "acs": false },
  { "model": "root-port", "bdf": "0000:00:1a.0" }, { "model": "root-port", "bdf": "0000:00:1a.1" },
  { "model": "edu", "bdf": "0000:00:1b.0" }, { "model": "edu", "bdf": "0000:00:1b.1" },
  { "model": "bridge", "bdf": "0000:00:1c.0" },
  { "model": "edu", "bdf": "0000:00:1f.0" }, { "model": "edu", "bdf": "0000:00:1f.2" },
  { "model": "edu", "bdf": "0000:00:1f.3" },
  { "model": "passive", "behind": "0000:00:11.0", "slot": 0, "vendor": 1, "device": 1, "classCode": 0 },
  { "model": "bridge", "behind": "0000:00:12.0", "slot": 0 },
  { "model": "edu", "behind": "0000:02:00.0", "slot": 1 }, { "model": "edu", "behind": "0000:02:00.0", "slot": 2 },
  { "model": "upstream-port", "behind": "0000:00:15.0", "slot": 0 },
  { "model": "downstream-port", "behind": "0000:04:00.0", "slot": 0, "acs": false },
  { "model": "downstream-port", "behind": "0000:04:00.0", "slot": 1, "acs": false },
  { "model": "edu", "behind": "0000:05:00.0", "slot": 0 }, { "model": "edu", "behind": "0000:05:01.0", "slot": 0 },
  { "model": "upstream-port", "behind": "0000:00:16.0", "slot": 0 },
  { "model": "downstream-port", "behind": "0000:08:00.0", "slot": 0, "acs": false },
  { "model": "downstream-port", "behind": "0000:08:00.0", "slot": 1, "acs": false },
  { "model": "passive", "behind": "0000:09:00.0", "slot": 0, "vendor": 1, "device": 1, "classCode": 0 },
  { "model": "passive", "behind": "0000:09:01.0", "slot": 0, "vendor": 1, "device": 1, "classCode": 0 },
  { "model": "passive", "behind": "0000:00:17.0", "slot": 0, "vendor": 1, "device": 1, "classCode": 0 },
  { "model": "passive", "behind": "0000:00:18.0", "slot": 0, "vendor": 1, "device": 1, "classCode": 0 },
  { "model": "passive", "behind": "0000:00:18.0", "slot": 0, "function": 1, "vendor": 1, "device": 1,
    "classCode": 0 },
  { "model": "passive", "behind": "0000:00:19.0", "slot": 0, "vendor": 1, "device": 1, "classCode": 0 },
  { "model": "passive", "behind": "0000:00:19.1", "slot": 0, "vendor": 1, "device": 1, "classCode": 0 },
  { "model": "passive", "behind": "0000:00:1a.0", "slot": 0, "vendor": 1, "device": 1, "classCode": 0 },
  { "model": "passive", "behind": "0000:00:1a.1", "slot": 0, "vendor": 1, "device": 1, "classCode": 0 },
  { "model": "edu", "behind": "0000:00:1c.0", "slot": 1 },
  { "model": "edu", "behind": "0000:00:1c.0", "slot": 2 },
  { "model": "edu", "behind": "0000:00:1c.0", "slot": 2, "function": 1 }
)";

// The groups that Linux 6.12 made for it.
constexpr std::array<const char*, 26> kGroups{
    "0000:00:00.0",
    "0000:00:04.0",
    "0000:00:05.0",
    "0000:00:10.0",
    "0000:00:11.0",
    "0000:00:12.0",
    "0000:00:13.0",
    "0000:00:14.0",
    "0000:00:15.0",
    "0000:00:16.0 0000:08:00.0 0000:09:00.0 0000:09:01.0 0000:0a:00.0 0000:0b:00.0",
    "0000:00:17.0 0000:0c:00.0",
    "0000:00:18.0",
    "0000:00:19.0 0000:00:19.1 0000:0e:00.0 0000:0f:00.0",
    "0000:00:1a.0",
    "0000:00:1a.1",
    "0000:00:1b.0 0000:00:1b.1",
    "0000:00:1c.0 0000:12:01.0 0000:12:02.0 0000:12:02.1",
    "0000:00:1f.0 0000:00:1f.2 0000:00:1f.3",
    "0000:01:00.0",
    "0000:02:00.0 0000:03:01.0 0000:03:02.0",
    "0000:04:00.0",
    "0000:05:00.0 0000:06:00.0",
    "0000:05:01.0 0000:07:00.0",
    "0000:0d:00.0 0000:0d:00.1",
    "0000:10:00.0",
    "0000:11:00.0"};

std::string members(Host& host, const std::string& group) {
  std::vector<std::string> list;
  if (host.list(("/sys/kernel/iommu_groups/" + group + "/devices").c_str(), list) != 0)
    return "no such group";
  std::sort(list.begin(), list.end());
  std::string text;
  for (const auto& name : list) text += (text.empty() ? "" : " ") + name;
  return text;
}

// The extended capability, as a dump of config space shows it: the header, and the words capability and
// control.
std::string extended(Host& host, const std::string& bdf) {
  const int fd = host.open(("/sys/bus/pci/devices/" + bdf + "/config").c_str(), O_RDONLY);
  std::array<uint32_t, 2> words{};
  if (host.pread(fd, words.data(), sizeof words, 0x100) != sizeof words) return "none";
  host.close(fd);
  std::array<char, 32> text;
  std::snprintf(text.data(), text.size(), "%08x %08x", words[0], words[1]);
  return text.data();
}

void groups() {
  const auto host = machine(kGuest);
  for (size_t group = 0; group < kGroups.size(); ++group) {
    const std::string number = std::to_string(group);
    claim("A5: group " + number + " is the kernel's", std::string(kGroups.at(group)), members(*host, number));
  }
  std::vector<std::string> all;
  claim("... and there is no other", 0, host->list("/sys/kernel/iommu_groups", all));
  claim("... and there is no other", kGroups.size(), all.size());
  const auto isolated = machine(R"(
    { "model": "root-port", "bdf": "0000:00:01.0" },
    { "model": "passive", "behind": "0000:00:01.0", "slot": 0, "vendor": 1, "device": 1, "classCode": 0,
      "acs": true },
    { "model": "passive", "behind": "0000:00:01.0", "slot": 0, "function": 1, "vendor": 1, "device": 1,
      "classCode": 0, "acs": true })");
  claim("functions with ACS are alone", std::string("0000:01:00.1"), members(*isolated, "2"));
  // As a card reader whose functions send requests in each other's name.
  const auto joined = machine(R"(
    { "model": "root-port", "bdf": "0000:00:1c.0" },
    { "model": "edu", "bdf": "0000:01:00.0", "behind": "0000:00:1c.0", "group": 5 },
    { "model": "root-port", "bdf": "0000:00:1c.1" },
    { "model": "edu", "bdf": "0000:02:00.0", "behind": "0000:00:1c.1", "group": 5 })");
  claim("devices with one group number share a group", std::string("0000:01:00.0 0000:02:00.0"),
        members(*joined, "5"));
  // As the chipsets of Intel: four functions that the kernel can't keep apart, and a network controller for
  // which it has a quirk.
  const auto quirk = machine(R"(
    { "model": "passive", "bdf": "0000:00:1f.0", "vendor": 1, "device": 1, "classCode": 0, "express": false },
    { "model": "passive", "bdf": "0000:00:1f.3", "vendor": 1, "device": 1, "classCode": 0, "express": false },
    { "model": "passive", "bdf": "0000:00:1f.6", "vendor": 1, "device": 1, "classCode": 0, "express": false,
      "acs": true })");
  claim("conventional functions share a group", std::string("0000:00:1f.0 0000:00:1f.3"),
        members(*quirk, "0"));
  claim("... but for the one that a quirk isolates", std::string("0000:00:1f.6"), members(*quirk, "1"));
  claim("... which has no capability", std::string("none"), extended(*quirk, "0000:00:1f.6"));
}

void capability() {
  const auto host = machine(kGuest);
  claim("ACS shows in config space, turned on", std::string("0001000d 001d005d"),
        extended(*host, "0000:00:11.0"));
  claim("... where there is any", std::string("00000000 00000000"), extended(*host, "0000:00:17.0"));
  claim("... and not in a conventional one", std::string("none"), extended(*host, "0000:00:1b.0"));
}

// ---------------------------------------------------------------- peer to peer

class Card {
 public:
  Card(Host& host, const std::string& node, int iommufd) : host_(host) {
    fd_ = host.open(("/dev/vfio/devices/" + node).c_str(), O_RDWR);
    uapi::vfio_device_bind_iommufd bind{.argsz = sizeof bind, .iommufd = iommufd};
    bound = host.ioctl(fd_, uapi::VFIO_DEVICE_BIND_IOMMUFD, reinterpret_cast<uintptr_t>(&bind)) == 0;
    command(0x0006);  // memory, bus master
  }
  ~Card() { host_.close(fd_); }
  Card(const Card&) = delete;
  Card& operator=(const Card&) = delete;

  void command(uint16_t value) { (void)host_.pwrite(fd_, &value, sizeof value, (uint64_t{7} << 40) + 4); }
  uint32_t read(uint64_t offset) {
    uint32_t value = 0;
    return host_.pread(fd_, &value, sizeof value, offset) == sizeof value ? value : ~0U;
  }
  void write(uint64_t offset, uint32_t value) { (void)host_.pwrite(fd_, &value, sizeof value, offset); }
  // Starts a transfer between the device's buffer and a bus address.
  void move(uint64_t source, uint64_t destination, uint32_t size, uint32_t run) {
    write(0x80, static_cast<uint32_t>(source));
    write(0x84, 0);
    write(0x88, static_cast<uint32_t>(destination));
    write(0x8c, 0);
    write(0x90, size);
    write(0x98, run);
    host_.settle();
  }

  bool bound = false;

 private:
  Host& host_;
  int fd_;
};

constexpr uint32_t kTarget = 0x0e000000;  // the address of the second edu's BAR; edu's DMA has 28 bits
constexpr uint32_t kBuffer = 0x40000;

// The outcome of a request of the first edu to the second one's registers: "reached", or the reason of the
// fault.
std::string request(const std::string& devices, bool decoding = true) {
  const auto host = machine(devices);
  const int iommufd = host->open("/dev/iommu", O_RDWR);
  Card first(*host, "vfio0", iommufd);
  Card second(*host, "vfio1", iommufd);
  if (!first.bound || !second.bound) return "not bound";
  if (!decoding) second.command(0x0004);
  first.move(kTarget, kBuffer, 4, 1);      // the second edu's identification ...
  first.move(kBuffer, kTarget + 4, 4, 3);  // ... goes into its liveness check, which inverts it
  second.command(0x0006);
  const auto faults = host->takeFaults();
  const uint32_t inverted = second.read(4);
  if (inverted == ~0x010000edU && faults.empty()) return "reached";
  if (inverted != 0) return "something else was written";
  return faults.size() == 2 ? faults[0].reason : "no fault";
}

std::string edu(const std::string& where, bool target) {
  return R"({ "model": "edu", )" + where + R"(, "driver": "vfio-pci", "addresses": [)" +
         (target ? "\"0x0e000000\"" : "\"0x0d000000\"") + "] }";
}

std::string inSwitch(bool rootAcs, bool portAcs) {
  const auto word = [](bool value) { return std::string(value ? "true" : "false"); };
  return R"({ "model": "root-port", "bdf": "0000:00:01.0", "acs": )" + word(rootAcs) + R"( },
    { "model": "upstream-port", "behind": "0000:00:01.0", "slot": 0 },
    { "model": "downstream-port", "behind": "0000:01:00.0", "slot": 0, "acs": )" +
         word(portAcs) + R"( },
    { "model": "downstream-port", "behind": "0000:01:00.0", "slot": 1, "acs": )" +
         word(portAcs) + " }," + edu(R"("behind": "0000:02:00.0", "slot": 0)", false) + "," +
         edu(R"("behind": "0000:02:01.0", "slot": 0)", true);
}

void peers() {
  const std::string bus = R"({ "model": "bridge", "bdf": "0000:00:01.0" },)" +
                          edu(R"("behind": "0000:00:01.0", "slot": 0)", false) + "," +
                          edu(R"("behind": "0000:00:01.0", "slot": 1)", true);
  const std::string reached = "reached";
  const std::string blocked = "blocked";
  claim("E2: neighbours on a conventional bus reach each other", reached, request(bus));
  claim("E2: ... if they answer", blocked, request(bus, false));
  claim("E2: functions of a device without ACS reach each other", reached,
        request(edu(R"("bdf": "0000:00:01.0")", false) + "," + edu(R"("bdf": "0000:00:01.1")", true)));
  claim("E2: devices of other groups are never reached", blocked,
        request(edu(R"("bdf": "0000:00:01.0")", false) + "," + edu(R"("bdf": "0000:00:02.0")", true)));
  claim("E2: a switch whose ports have no ACS lets requests through inside a group", reached,
        request(inSwitch(false, false)));
  claim("E2: ... with ACS it sends them to the IOMMU", blocked, request(inSwitch(false, true)));
  claim("E2: ... and where the kernel makes two groups of it they never meet", blocked,
        request(inSwitch(true, false)));
}

// A transfer that begins in memory and ends in a neighbour's BAR is split where the BAR begins.
void border() {
  const auto host = machine(R"({ "model": "bridge", "bdf": "0000:00:01.0" },)" +
                            edu(R"("behind": "0000:00:01.0", "slot": 0)", false) + "," +
                            edu(R"("behind": "0000:00:01.0", "slot": 1)", true));
  const int iommufd = host->open("/dev/iommu", O_RDWR);
  Card first(*host, "vfio0", iommufd);
  Card second(*host, "vfio1", iommufd);
  first.move(kTarget - 8, kBuffer, 12, 1);
  const auto faults = host->takeFaults();
  claim("E2: what is below a neighbour's BAR goes to the IOMMU",
        faults.size() == 1 && faults[0].iova == kTarget - 8 && faults[0].length == 8);
  first.move(kBuffer + 8, kTarget + 4, 4, 3);
  claim("E2: ... and the rest reaches it", ~0x010000edU, second.read(4));
}

}  // namespace
}  // namespace vfio::soft::check

int main() {
  using namespace vfio::soft::check;
  groups();
  capability();
  peers();
  border();
  return failures == 0 ? 0 : 1;
}
