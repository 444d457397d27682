// Shared code of the checks of remote models: a chip that calls functions of the check, a machine with four
// such chips, and gates at which a call waits until the check has made another call.
#pragma once

#include <fcntl.h>
#include <sys/mman.h>

#include <array>
#include <atomic>
#include <condition_variable>
#include <functional>
#include <mutex>
#include <thread>

#include "../../native/soft/topology/catalogue.h"
#include "../../native/uapi/vfio.h"
#include "machine_harness.h"

namespace vfio::soft::check {

using namespace uapi;

inline constexpr uint64_t kConfig = uint64_t{VFIO_PCI_CONFIG_REGION_INDEX} << 40;
inline constexpr uint64_t kIova = 0x10000;

// A call of a model waits here until the check lets it continue.
class Gate {
 public:
  void pass() {
    std::unique_lock hold(lock_);
    ++arrived_;
    changed_.notify_all();
    changed_.wait(hold, [this] { return open_; });
  }
  void awaitArrival(unsigned calls = 1) {
    std::unique_lock hold(lock_);
    changed_.wait(hold, [&] { return arrived_ >= calls; });
  }
  void open() {
    const std::lock_guard hold(lock_);
    open_ = true;
    changed_.notify_all();
  }

 private:
  std::mutex lock_;
  std::condition_variable changed_;
  unsigned arrived_ = 0;
  bool open_ = false;
};

// The check's side of a chip; the host owns the chip itself. The functions are replaced only while no call of
// the chip is running.
struct Control {
  std::function<void()> onRead = [] {};
  std::function<void(uint64_t)> onWrite = [](uint64_t) {};
  std::function<void()> onReset = [] {};
  std::function<void()> onDestroy = [] {};
  devices::Port* port = nullptr;
  std::atomic<unsigned> resets = 0;
  std::atomic<bool> destroyed = false;
};

inline constexpr devices::Description chip{
    .vendor = 0x1234,
    .device = 0x11e9,
    .classCode = 0x00ff00,
    .bars = {{{.kind = devices::BarKind::memory32, .size = 4096}}},
    .interruptPin = 1,
    .msiVectors = 1,
    .express = true,
    .functionReset = true,
};

class Chip final : public devices::Device {
 public:
  explicit Chip(Control& control) : control_(control) {}
  ~Chip() override {
    control_.onDestroy();
    control_.destroyed = true;
  }
  [[nodiscard]] const devices::Description& description() const override { return chip; }
  void plug(devices::Port& port) override { control_.port = &port; }
  [[nodiscard]] bool remote() const override { return true; }
  [[nodiscard]] uint64_t read(unsigned, uint64_t offset, unsigned) override {
    control_.onRead();
    return 40 + offset;
  }
  void write(unsigned, uint64_t, unsigned, uint64_t value) override { control_.onWrite(value); }
  void reset() override {
    control_.onReset();
    ++control_.resets;
  }
  [[nodiscard]] std::vector<uint8_t> save() const override {
    control_.onRead();
    return {1, 2, 3};
  }
  [[nodiscard]] bool load(std::span<const uint8_t> state) override {
    control_.onRead();
    return state.size() == 3;
  }

 private:
  Control& control_;
};

// Two chips on a root bus, each alone in its group, and two behind a conventional bridge, which can access
// each other.
inline constexpr const char* kTopology = R"({
  "iommus": [{ "kind": "vtd" }],
  "devices": [
    { "model": "chip0", "bdf": "0000:00:10.0" },
    { "model": "chip1", "bdf": "0000:00:11.0" },
    { "model": "root-port", "bdf": "0000:00:12.0" },
    { "model": "bridge", "bdf": "0000:02:00.0", "behind": "0000:00:12.0" },
    { "model": "chip2", "bdf": "0000:03:01.0", "behind": "0000:02:00.0", "addresses": ["0xfde00000"] },
    { "model": "chip3", "bdf": "0000:03:02.0", "behind": "0000:02:00.0", "addresses": ["0xfdf00000"] }
  ]
})";
inline constexpr std::array kAddresses = {"0000:00:10.0", "0000:00:11.0", "0000:03:01.0", "0000:03:02.0"};

struct Machine {
  Machine() {
    auto models = topology::builtinModels();
    for (size_t i = 0; i < chips.size(); ++i) {
      models.add("chip" + std::to_string(i),
                 {[this, i](const topology::Reader&, topology::DeviceSpec& device) {
                   device.model = std::make_unique<Chip>(chips[i]);
                 }});
    }
    host = std::make_unique<Host>(std::make_shared<mm::Memory>(), HostOptions{.topology = kTopology},
                                  std::make_shared<topology::Catalogue>(std::move(models)));
    iommufd = host->open("/dev/iommu", O_RDWR);
    iommu_ioas_alloc alloc{.size = sizeof alloc};
    (void)call(iommufd, IOMMU_IOAS_ALLOC, alloc);
    ioas = alloc.out_ioas_id;
    iommu_ioas_map map{.size = sizeof map,
                       .flags = kBoth | kFixed,
                       .ioas_id = ioas,
                       .user_va = buffer.user(),
                       .length = buffer.size(),
                       .iova = kIova};
    claim("memory is mapped", 0, call(iommufd, IOMMU_IOAS_MAP, map));
  }

  template <typename Struct>
  int call(int fd, uint32_t request, Struct& argument) {
    return host->ioctl(fd, request, reinterpret_cast<uintptr_t>(&argument));
  }
  int64_t put(const std::string& path, const std::string& text) {
    const int fd = host->open(path.c_str(), O_WRONLY);
    if (fd < 0) return fd;
    const int64_t result = host->write(fd, text.data(), text.size());
    host->close(fd);
    return result;
  }
  std::string path(unsigned index) { return std::string("/sys/bus/pci/devices/") + kAddresses[index]; }
  int64_t toVfio(unsigned index) {
    (void)put(path(index) + "/driver_override", "vfio-pci");
    return put("/sys/bus/pci/drivers_probe", kAddresses[index]);
  }
  int openNode(unsigned index) {
    std::vector<std::string> names;
    (void)host->list((path(index) + "/vfio-dev").c_str(), names);
    return names.empty() ? -ENOENT : host->open(("/dev/vfio/devices/" + names.front()).c_str(), O_RDWR);
  }
  int bind(int fd) {
    vfio_device_bind_iommufd bind{.argsz = sizeof bind, .iommufd = iommufd};
    return call(fd, VFIO_DEVICE_BIND_IOMMUFD, bind);
  }
  // Opens a chip that is bound and attached, and turns memory decoding and bus mastering on.
  int open(unsigned index) {
    (void)toVfio(index);
    const int fd = openNode(index);
    vfio_device_attach_iommufd_pt attach{.argsz = sizeof attach, .pt_id = ioas};
    const bool ready = bind(fd) == 0 && call(fd, VFIO_DEVICE_ATTACH_IOMMUFD_PT, attach) == 0;
    const uint16_t command = pci::commandMemory | pci::commandMaster;
    claim(std::string("opened: ") + kAddresses[index],
          ready && host->pwrite(fd, &command, sizeof command, kConfig + pci::regCommand) == 2);
    return fd;
  }
  int64_t read(int fd, uint64_t offset = 2) {
    uint8_t value = 0;
    const int64_t got = host->pread(fd, &value, 1, offset);
    return got == 1 ? value : got;
  }
  // Makes a call that needs the host's lock.
  bool answers() {
    std::vector<std::string> names;
    return host->list("/sys/bus/pci/devices", names) == 0 && !names.empty();
  }

  std::array<Control, 4> chips;
  Buffer buffer{kPage};
  std::unique_ptr<Host> host;
  int iommufd = -1;
  uint32_t ioas = 0;
};

// A thread that is joined at the end.
struct Thread {
  explicit Thread(std::function<void()> work) : thread(std::move(work)) {}
  ~Thread() { thread.join(); }
  std::thread thread;
};

}  // namespace vfio::soft::check
