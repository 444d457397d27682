// The machine of one check: an edu behind a unit with all features, in addition to the default machine of a
// complete host. Devices work on the host's engine, so all code here makes system calls or holds the host's
// lock.
#pragma once

#include <fcntl.h>
#include <poll.h>

#include <functional>

#include "../../native/soft/devices/edu.h"
#include "../../native/soft/pci/function.h"
#include "../../native/soft/pci/registers.h"
#include "iommufd_harness.h"

namespace vfio::soft::check {

// A unit like that of the guest, with more features that newer hardware has.
inline iommu::Unit fullUnit() {
  const iommu::Model& model = iommu::models::vtd();
  return iommu::makeUnit({.model = &model,
                          .pasidBits = 20,
                          .pageRequests = iommu::PageRequestKind::pri,
                          .nesting = {{model.format()}},
                          .dirtyTracking = true});
}

// A file whose ioctl runs a function with the host's lock held.
class Inside final : public File {
 public:
  int ioctl(unsigned long, UserAddress function) override {
    (*reinterpret_cast<const std::function<void()>*>(function))();
    return 0;
  }
};

// A file that passes each call on to a descriptor, as a system call.
class Descriptor final : public File {
 public:
  Descriptor(Host& host, int itsNumber) : number(itsNumber), host_(host) {}
  ~Descriptor() override { host_.close(number); }
  Descriptor(const Descriptor&) = delete;
  Descriptor& operator=(const Descriptor&) = delete;
  int ioctl(unsigned long request, UserAddress argument) override {
    return host_.ioctl(number, request, argument);
  }
  int64_t read(UserAddress user, size_t size) override {
    return host_.read(number, reinterpret_cast<void*>(user), size);
  }
  int64_t write(UserAddress user, size_t size) override {
    return host_.write(number, reinterpret_cast<void*>(user), size);
  }

  const int number;

 private:
  Host& host_;
};

class EduMachine {
 public:
  explicit EduMachine(KernelVersion kernel = kNewestKernel, iommu::Unit itsUnit = fullUnit())
      : host(std::make_shared<mm::Memory>(), {.kernel = kernel}),
        unit(std::move(itsUnit)),
        inside_(host.install(std::make_shared<Inside>(), FdKind::plain, O_RDWR)),
        fd(host) {
    edu.endpoint->pasidBits = 20;
    edu.endpoint->pageRequests = true;
    edu.configWrite(pci::regCommand, 2, pci::commandMemory | pci::commandMaster);
    const int number = host.open("/dev/iommu", O_RDWR);
    inside([&] { bound = iommufd::bind(host.file(number), *edu.endpoint, device); });
    fd.file = std::make_shared<Descriptor>(host, number);
  }
  ~EduMachine() {
    inside([&] {
      device.reset();
      edu.reset();
    });
    fd.file.reset();
    host.close(inside_);
  }
  EduMachine(const EduMachine&) = delete;
  EduMachine& operator=(const EduMachine&) = delete;

  void inside(const std::function<void()>& function) {
    (void)host.ioctl(inside_, 0, reinterpret_cast<uintptr_t>(&function));
  }
  // VFIO's calls on the device.
  int attach(uint32_t& pt, uint32_t pasid = 0) {
    int result = 0;
    inside([&] { result = place(*device, pt, pasid); });
    return result;
  }
  int attachTo(uint32_t pt, uint32_t pasid = 0) { return attach(pt, pasid); }
  void detach(uint32_t pasid = 0) {
    inside([&] { device->detach(pasid); });
  }
  // Starts a transfer of the device, and does not wait for its end.
  void start(uint64_t source, uint64_t destination, uint64_t count, bool toMemory) {
    inside([&] {
      edu.barWrite(0, 0x80, 8, source);
      edu.barWrite(0, 0x88, 8, destination);
      edu.barWrite(0, 0x90, 8, count);
      edu.barWrite(0, 0x98, 8, toMemory ? 3 : 1);
    });
  }
  bool busy() {
    uint64_t command = 0;
    inside([&] { command = edu.barRead(0, 0x98, 8); });
    return (command & 1) != 0;
  }
  static constexpr uint64_t kBuffer = 0x40000;
  // Transfers between an IOVA and the device's buffer. They return the reason of the first fault, or "".
  std::string fetch(uint64_t iova, uint64_t count) {
    start(iova, kBuffer, count, false);
    return finish();
  }
  std::string store(uint64_t iova, uint64_t count) {
    start(kBuffer, iova, count, true);
    return finish();
  }
  std::string finish() {
    host.settle();
    const auto faults = host.takeFaults();
    return faults.empty() ? "" : faults.front().reason;
  }

  Host host;
  iommu::Unit unit;
  iommu::Group group = {70, {}};
  pci::Bus bus = {5, nullptr, {}};
  pci::Function edu{host, {&bus, 0x80, 0x580, 0, {0xe0000000}, 0}, devices::makeEdu(), unit, group};
  std::unique_ptr<iommufd::BoundDevice> device;
  int bound = 0;

 private:
  const int inside_;

 public:
  Fd fd;
};

}  // namespace vfio::soft::check
