// The device is one object: the register file, the buffer, and the two units that work on the engine
// (factorial and DMA).
#include "edu.h"

#include <algorithm>
#include <array>
#include <utility>

#include "state.h"

namespace vfio::soft::devices {

namespace {

enum Register : uint64_t {
  identification = 0x00,
  liveness = 0x04,
  factorial = 0x08,
  status = 0x20,
  interruptStatus = 0x24,
  interruptRaise = 0x60,
  interruptAcknowledge = 0x64,
  firstWide = 0x80,  // from here on, 8-byte accesses work too
  dmaSource = 0x80,
  dmaDestination = 0x88,
  dmaCount = 0x90,
  dmaCommand = 0x98,
};

constexpr uint32_t statusComputing = 0x01;
constexpr uint32_t statusInterrupt = 0x80;  // raise an interrupt when the factorial is done
constexpr uint32_t interruptFactorial = 0x001;
constexpr uint32_t interruptDma = 0x100;
constexpr uint64_t commandRun = 1;
constexpr uint64_t commandToMemory = 2;
constexpr uint64_t commandInterrupt = 4;
constexpr uint64_t bufferStart = 0x40000;
constexpr uint64_t bufferSize = 4096;
constexpr uint64_t dmaMask = (uint64_t{1} << 28) - 1;

constexpr StateKind stateKind{"edu", 1};

constexpr Description edu{
    .vendor = 0x1234,
    .device = 0x11e8,
    .subsystemVendor = 0x1af4,
    .subsystem = 0x1100,
    .classCode = 0x00ff00,
    .revision = 0x10,
    .bars = {{{.kind = BarKind::memory32, .size = 1 << 20}}},
    .interruptPin = 1,
    .msiVectors = 1,
};

class Edu final : public Device {
 public:
  [[nodiscard]] const Description& description() const override { return edu; }
  void plug(Port& port) override { port_ = &port; }
  [[nodiscard]] uint64_t read(unsigned bar, uint64_t offset, unsigned width) override;
  void write(unsigned bar, uint64_t offset, unsigned width, uint64_t value) override;
  void reset() override;
  [[nodiscard]] std::vector<uint8_t> save() const override;
  [[nodiscard]] bool load(std::span<const uint8_t> state) override;

 private:
  void startFactorial(uint32_t of);
  void startDma(uint64_t command);
  void postFactorial();
  void postTransfer();
  void transfer();
  void finish();
  void raise(uint32_t bits);
  void acknowledge(uint32_t bits);
  [[nodiscard]] uint64_t reachable(uint64_t iova, bool write);

  Port* port_ = nullptr;
  struct Registers {
    uint32_t liveness, factorial, status, interrupts;
  };
  struct Dma {
    uint64_t source, destination, count, command;
  };
  Registers registers_{};
  Dma dma_{};
  std::array<uint8_t, bufferSize> buffer_{};
};

// Registers below 0x80 take 4-byte accesses only, the DMA ones 4 and 8.
bool widthFits(uint64_t offset, unsigned width) { return width == 4 || (offset >= firstWide && width == 8); }

uint64_t Edu::read(unsigned, uint64_t offset, unsigned width) {
  if (width < 4) return 0;  // such an access is not decoded at all
  if (!widthFits(offset, width)) return ~uint64_t{0};
  switch (offset) {
    case identification:
      return 0x010000ed;
    case liveness:
      return registers_.liveness;
    case factorial:
      return registers_.factorial;
    case status:
      return registers_.status;
    case interruptStatus:
      return registers_.interrupts;
    case dmaSource:
      return dma_.source;
    case dmaDestination:
      return dma_.destination;
    case dmaCount:
      return dma_.count;
    case dmaCommand:
      return dma_.command;
    default:
      return ~uint64_t{0};
  }
}

void Edu::write(unsigned, uint64_t offset, unsigned width, uint64_t value) {
  if (!widthFits(offset, width)) return;
  const auto word = static_cast<uint32_t>(value);
  const bool running = (dma_.command & commandRun) != 0;
  switch (offset) {
    case liveness:
      registers_.liveness = ~word;
      break;
    case factorial:
      startFactorial(word);
      break;
    case status:
      registers_.status = (registers_.status & ~statusInterrupt) | (word & statusInterrupt);
      break;
    case interruptRaise:
      raise(word);
      break;
    case interruptAcknowledge:
      acknowledge(word);
      break;
    // While a transfer runs, its registers can't be changed.
    case dmaSource:
      if (!running) dma_.source = value;
      break;
    case dmaDestination:
      if (!running) dma_.destination = value;
      break;
    case dmaCount:
      if (!running) dma_.count = value;
      break;
    case dmaCommand:
      if (!running && (value & commandRun) != 0) startDma(value);
      break;
    default:
      break;
  }
}

// QEMU's device keeps its registers through a reset. Only the work under way ends, since the reset drops it.
void Edu::reset() {
  dma_.command &= ~commandRun;
  registers_.status &= ~statusComputing;
}

std::vector<uint8_t> Edu::save() const {
  StateWriter writer(stateKind);
  writer.put(registers_);
  writer.put(dma_);
  writer.putBytes(buffer_);
  return std::move(writer).finish();
}

bool Edu::load(std::span<const uint8_t> state) {
  StateReader reader(stateKind, state);
  Registers registers{};
  Dma dma{};
  (void)reader.get(registers);
  (void)reader.get(dma);
  const auto buffer = reader.view(buffer_.size());
  if (!reader.finished()) return false;
  registers_ = registers;
  dma_ = dma;
  std::ranges::copy(buffer, buffer_.begin());
  // Work that was under way begins anew: until it is done, it changes nothing that it depends on.
  if ((registers_.status & statusComputing) != 0) postFactorial();
  if ((dma_.command & commandRun) != 0) postTransfer();
  if (!port_->messagesEnabled()) port_->setLine(registers_.interrupts != 0);
  return true;
}

void Edu::startFactorial(uint32_t of) {
  if ((registers_.status & statusComputing) != 0) return;
  registers_.factorial = of;
  registers_.status |= statusComputing;
  postFactorial();
}

void Edu::postFactorial() {
  port_->post(std::chrono::nanoseconds::zero(), [this] {
    // Modulo 2^32 the product is 0 from 34! on: there is no need to block the machine for 2^32 steps.
    uint32_t product = 1;
    for (uint32_t factor = registers_.factorial; factor > 0 && product != 0; --factor) product *= factor;
    registers_.factorial = product;
    registers_.status &= ~statusComputing;
    if ((registers_.status & statusInterrupt) != 0) raise(interruptFactorial);
  });
}

void Edu::startDma(uint64_t command) {
  dma_.command = command;
  postTransfer();
}

void Edu::postTransfer() {
  port_->post(std::chrono::nanoseconds::zero(), [this] { transfer(); });
}

// The device drives 28 address lines; the higher bits of an address are lost.
uint64_t Edu::reachable(uint64_t iova, bool write) {
  if ((iova & ~dmaMask) != 0) port_->refuseDma(iova, dma_.count, write, "beyond the device's DMA mask");
  return iova & dmaMask;
}

void Edu::transfer() {
  const bool toMemory = (dma_.command & commandToMemory) != 0;
  const uint64_t inside = (toMemory ? dma_.source : dma_.destination) - bufferStart;
  const uint64_t iova = toMemory ? dma_.destination : dma_.source;
  if (dma_.count > bufferSize || inside > bufferSize - dma_.count) {
    port_->refuseDma(iova, dma_.count, toMemory, "outside the device's buffer");
    finish();
  } else if (toMemory) {
    port_->startWrite(reachable(iova, true), buffer_.data() + inside, dma_.count, Requester{},
                      [this](bool) { finish(); });
  } else {
    port_->startRead(reachable(iova, false), buffer_.data() + inside, dma_.count, Requester{},
                     [this](bool) { finish(); });
  }
}

// The device doesn't know whether a transfer failed.
void Edu::finish() {
  dma_.command &= ~commandRun;
  if ((dma_.command & commandInterrupt) != 0) raise(interruptDma);
}

void Edu::raise(uint32_t bits) {
  registers_.interrupts |= bits;
  if (registers_.interrupts == 0) return;
  if (port_->messagesEnabled()) {
    port_->sendMessage(0);
  } else {
    port_->setLine(true);
  }
}

void Edu::acknowledge(uint32_t bits) {
  registers_.interrupts &= ~bits;
  if (registers_.interrupts == 0 && !port_->messagesEnabled()) port_->setLine(false);
}

}  // namespace

std::unique_ptr<Device> makeEdu() { return std::make_unique<Edu>(); }

}  // namespace vfio::soft::devices
