// See bridge.h.
#include "bridge.h"

namespace vfio::soft::devices {

namespace {

class Passive final : public Device {
 public:
  explicit Passive(const Description& description) : description_(description) {}
  [[nodiscard]] const Description& description() const override { return description_; }
  void plug(Port&) override {}
  [[nodiscard]] uint64_t read(unsigned, uint64_t, unsigned) override { return 0; }
  void write(unsigned, uint64_t, unsigned, uint64_t) override {}
  void reset() override {}

 private:
  const Description description_;
};

}  // namespace

std::unique_ptr<Device> makePassive(const Description& description) {
  return std::make_unique<Passive>(description);
}

}  // namespace vfio::soft::devices
