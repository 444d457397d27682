// Prints a host's answers about devices without an IOMMU, and about the other parameters of VFIO's modules,
// one on each line, so that two hosts can be compared with diff: `noiommu_trace soft` here, `noiommu_trace
// kernel` in the guest with IOMMU=virtio, as root. There, an IOMMU translates the edu at 0000:00:10.0, and no
// IOMMU translates the two at 0000:03:01.0 and 0000:03:02.0.
#include <fcntl.h>
#include <linux/capability.h>
#include <sys/mman.h>

#include <algorithm>
#include <cerrno>
#include <string>
#include <vector>

#include "../../native/uapi/iommufd.h"
#include "group_harness.h"

using namespace vfio;
using namespace vfio::trace;
using namespace vfio::uapi;

namespace {

constexpr const char* kTopology = R"({
  "iommus": [{ "kind": "virtio" }],
  "devices": [
    { "model": "edu", "bdf": "0000:00:10.0" },
    { "model": "root-port", "bdf": "0000:00:11.0" },
    { "model": "root-port", "bdf": "0000:00:12.0" },
    { "model": "bridge", "behind": "0000:00:12.0", "slot": 0, "iommu": null },
    { "model": "edu", "behind": "0000:02:00.0", "slot": 1 },
    { "model": "edu", "behind": "0000:02:00.0", "slot": 2 }
  ]
})";

const std::string parameter = "/sys/module/vfio/parameters/enable_unsafe_noiommu_mode";

std::string text(const std::string& path) {
  const int fd = host->open(path.c_str(), O_RDONLY);
  if (fd < 0) return answer(fd);
  std::string bytes(4096, '\0');
  const int64_t size = host->read(fd, bytes.data(), bytes.size());
  host->close(fd);
  if (size < 0) return answer(size);
  bytes.resize(static_cast<size_t>(size));
  std::ranges::replace(bytes, '\n', '|');
  return "'" + bytes + "'";
}

std::string names(const std::string& path) {
  std::vector<std::string> found;
  if (const int failed = host->list(path.c_str(), found); failed < 0) return answer(failed);
  std::ranges::sort(found);
  std::string all;
  for (const std::string& each : found) all += (all.empty() ? "" : " ") + each;
  return "'" + all + "'";
}

void allow(const char* value) { (void)put(parameter, value); }
int openIommufd() { return host->open("/dev/iommu", O_RDWR); }
std::string node(const char* bdf) { return "/dev/vfio/noiommu-" + groupNumber(bdf); }
int openFake(const char* bdf) { return host->open(node(bdf).c_str(), O_RDWR); }
int setIommu(int container, unsigned type) { return plain(container, VFIO_SET_IOMMU, type); }

void sayInfo(const char* what, int device) {
  vfio_device_info info{.argsz = sizeof info};
  const int result = call(device, VFIO_DEVICE_GET_INFO, info);
  uint32_t id = 0;
  const int64_t got = host->pread(device, &id, 4, uint64_t{7} << 40);
  say("device %s: %s flags %x regions %u irqs %u, %s %08x", what, answer(result).c_str(), info.flags,
      info.num_regions, info.num_irqs, answer(got).c_str(), id);
}

void sayWrite(const std::string& path, const char* value) {
  std::string shown = value;
  std::ranges::replace(shown, '\n', '|');
  const int64_t wrote = put(path, value);
  say("write '%s': %s, then %s", shown.c_str(), answer(wrote).c_str(), text(path).c_str());
}

void theParameter() {
  say("==== the parameter");
  say("at first: %s", text(parameter).c_str());
  for (const char* value : {"Y",  "N",  "1",    "0", "y\n",  "n\n", "true", "false", "on", "off",
                            "oN", "oF", "yes!", "T", "Fine", "o",   "2",    " Y",    "\n", "maybe"}) {
    sayWrite(parameter, value);
  }
  allow("N");
}

void sayGroup(const char* what, const char* bdf) {
  const std::string device = pci + "devices/" + bdf;
  const std::string group = "/sys/kernel/iommu_groups/" + groupNumber(bdf);
  say("%s: driver %s, node %s, vfio-dev %s", what,
      names(device + "/driver").find(bdf) == std::string::npos ? "none" : "has one",
      (names("/dev/vfio") + " ").find("noiommu-" + groupNumber(bdf)) == std::string::npos ? "none" : "there",
      names(device + "/vfio-dev").substr(0, 5).c_str());
  if (groupNumber(bdf) == "none") return;
  say("  name %s type %s reserved %s devices %s all %s", text(group + "/name").c_str(),
      text(group + "/type").c_str(), text(group + "/reserved_regions").c_str(),
      names(group + "/devices").c_str(), names(group).c_str());
}

void binding() {
  say("==== binding");
  const std::string device = pci + "devices/" + kFirst;
  told("override", put(device + "/driver_override", "vfio-pci\n"));
  told("probe", put(pci + "drivers_probe", kFirst));
  told("bind", put(pci + "drivers/vfio-pci/bind", kFirst));
  sayGroup("not allowed", kFirst);
  allow("Y");
  told("probe", put(pci + "drivers_probe", kFirst));
  sayGroup("allowed", kFirst);
  const std::string group = "/sys/kernel/iommu_groups/" + groupNumber(kFirst);
  for (const char* type : {"identity", "DMA", "auto", "nonsense"})
    say("write type %s: %s", type, answer(put(group + "/type", type)).c_str());
  say("its iommu: %s", names(device + "/iommu").c_str());
  std::vector<std::string> devices;
  (void)host->list((device + "/vfio-dev").c_str(), devices);
  for (const std::string& each : devices) {
    say("vfio-dev: %s, dev %s, uevent %s, node %s", each.substr(0, 4).c_str(),
        text(device + "/vfio-dev/" + each + "/dev").c_str(),
        text(device + "/vfio-dev/" + each + "/uevent").c_str(),
        answer(host->open(("/dev/vfio/devices/" + each).c_str(), O_RDWR)).c_str());
  }
  opened("the node of a real group", openGroup(kFirst));
  const std::string shown = "noiommu-" + groupNumber(kFirst);
  say("in the class: %s, has dev: %s",
      names("/sys/class/vfio/" + shown).find("uevent") == std::string::npos ? "no" : "yes",
      text("/sys/class/vfio/" + shown + "/dev").find(':') == std::string::npos ? "no" : "yes");
  bindTo(kSecond, "vfio-pci");
  sayGroup("the other", kSecond);
  say("one group: %s", groupNumber(kFirst) == groupNumber(kSecond) ? "yes" : "no");
  sayGroup("one with an IOMMU", kAlone);
  const std::string number = groupNumber(kFirst);
  bindTo(kFirst, "");
  sayGroup("unbound", kFirst);
  say("its group: %s, node %s", names("/sys/kernel/iommu_groups/" + number).c_str(),
      answer(host->open(("/dev/vfio/noiommu-" + number).c_str(), O_RDWR)).c_str());
  bindTo(kFirst, "vfio-pci");
  say("bound again, the same number: %s", groupNumber(kFirst) == number ? "yes" : "no");
  bindTo(kSecond, "pci-stub");
  sayGroup("with pci-stub", kSecond);
  bindTo(kSecond, "vfio-pci");
  allow("N");
  sayGroup("not allowed any more", kFirst);
  int fd = opened("open", openFake(kFirst));
  shut(fd);
  allow("Y");
}

void containers() {
  say("==== a container");
  int container = openContainer();
  sayExtensions("alone", container);
  allow("N");
  sayExtensions("alone, not allowed", container);
  allow("Y");
  for (const unsigned type : {1U, 8U})
    say("set iommu %u alone: %s", type, answer(setIommu(container, type)).c_str());
  int group = opened("group", openFake(kFirst));
  opened("group again", openFake(kFirst));
  sayStatus("alone", group);
  told("device alone", deviceOf(group, kFirst));
  told("set", setContainer(group, container));
  sayStatus("set", group);
  told("set again", setContainer(group, container));
  sayExtensions("with a group", container);
  told("device without back end", deviceOf(group, kFirst));
  told("map without back end", plain(container, VFIO_IOMMU_MAP_DMA));
  for (const unsigned type : {0U, 1U, 3U, 4U, 6U, 7U, 9U, 10U, 99U})
    say("set iommu %u: %s", type, answer(setIommu(container, type)).c_str());
  allow("N");
  sayExtensions("with a group, not allowed", container);
  told("set iommu 8, not allowed", setIommu(container, 8));
  allow("Y");
  told("set iommu 8", setIommu(container, 8));
  told("set iommu 8 again", setIommu(container, 8));
  told("set iommu 1", setIommu(container, 1));
  sayExtensions("set", container);
  allow("N");
  sayExtensions("set, not allowed", container);
  allow("Y");
  told("version", plain(container, VFIO_GET_API_VERSION));
  for (const uint32_t request : {VFIO_IOMMU_GET_INFO, VFIO_IOMMU_MAP_DMA, VFIO_IOMMU_UNMAP_DMA,
                                 VFIO_IOMMU_DIRTY_PAGES, VFIO_IOMMU_ENABLE, uint32_t{0x1234}})
    say("request %x: %s", request, answer(plain(container, request)).c_str());
  told("device of the other group", deviceOf(group, kSecond));
  int device = opened("device", deviceOf(group, kFirst));
  sayInfo("first", device);
  int again = opened("device again", deviceOf(group, kFirst));
  sayInfo("again", again);
  int iommufd = openIommufd();
  told("bind", bindCdev(device, iommufd));
  vfio_device_attach_iommufd_pt attach{.argsz = 12, .pt_id = 1};
  told("attach", call(device, VFIO_DEVICE_ATTACH_IOMMUFD_PT, attach));
  shut(iommufd);
  told("unset", plain(group, VFIO_GROUP_UNSET_CONTAINER));
  say("-- a second group");
  int other = opened("group", openFake(kSecond));
  sayStatus("the other", other);
  told("set", setContainer(other, container));
  int second = opened("device", deviceOf(other, kSecond));
  sayInfo("second", second);
  sayHotReset("one group", device, {group}, 1);
  sayHotReset("both groups", device, {group, other}, 2);
  shut(second);
  shut(other);
  bindTo(kSecond, "");
  sayHotReset("one in no group", device, {group}, 1);
  bindTo(kSecond, "vfio-pci");
  say("-- gone");
  shut(container);
  sayInfo("container closed", device);
  shut(group);
  opened("group, device open", openFake(kFirst));
  shut(device);
  shut(again);
  group = opened("group, device closed", openFake(kFirst));
  sayStatus("anew", group);
  container = openContainer();
  told("set", setContainer(group, container));
  told("set iommu 8", setIommu(container, 8));
  told("unset", plain(group, VFIO_GROUP_UNSET_CONTAINER));
  sayExtensions("unset", container);
  told("set iommu 8, unset", setIommu(container, 8));
  told("unset again", plain(group, VFIO_GROUP_UNSET_CONTAINER));
  shut(group);
  shut(container);
}

void mixing() {
  say("==== both kinds");
  int container = openContainer();
  int real = opened("real", openGroup(kAlone));
  int fake = opened("fake", openFake(kFirst));
  told("set real", setContainer(real, container));
  told("set fake", setContainer(fake, container));
  sayExtensions("real", container);
  told("set iommu 8", setIommu(container, 8));
  told("unset real", plain(real, VFIO_GROUP_UNSET_CONTAINER));
  told("set fake", setContainer(fake, container));
  told("set real", setContainer(real, container));
  sayStatus("real", real);
  told("set iommu 3", setIommu(container, 3));
  told("set iommu 8", setIommu(container, 8));
  told("set real, with a back end", setContainer(real, container));
  shut(fake);
  sayExtensions("left", container);
  told("set real", setContainer(real, container));
  sayExtensions("real again", container);
  shut(real);
  shut(container);
}

void sayCompat(const char* what, int iommufd) {
  iommu_vfio_ioas request{.size = sizeof request, .op = IOMMU_VFIO_IOAS_GET};
  const int result = call(iommufd, IOMMU_VFIO_IOAS, request);
  say("compat ioas %s: %s id %u", what, answer(result).c_str(), request.ioas_id);
}

int setCompat(int iommufd, uint32_t ioas) {
  iommu_vfio_ioas request{.size = sizeof request, .ioas_id = ioas, .op = IOMMU_VFIO_IOAS_SET};
  if (ioas == 0) request.op = IOMMU_VFIO_IOAS_CLEAR;
  return call(iommufd, IOMMU_VFIO_IOAS, request);
}

uint32_t allocate(int iommufd) {
  iommu_ioas_alloc request{.size = sizeof request};
  told("ioas", call(iommufd, IOMMU_IOAS_ALLOC, request));
  return request.out_ioas_id;
}

void onIommufd() {
  say("==== an iommufd for a container");
  int iommufd = openIommufd();
  sayExtensions("alone", iommufd);
  told("set iommu 8 alone", setIommu(iommufd, 8));
  int fake = openFake(kFirst);
  int real = openGroup(kAlone);
  told("set fake", setContainer(fake, iommufd));
  sayStatus("set", fake);
  sayCompat("set", iommufd);
  sayExtensions("set", iommufd);
  for (const unsigned type : {0U, 1U, 3U, 6U, 8U, 8U})
    say("set iommu %u: %s", type, answer(setIommu(iommufd, type)).c_str());
  for (const uint32_t request : {VFIO_IOMMU_GET_INFO, VFIO_IOMMU_MAP_DMA, VFIO_IOMMU_UNMAP_DMA,
                                 VFIO_IOMMU_DIRTY_PAGES, uint32_t{0x1234}})
    say("request %x: %s", request, answer(plain(iommufd, request)).c_str());
  told("set real", setContainer(real, iommufd));
  int device = opened("device", deviceOf(fake, kFirst));
  sayInfo("first", device);
  int again = opened("device again", deviceOf(fake, kFirst));
  told("bind", bindCdev(device, iommufd));
  sayHotReset("one group", device, {fake}, 1);
  const uint32_t ioas = allocate(iommufd);
  told("compat ioas", setCompat(iommufd, ioas));
  told("set iommu 3", setIommu(iommufd, 3));
  told("set real", setContainer(real, iommufd));
  int third = opened("device once more", deviceOf(fake, kFirst));
  shut(third);
  shut(device);
  shut(again);
  told("device, with an ioas", deviceOf(fake, kFirst));
  told("unset", plain(fake, VFIO_GROUP_UNSET_CONTAINER));
  told("set fake, with an ioas", setContainer(fake, iommufd));
  told("clear", setCompat(iommufd, 0));
  told("set fake", setContainer(fake, iommufd));
  device = opened("device", deviceOf(fake, kFirst));
  told("unset, device open", plain(fake, VFIO_GROUP_UNSET_CONTAINER));
  sayInfo("unset", device);
  told("device, unset", deviceOf(fake, kFirst));
  shut(device);
  told("set real", setContainer(real, iommufd));
  shut(iommufd);
  say("-- a real one first");
  iommufd = openIommufd();
  told("set real", setContainer(real, iommufd));
  told("set fake", setContainer(fake, iommufd));
  sayCompat("real", iommufd);
  told("unset real", plain(real, VFIO_GROUP_UNSET_CONTAINER));
  told("set fake", setContainer(fake, iommufd));
  shut(iommufd);
  shut(fake);
  shut(real);
}

void withoutCapability() {
  say("==== without CAP_SYS_RAWIO");
  const auto without = [](const char* what, auto&& function) {
    setCapability(CAP_SYS_RAWIO, false);
    told(what, function());
    setCapability(CAP_SYS_RAWIO, true);
  };
  int group = -1;
  without("open", [&] { return openFake(kFirst); });
  group = openFake(kFirst);
  without("open while open", [&] { return openFake(kFirst); });
  int container = openContainer();
  int iommufd = openIommufd();
  without("set", [&] { return setContainer(group, container); });
  told("set", setContainer(group, container));
  without("set again", [&] { return setContainer(group, container); });
  without("set iommu 3", [&] { return setIommu(container, 3); });
  without("set iommu 8", [&] { return setIommu(container, 8); });
  without("device without back end", [&] { return deviceOf(group, kFirst); });
  told("set iommu 8", setIommu(container, 8));
  without("device", [&] { return deviceOf(group, kFirst); });
  int device = opened("device", deviceOf(group, kFirst));
  int again = -1;
  without("device again", [&] { return (again = deviceOf(group, kFirst)) < 0 ? again : 0; });
  shut(again);
  shut(device);
  told("unset", plain(group, VFIO_GROUP_UNSET_CONTAINER));
  without("set iommufd", [&] { return setContainer(group, iommufd); });
  without("set iommu 3", [&] { return setIommu(iommufd, 3); });
  without("set iommu 8", [&] { return setIommu(iommufd, 8); });
  without("device by iommufd", [&] { return deviceOf(group, kFirst); });
  device = opened("device by iommufd", deviceOf(group, kFirst));
  without("device again", [&] { return (again = deviceOf(group, kFirst)) < 0 ? again : 0; });
  shut(again);
  shut(device);
  shut(group);
  shut(container);
  shut(iommufd);
}

void leaving() {
  say("==== drivers that go");
  int group = openFake(kFirst);
  int container = openContainer();
  told("set", setContainer(group, container));
  told("set iommu 8", setIommu(container, 8));
  const std::string number = groupNumber(kFirst);
  bindTo(kFirst, "");
  sayStatus("gone", group);
  told("device", deviceOf(group, kFirst));
  told("set", setContainer(group, container));
  told("unset", plain(group, VFIO_GROUP_UNSET_CONTAINER));
  sayExtensions("gone", container);
  bindTo(kFirst, "vfio-pci");
  say("the same number: %s", groupNumber(kFirst) == number ? "yes" : "no");
  sayStatus("of old", group);
  int anew = opened("open anew", openFake(kFirst));
  told("set anew", setContainer(anew, container));
  shut(anew);
  shut(group);
  shut(container);
  bindTo(kFirst, "");
  bindTo(kSecond, "");
  allow("N");
}

// Interrupts of 0000:00:10.0: its IOMMU does not isolate them.
void interrupts() {
  say("==== interrupts that are not isolated");
  const std::string type1 = "/sys/module/vfio_iommu_type1/parameters/allow_unsafe_interrupts";
  const std::string iommufds = "/sys/module/iommufd/parameters/allow_unsafe_interrupts";
  int container = openContainer();
  int group = openGroup(kAlone);
  told("set", setContainer(group, container));
  for (const char* value : {"N", "maybe", "Y"}) {
    sayWrite(type1, value);
    told("set iommu 3", setIommu(container, 3));
    sayExtensions("then", container);
  }
  told("unset", plain(group, VFIO_GROUP_UNSET_CONTAINER));
  (void)put(type1, "N");
  int iommufd = openIommufd();
  told("set iommufd", setContainer(group, iommufd));
  for (const char* value : {"N", "maybe", "Y"}) {
    sayWrite(iommufds, value);
    int device = opened("device", deviceOf(group, kAlone));
    shut(device);
  }
  (void)put(iommufds, "N");
  shut(group);
  shut(iommufd);
  shut(container);
}

void mapping(int container, uint64_t memory, uint64_t page) {
  vfio_iommu_type1_dma_map request{sizeof request, VFIO_DMA_MAP_FLAG_READ, memory, (16 + page) << 12, 4096};
  say("  map %llu: %s", static_cast<unsigned long long>(page),
      answer(call(container, VFIO_IOMMU_MAP_DMA, request)).c_str());
}

void sayAvailable(int container) {
  std::vector<unsigned char> bytes(256);
  vfio_iommu_type1_info head{.argsz = 256};
  std::memcpy(bytes.data(), &head, sizeof head);
  const int result = plain(container, VFIO_IOMMU_GET_INFO, reinterpret_cast<uint64_t>(bytes.data()));
  std::memcpy(&head, bytes.data(), sizeof head);
  uint32_t available = 0;
  for (uint32_t at = head.cap_offset; result == 0 && at != 0 && at < 200;) {
    vfio_info_cap_header capability{};
    std::memcpy(&capability, bytes.data() + at, sizeof capability);
    if (capability.id == VFIO_IOMMU_TYPE1_INFO_DMA_AVAIL)
      std::memcpy(&available, bytes.data() + at + sizeof capability, sizeof available);
    at = capability.next;
  }
  say("  info %s: %u available", answer(result).c_str(), available);
}

void entryLimit() {
  say("==== how many mappings");
  const std::string limit = "/sys/module/vfio_iommu_type1/parameters/dma_entry_limit";
  const std::string unsafe = "/sys/module/vfio_iommu_type1/parameters/allow_unsafe_interrupts";
  say("at first: %s", text(limit).c_str());
  for (const char* value : {"7", "0x10\n", "010", "+3", "-1", " 4", "5 ", "", "08", "0x", "none",
                            "4294967295", "4294967296", "99999999999999999999999", "65535"}) {
    sayWrite(limit, value);
  }
  (void)put(unsafe, "Y");
  const int64_t at = host->mmap(nullptr, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  const auto memory = static_cast<uint64_t>(at);
  int group = openGroup(kAlone);
  for (const char* value : {"2", "0"}) {
    say("limit %s", value);
    int container = openContainer();
    told("set", setContainer(group, container));
    (void)put(limit, value);
    told("set iommu 3", setIommu(container, 3));
    (void)put(limit, "65535");
    sayAvailable(container);
    for (uint64_t page = 0; page < 3; ++page) mapping(container, memory, page);
    sayAvailable(container);
    vfio_iommu_type1_dma_unmap request{sizeof request, 0, 16 << 12, 4096};
    told("  unmap 0", call(container, VFIO_IOMMU_UNMAP_DMA, request));
    sayAvailable(container);
    mapping(container, memory, 2);
    told("unset", plain(group, VFIO_GROUP_UNSET_CONTAINER));
    shut(container);
  }
  shut(group);
  (void)put(unsafe, "N");
}

}  // namespace

int main(int, char** arguments) {
  chooseHost(arguments, kTopology);
  bindTo(kAlone, "vfio-pci");
  theParameter();
  binding();
  containers();
  mixing();
  onIommufd();
  withoutCapability();
  leaving();
  interrupts();
  entryLimit();
  host.reset();
  failing::sayOutcomes();
  return failing::wrong == 0 ? 0 : 1;
}
