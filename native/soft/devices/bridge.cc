// See bridge.h.
#include "bridge.h"

#include <algorithm>

#include "state.h"

namespace vfio::soft::devices {

namespace {

class Passive final : public Device {
 public:
  explicit Passive(const Description& description) : description_(description) {}
  [[nodiscard]] const Description& description() const override { return description_; }
  void plug(Port& port) override { port_ = &port; }
  [[nodiscard]] uint64_t read(unsigned, uint64_t, unsigned) override { return 0; }
  void write(unsigned, uint64_t, unsigned, uint64_t) override {}
  void reset() override {}
  [[nodiscard]] std::vector<uint8_t> save() const override {
    return hasMemory() ? saveMemory(stateKind(), description_, *port_) : std::vector<uint8_t>();
  }
  [[nodiscard]] bool load(std::span<const uint8_t> state) override {
    return hasMemory() ? loadMemory(stateKind(), description_, *port_, state) : state.empty();
  }

 private:
  [[nodiscard]] bool hasMemory() const {
    return std::ranges::any_of(description_.bars, [](const Bar& bar) { return bar.hasMemory(); });
  }
  [[nodiscard]] StateKind stateKind() const {
    return {"passive", uint32_t{description_.device} << 16 | description_.vendor};
  }
  const Description description_;
  Port* port_ = nullptr;
};

}  // namespace

std::unique_ptr<Device> makePassive(const Description& description) {
  return std::make_unique<Passive>(description);
}

}  // namespace vfio::soft::devices
