// Virtio over PCI, without the legacy interface: the registers and the states of any such device. A type of
// device derives from it: it says what it has, and works on its queues.
//
// Life: made with its function. A life of the device begins when it is made, and with each reset. Work on the
// engine belongs to the life in which it was posted.
#pragma once

#include <cstdint>
#include <functional>
#include <span>
#include <vector>

#include "../device.h"
#include "../state.h"
#include "format.h"
#include "queue.h"

namespace vfio::soft::devices::virtio {

// The registers that can be written, except those of queues.
struct Registers {
  uint64_t driverFeatures = 0;
  uint32_t deviceSelect = 0, driverSelect = 0;
  uint16_t configVector = noVector, queue = 0;
  uint8_t status = 0, isr = 0;
  uint16_t reserved = 0;
};

class Transport : public Device {
 public:
  void plug(Port& port) override { port_ = &port; }
  [[nodiscard]] uint64_t read(unsigned bar, uint64_t offset, unsigned width) final;
  void write(unsigned bar, uint64_t offset, unsigned width, uint64_t value) final;
  void reset() final;

 protected:
  Transport(uint64_t features, unsigned queues) : features_(features), queues_(queues) {}

  // --- what a type of device adds. `work` runs on the engine, some time after each notification.
  virtual void work() = 0;
  // The byte of its configuration at an offset.
  [[nodiscard]] virtual uint8_t specific(uint64_t offset) const = 0;
  // A life has ended: what the device has kept is dropped.
  virtual void drop() = 0;

  [[nodiscard]] bool running() const;
  [[nodiscard]] bool has(uint64_t feature) const { return (registers_.driverFeatures & feature) != 0; }
  [[nodiscard]] Memory memory() const { return {*port_, life_}; }
  [[nodiscard]] Queue& queue(unsigned number) { return queues_[number]; }
  void schedule();
  // Tells the driver that a queue has used entries, if it wants to know.
  void tell(const Memory& memory, const Queue& queue);
  // The driver has broken a rule, or memory can't be reached: only a reset helps. Does nothing if the life is
  // over in which the work began.
  void fail(const Memory& memory);

  // --- the state, in front of that of the type of device. `getState` changes nothing.
  struct State {
    Registers registers;
    std::vector<Queue> queues;
  };
  void putState(StateWriter& writer) const;
  [[nodiscard]] bool getState(StateReader& reader, State& into) const;
  void resume(const State& state);

 private:
  [[nodiscard]] uint64_t readCommon(uint64_t offset, unsigned width) const;
  void writeCommon(uint64_t offset, unsigned width, uint64_t value);
  void writeQueue(uint64_t offset, unsigned width, uint64_t value);
  void setStatus(uint8_t value);
  void interrupt(uint16_t vector, IsrBit bit);
  [[nodiscard]] uint16_t checked(uint64_t vector) const;
  [[nodiscard]] Queue* selected();
  [[nodiscard]] const Queue* selected() const;

  const uint64_t features_;
  Port* port_ = nullptr;
  Registers registers_;
  std::vector<Queue> queues_;
  uint64_t life_ = 0;
  bool scheduled_ = false;
};

// The capabilities that say where the structures are. `specificSize`: bytes of the device's configuration.
[[nodiscard]] VendorCapabilities capabilities(unsigned queues, uint32_t specificSize);

}  // namespace vfio::soft::devices::virtio
