// The counting registers and the ports of the test device.
#include "testdev.h"

#include <cstring>

namespace vfio::soft::devices {

namespace {

constexpr size_t portBytes = 256;

constexpr Description testDevice{
    .vendor = 0x1b36,
    .device = 0x0005,
    .subsystemVendor = 0x1af4,
    .subsystem = 0x1100,
    .classCode = 0x00ff00,
    .bars = {{{.kind = BarKind::memory32, .size = 4096},
              {.kind = BarKind::io, .size = portBytes},
              {.kind = BarKind::memory64, .size = 1 << 20, .prefetchable = true, .backed = true}}},
};

class TestDevice final : public Device {
 public:
  [[nodiscard]] const Description& description() const override { return testDevice; }
  void plug(Port&) override {}

  [[nodiscard]] uint64_t read(unsigned bar, uint64_t offset, unsigned width) override {
    uint64_t value = 0;
    if (bar == 1) {
      std::memcpy(&value, ports_.data() + offset, width);
    } else if (offset < sizeof seen_) {
      std::memcpy(&value, reinterpret_cast<const uint8_t*>(&seen_) + offset, width);
    }
    return value;
  }

  void write(unsigned bar, uint64_t offset, unsigned width, uint64_t value) override {
    if (bar == 1) {
      std::memcpy(ports_.data() + offset, &value, width);
    } else if (offset == 0) {
      seen_ = {};
    } else {
      seen_ = {seen_.count + 1, width, value};
    }
  }

  void reset() override {
    seen_ = {};
    ports_ = {};
  }

 private:
  struct {
    uint32_t count, width;
    uint64_t value;
  } seen_{};
  std::array<uint8_t, portBytes> ports_{};
};

}  // namespace

std::unique_ptr<Device> makeTestDevice() { return std::make_unique<TestDevice>(); }

}  // namespace vfio::soft::devices
