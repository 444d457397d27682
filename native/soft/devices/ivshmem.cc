#include "ivshmem.h"

namespace vfio::soft::devices {

namespace {

constexpr Description sharedMemory{
    .vendor = 0x1af4,
    .device = 0x1110,
    .subsystemVendor = 0x1af4,
    .subsystem = 0x1100,
    .classCode = 0x050000,
    .revision = 1,
    .bars = {{{.kind = BarKind::memory32, .size = 256},
              {},
              {.kind = BarKind::memory64, .size = 1 << 20, .prefetchable = true, .backed = true}}},
};

class SharedMemory final : public Device {
 public:
  [[nodiscard]] const Description& description() const override { return sharedMemory; }
  void plug(Port&) override {}
  // Interrupt mask, status, position and doorbell: without a peer all are zero and writes have no effect.
  [[nodiscard]] uint64_t read(unsigned, uint64_t, unsigned) override { return 0; }
  void write(unsigned, uint64_t, unsigned, uint64_t) override {}
  void reset() override {}
};

}  // namespace

std::unique_ptr<Device> makeSharedMemory() { return std::make_unique<SharedMemory>(); }

}  // namespace vfio::soft::devices
