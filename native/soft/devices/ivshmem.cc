#include "ivshmem.h"

#include "state.h"

namespace vfio::soft::devices {

namespace {

constexpr unsigned vectors = 4;
constexpr uint64_t doorbell = 0x0c;

constexpr StateKind stateKind{"ivshmem", 1};

constexpr Description sharedMemory{
    .vendor = 0x1af4,
    .device = 0x1110,
    .subsystemVendor = 0x1af4,
    .subsystem = 0x1100,
    .classCode = 0x050000,
    .revision = 1,
    .bars = {{{.kind = BarKind::memory32, .size = 256},
              {.kind = BarKind::memory32, .size = 4096},
              {.kind = BarKind::memory64, .size = 1 << 20, .prefetchable = true, .backed = true}}},
    .msix = {.vectors = vectors, .bar = 1, .table = 0, .pending = 0x800},
};

class SharedMemory final : public Device {
 public:
  [[nodiscard]] const Description& description() const override { return sharedMemory; }
  void plug(Port& port) override { port_ = &port; }
  // Mask, status and number are all zero.
  [[nodiscard]] uint64_t read(unsigned, uint64_t, unsigned) override { return 0; }
  void write(unsigned bar, uint64_t offset, unsigned, uint64_t value) override {
    const auto vector = static_cast<unsigned>(value & 0xffff);
    const bool here = (value >> 16 & 0xffff) == 0;
    if (bar == 0 && offset == doorbell && here && vector < vectors && port_->messagesEnabled())
      port_->sendMessage(vector);
  }
  void reset() override {}
  // The registers have no state: the memory is all of it.
  [[nodiscard]] std::vector<uint8_t> save() const override {
    return saveMemory(stateKind, sharedMemory, *port_);
  }
  [[nodiscard]] bool load(std::span<const uint8_t> state) override {
    return loadMemory(stateKind, sharedMemory, *port_, state);
  }

 private:
  Port* port_ = nullptr;
};

}  // namespace

std::unique_ptr<Device> makeSharedMemory() { return std::make_unique<SharedMemory>(); }

}  // namespace vfio::soft::devices
