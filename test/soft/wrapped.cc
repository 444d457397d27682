// A host behind another object. A program uses a host through Backend and Controls only. So an object that
// implements both, records each call and passes it on, records all that a program does to the machine. The
// same program runs on a host and on a wrapped host, and gets the same answers. Prints its claims; exits with
// 1 if one does not hold.
#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <memory>
#include <set>
#include <stdexcept>
#include <string>
#include <vector>

#include "../../native/backend.h"
#include "../../native/controls.h"
#include "../../native/soft/host/host.h"
#include "../../native/soft/mm/memory.h"
#include "../../native/uapi/iommufd.h"
#include "../../native/uapi/vfio.h"

using namespace vfio;
using namespace vfio::uapi;

namespace {

bool failed = false;

void claim(bool holds, const std::string& text) {
  std::printf("%s %s\n", holds ? "ok  " : "FAIL", text.c_str());
  failed |= !holds;
}

// Passes each call on to another host, and keeps the names of the calls.
class Recorder final : public Backend, public Controls {
 public:
  explicit Recorder(std::unique_ptr<Backend> host) : host_(std::move(host)) {}
  [[nodiscard]] const std::vector<std::string>& calls() const { return calls_; }

  Controls* controls() override { return this; }
  int open(const char* path, int flags) override { return seen("open").open(path, flags); }
  int close(int fd) override { return seen("close").close(fd); }
  int dup(int fd) override { return seen("dup").dup(fd); }
  int ioctl(int fd, unsigned long request, uintptr_t argument) override {
    return seen("ioctl").ioctl(fd, request, argument);
  }
  int64_t read(int fd, void* buffer, size_t size) override { return seen("read").read(fd, buffer, size); }
  int64_t write(int fd, const void* buffer, size_t size) override {
    return seen("write").write(fd, buffer, size);
  }
  int64_t pread(int fd, void* buffer, size_t size, uint64_t offset) override {
    return seen("pread").pread(fd, buffer, size, offset);
  }
  int64_t pwrite(int fd, const void* buffer, size_t size, uint64_t offset) override {
    return seen("pwrite").pwrite(fd, buffer, size, offset);
  }
  int eventfd() override { return seen("eventfd").eventfd(); }
  FileKind kindOf(int fd) override { return seen("kindOf").kindOf(fd); }
  std::string nameOf(int fd) override { return seen("nameOf").nameOf(fd); }
  std::optional<bool> same(int one, int other) override { return seen("same").same(one, other); }
  int64_t mmap(void* hint, size_t length, int protection, int flags, int fd, uint64_t offset) override {
    return seen("mmap").mmap(hint, length, protection, flags, fd, offset);
  }
  int munmap(void* address, size_t length) override { return seen("munmap").munmap(address, length); }
  int64_t readlink(const char* path, char* buffer, size_t size) override {
    return seen("readlink").readlink(path, buffer, size);
  }
  int list(const char* path, std::vector<std::string>& names) override {
    return seen("list").list(path, names);
  }
  int64_t readText(const char* path, std::string& text) override {
    return seen("readText").readText(path, text);
  }
  int ownership(const char* path, Ownership& out) override { return seen("ownership").ownership(path, out); }
  int own(const char* path, uint32_t uid, uint32_t mode) override { return seen("own").own(path, uid, mode); }
  uint32_t user() const override { return seen("user").user(); }
  int openers(const char* path, std::vector<int>& pids) override {
    return seen("openers").openers(path, pids);
  }
  int descriptors(const char* path, std::vector<int>& fds) override {
    return seen("descriptors").descriptors(path, fds);
  }
  uint64_t life(const std::string& bdf) override { return seen("life").life(bdf); }
  std::string release() const override { return seen("release").release(); }
  uint64_t pinned() const override { return seen("pinned").pinned(); }
  int dmaOwner(int group, DmaOwner& out) override { return seen("dmaOwner").dmaOwner(group, out); }
  bool trapped(const void* mapping) const override { return seen("trapped").trapped(mapping); }
  int registerRead(const void* address, unsigned width, uint64_t& value) override {
    return seen("registerRead").registerRead(address, width, value);
  }
  int registerWrite(void* address, unsigned width, uint64_t value) override {
    return seen("registerWrite").registerWrite(address, width, value);
  }

  bool owns(int fd) override { return control("owns").owns(fd); }
  std::vector<DmaFault> takeFaults() override { return control("takeFaults").takeFaults(); }
  void watch() override { control("watch").watch(); }
  std::vector<Incident> takeIncidents(uint64_t& lost) override {
    return control("takeIncidents").takeIncidents(lost);
  }
  void forbidDma(uint64_t address, uint64_t length) override {
    control("forbidDma").forbidDma(address, length);
  }
  void settle() override { control("settle").settle(); }
  int step() override { return control("step").step(); }
  int advance(std::chrono::nanoseconds time) override { return control("advance").advance(time); }
  std::vector<TraceEntry> takeTrace() override { return control("takeTrace").takeTrace(); }
  std::shared_ptr<void> injectCallFault(CallFault fault) override {
    return control("injectCallFault").injectCallFault(std::move(fault));
  }
  std::shared_ptr<void> injectDeviceFault(DeviceFault fault) override {
    return control("injectDeviceFault").injectDeviceFault(std::move(fault));
  }
  void addDevice(const std::string& device, const devices::Maker& make) override {
    control("addDevice").addDevice(device, make);
  }
  int removeDevice(const std::string& bdf, uint64_t life) override {
    return control("removeDevice").removeDevice(bdf, life);
  }
  int bindDriver(const std::string& bdf, const std::string& driver, bool exclusive) override {
    return control("bindDriver").bindDriver(bdf, driver, exclusive);
  }
  void become(uint32_t uid) override { control("become").become(uid); }

 private:
  Backend& seen(const char* call) const {
    calls_.emplace_back(call);
    return *host_;
  }
  Controls& control(const char* call) { return *seen(call).controls(); }

  const std::unique_ptr<Backend> host_;
  mutable std::vector<std::string> calls_;
};

// A program that uses every call of a host: it knows the host by its two interfaces only.
class Program {
 public:
  explicit Program(Backend& host) : host_(host) {}
  void run();

  std::vector<std::string> asked;    // the calls that it made
  std::vector<std::string> answers;  // what they returned

 private:
  Backend& call(const char* name) {
    asked.emplace_back(name);
    return host_;
  }
  Controls& control(const char* name) { return *call(name).controls(); }
  void note(const std::string& what, int64_t answer) {
    answers.push_back(what + " " + std::to_string(answer));
  }

  int64_t put(const std::string& path, const std::string& text) {
    const int fd = call("open").open(path.c_str(), O_WRONLY);
    if (fd < 0) return fd;
    const int64_t size = call("write").write(fd, text.data(), text.size());
    call("close").close(fd);
    return size;
  }
  template <typename Struct>
  int request(int fd, unsigned long number, Struct& argument) {
    return call("ioctl").ioctl(fd, number, reinterpret_cast<uintptr_t>(&argument));
  }
  void setRegister(uint64_t at, uint64_t value) {
    note("register", call("pwrite").pwrite(device_, &value, sizeof value, at));
  }
  // DMA from the device's own buffer to an IOVA.
  void store(uint64_t iova, uint64_t count);

  void openAndBind();
  void mapAndTransfer();
  void mappedRegisters();
  void names();
  void hotPlug();
  void timeAndFaults();

  Backend& host_;
  int device_ = -1;
  int iommufd_ = -1;
};

const std::string kDevices = "/sys/bus/pci/devices/";
const std::string kEdu = "0000:00:10.0";
const std::string kPlugged = "0000:00:1e.0";
constexpr const char* kNode = "/dev/vfio/devices/vfio0";
constexpr uint64_t kBuffer = 0x40000;            // the device's own buffer
constexpr uint64_t kConfig = uint64_t{7} << 40;  // the offset of config space in its file
constexpr size_t kSize = 0x2000;

void Program::store(uint64_t iova, uint64_t count) {
  setRegister(0x80, kBuffer);
  setRegister(0x88, iova);
  setRegister(0x90, count);
  setRegister(0x98, 3);
  control("settle").settle();
  uint64_t lost = 0;
  for (const Incident& incident : control("takeIncidents").takeIncidents(lost))
    note(incident.fault.bdf + " incident " + incident.kind, static_cast<int64_t>(incident.fault.iova));
  for (const DmaFault& fault : control("takeFaults").takeFaults())
    note(fault.bdf + " " + fault.reason + (fault.write ? " write" : " read"),
         static_cast<int64_t>(fault.iova));
}

void Program::openAndBind() {
  control("watch").watch();
  control("forbidDma").forbidDma(kBuffer, 0);
  note("override", put(kDevices + kEdu + "/driver_override", "vfio-pci"));
  note("probe", put("/sys/bus/pci/drivers_probe", kEdu));
  device_ = call("open").open(kNode, O_RDWR);
  iommufd_ = call("open").open("/dev/iommu", O_RDWR);
  note("device", device_);
  note("iommufd", iommufd_);
  note("owns", control("owns").owns(device_));
  note("owns another", control("owns").owns(STDOUT_FILENO));
  note("kind", static_cast<int64_t>(call("kindOf").kindOf(device_)));
  note(call("nameOf").nameOf(iommufd_), 0);
  const int copy = call("dup").dup(device_);
  note("same", call("same").same(device_, copy).value_or(false));
  note("close", call("close").close(copy));
  vfio_device_bind_iommufd bind{.argsz = sizeof bind, .iommufd = iommufd_};
  note("bind", request(device_, VFIO_DEVICE_BIND_IOMMUFD, bind));
  const uint16_t memoryAndMaster = 6;
  note("command", call("pwrite").pwrite(device_, &memoryAndMaster, sizeof memoryAndMaster, kConfig + 4));
}

void Program::mapAndTransfer() {
  iommu_ioas_alloc alloc{.size = sizeof alloc};
  note("alloc", request(iommufd_, IOMMU_IOAS_ALLOC, alloc));
  vfio_device_attach_iommufd_pt attach{.argsz = sizeof attach, .pt_id = alloc.out_ioas_id};
  note("attach", request(device_, VFIO_DEVICE_ATTACH_IOMMUFD_PT, attach));
  const int64_t memory =
      call("mmap").mmap(nullptr, kSize, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  iommu_ioas_map map{.size = sizeof map,
                     .flags = IOMMU_IOAS_MAP_FIXED_IOVA | IOMMU_IOAS_MAP_READABLE | IOMMU_IOAS_MAP_WRITEABLE,
                     .ioas_id = alloc.out_ioas_id,
                     .user_va = static_cast<uint64_t>(memory),
                     .length = kSize,
                     .iova = 0x100000};
  note("map", request(iommufd_, IOMMU_IOAS_MAP, map));
  note("pinned", static_cast<int64_t>(call("pinned").pinned()));
  auto* const bytes = reinterpret_cast<uint8_t*>(memory);
  bytes[0] = 0x5a;
  store(0x100000, 16);
  note("the device has written", bytes[0]);
  store(0x900000, 16);  // no memory is mapped there
  iommu_ioas_unmap unmap{
      .size = sizeof unmap, .ioas_id = alloc.out_ioas_id, .iova = 0x100000, .length = kSize};
  note("unmap", request(iommufd_, IOMMU_IOAS_UNMAP, unmap));
  note("munmap", call("munmap").munmap(bytes, kSize));
}

void Program::mappedRegisters() {
  uint32_t identity = 0;
  note("pread", call("pread").pread(device_, &identity, sizeof identity, 0));
  note("identity", identity);
  const int64_t bar = call("mmap").mmap(nullptr, 0x1000, PROT_READ | PROT_WRITE, MAP_SHARED, device_, 0);
  auto* const registers = reinterpret_cast<uint8_t*>(bar);
  note("trapped", call("trapped").trapped(registers));
  note("registerWrite", call("registerWrite").registerWrite(registers + 4, 4, 0x0f0f0f0f));
  uint64_t value = 0;
  note("registerRead", call("registerRead").registerRead(registers + 4, 4, value));
  note("inverted", static_cast<int64_t>(value));
  note("munmap", call("munmap").munmap(registers, 0x1000));
}

void Program::names() {
  char target[256];
  const int64_t size =
      call("readlink").readlink((kDevices + kEdu + "/driver").c_str(), target, sizeof target);
  note(size < 0 ? "" : std::string(target, static_cast<size_t>(size)), size);
  std::vector<std::string> found;
  note("list", call("list").list(kDevices.c_str(), found));
  std::ranges::sort(found);
  for (const std::string& each : found) note(each, 0);
  std::string text;
  note("readText", call("readText").readText((kDevices + kEdu + "/vendor").c_str(), text));
  note(text, 0);
  const int vendor = call("open").open((kDevices + kEdu + "/vendor").c_str(), O_RDONLY);
  char letter = 0;
  note("read", call("read").read(vendor, &letter, 1));
  note("letter", letter);
  note("close", call("close").close(vendor));
  note("own", call("own").own(kNode, 1000, 0600));
  Ownership owned;
  note("ownership", call("ownership").ownership(kNode, owned));
  note("its owner", owned.uid);
  std::vector<int> numbers;
  note("openers", call("openers").openers(kNode, numbers));
  note("how many", static_cast<int64_t>(numbers.size()));
  numbers.clear();
  note("descriptors", call("descriptors").descriptors(kNode, numbers));
  for (const int each : numbers) note("descriptor", each);
  note(call("release").release(), 0);
}

void Program::timeAndFaults() {
  const int event = call("eventfd").eventfd();
  note("eventfd", event);
  ::close(event);
  note("step", control("step").step());
  note("advance", control("advance").advance(std::chrono::nanoseconds(1)));
  note("trace", static_cast<int64_t>(control("takeTrace").takeTrace().size()));
  note("calls can fail", control("injectCallFault").injectCallFault({"open", EMFILE}) != nullptr);
  int64_t struck = 0;
  const auto fault =
      control("injectDeviceFault")
          .injectDeviceFault({DeviceFault::Kind::dmaDropped, kEdu, {}, {}, [&](const char*) { ++struck; }});
  store(0x900000, 16);
  note("dropped", struck);
}

void Program::hotPlug() {
  control("addDevice").addDevice(R"({ "model": "edu", "bdf": ")" + kPlugged + R"(", "driver": null })", {});
  note("bindDriver", control("bindDriver").bindDriver(kPlugged, "nvme", false));
  char target[256];
  const std::string link = kDevices + kPlugged + "/iommu_group";
  const int64_t size = call("readlink").readlink(link.c_str(), target, sizeof target);
  const std::string group = size < 0 ? "-1" : std::string(target, static_cast<size_t>(size));
  DmaOwner owner;
  note("dmaOwner", call("dmaOwner").dmaOwner(std::stoi(group.substr(group.rfind('/') + 1)), owner));
  note("its kind", static_cast<int64_t>(owner.kind));
  const uint64_t life = call("life").life(kPlugged);
  note("removed as another", control("removeDevice").removeDevice(kPlugged, life + 1));
  note("removed", control("removeDevice").removeDevice(kPlugged, life));
  note("its life", static_cast<int64_t>(call("life").life(kPlugged)));
  const uint64_t used = call("life").life(kEdu);
  note("in use", control("removeDevice").removeDevice(kEdu, used));
  try {
    control("addDevice").addDevice("{}", {});
  } catch (const std::invalid_argument& error) {
    note(error.what(), 0);
  }
  control("become").become(1000);
  note("user", call("user").user());
}

void Program::run() {
  openAndBind();
  mapAndTransfer();
  mappedRegisters();
  names();
  timeAndFaults();
  hotPlug();
  note("close", call("close").close(device_));
  note("close", call("close").close(iommufd_));
}

std::unique_ptr<Backend> newHost() {
  return std::make_unique<soft::Host>(std::make_shared<soft::mm::Memory>(),
                                      soft::HostOptions{.kernel = {6, 12}});
}

bool contains(const std::vector<std::string>& answers, const std::string& one) {
  return std::ranges::find(answers, one) != answers.end();
}

}  // namespace

int main() {
  std::vector<std::string> expected;
  {
    const auto host = newHost();
    Program plain(*host);
    plain.run();
    expected = plain.answers;
  }
  for (const char* each :
       {"bind 0", "attach 0", "map 0", "the device has written 0", "0000:00:10.0 not mapped write 9437184",
        "0000:00:10.0 incident fault 9437184", "unmap 0", "inverted 4042322160", "bindDriver 0", "dmaOwner 0",
        "removed as another -19", "removed 0", "in use -16", "user 1000"})
    claim(contains(expected, each), std::string("on a plain host: ") + each);

  Recorder recorder(newHost());
  Program wrapped(recorder);
  wrapped.run();
  claim(wrapped.answers == expected,
        "a wrapped host gives the same " + std::to_string(expected.size()) + " answers");
  claim(
      recorder.calls() == wrapped.asked,
      "the wrapper sees each of " + std::to_string(wrapped.asked.size()) + " calls, in order, and no others");
  const std::set<std::string> calls(recorder.calls().begin(), recorder.calls().end());
  for (const char* each :
       {"owns", "takeFaults", "watch", "takeIncidents", "forbidDma", "settle", "addDevice", "removeDevice",
        "bindDriver", "become", "step", "advance", "takeTrace", "injectCallFault", "injectDeviceFault"})
    claim(calls.contains(each), std::string("the control is among them: ") + each);
  claim(calls.size() == 44, "they are 29 calls of Backend and 15 of Controls");
  return failed ? 1 : 0;
}
