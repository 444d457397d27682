// What a device does to the machine, as the injected faults let it through: its DMA and its messages.
#include <algorithm>
#include <cstring>
#include <memory>
#include <utility>
#include <vector>

#include "../core/engine.h"
#include "../core/services.h"
#include "function.h"

namespace vfio::soft::pci {

namespace {

using Kind = DeviceFault::Kind;
using Of = DeviceFaults::Of;

void flipBit(void* bytes, size_t size, uint64_t number) {
  if (size == 0) return;
  static_cast<uint8_t*>(bytes)[number / 8 % size] ^= static_cast<uint8_t>(1U << number % 8);
}

std::shared_ptr<std::vector<uint8_t>> copyOf(const void* from, size_t size) {
  const auto* bytes = static_cast<const uint8_t*>(from);
  return std::make_shared<std::vector<uint8_t>>(bytes, bytes + size);
}

}  // namespace

void Function::later(std::chrono::nanoseconds delay, std::function<void()> job) {
  if (!host.engine().post(this, delay, std::move(job))) refuseDma(0, 0, false, iommu::Transfers::kNoThread);
}

// ---------------------------------------------------------------- DMA

bool Function::faultyRead(const Strike& strike, uint64_t iova, void* into, size_t size,
                          std::optional<uint32_t> pasid) {
  if (strike.kind == Kind::dmaDropped) {
    std::memset(into, 0xff, size);  // nobody completes the read: as the bus has it then
    return false;
  }
  const bool whole = readMemory(iova, into, size, pasid);
  flipBit(into, size, strike.number);
  return whole;
}

bool Function::faultyWrite(const Strike& strike, uint64_t iova, const void* from, size_t size,
                           std::optional<uint32_t> pasid) {
  // Writes are posted: the device isn't told what becomes of them.
  if (strike.kind == Kind::dmaDropped) return true;
  const auto bytes = copyOf(from, size);
  if (strike.kind == Kind::dmaDelayed) {
    later(strike.delay,
          [this, bytes, iova, pasid] { writeMemory(iova, bytes->data(), bytes->size(), pasid); });
    return true;
  }
  flipBit(bytes->data(), size, strike.number);
  return writeMemory(iova, bytes->data(), size, pasid);
}

bool Function::dmaRead(uint64_t iova, void* into, size_t size, std::optional<uint32_t> pasid) {
  host.trace("dma read", bdf);
  // The model waits for the bytes in the middle of a call: they can't come later.
  if (const auto strike = host.deviceFaults().strike(Of::dma, bdf, false))
    return faultyRead(*strike, iova, into, size, pasid);
  return readMemory(iova, into, size, pasid);
}

bool Function::dmaWrite(uint64_t iova, const void* from, size_t size, std::optional<uint32_t> pasid) {
  host.trace("dma write", bdf);
  if (const auto strike = host.deviceFaults().strike(Of::dma, bdf))
    return faultyWrite(*strike, iova, from, size, pasid);
  return writeMemory(iova, from, size, pasid);
}

void Function::startRead(uint64_t iova, void* into, size_t size, devices::Requester by, Done done) {
  host.trace("dma read", bdf);
  const auto strike = host.deviceFaults().strike(Of::dma, bdf);
  if (!strike) return beginRead(iova, into, size, by, std::move(done));
  switch (strike->kind) {
    case Kind::dmaDelayed:
      return later(strike->delay, [this, iova, into, size, by, done = std::move(done)] {
        beginRead(iova, into, size, by, done);
      });
    case Kind::dmaDropped:
      return done(faultyRead(*strike, iova, into, size, by.pasid));
    default:
      return beginRead(iova, into, size, by,
                       [into, size, number = strike->number, done = std::move(done)](bool moved) {
                         flipBit(into, size, number);
                         done(moved);
                       });
  }
}

void Function::startWrite(uint64_t iova, const void* from, size_t size, devices::Requester by, Done done) {
  host.trace("dma write", bdf);
  const auto strike = host.deviceFaults().strike(Of::dma, bdf);
  if (!strike) return beginWrite(iova, from, size, by, std::move(done));
  switch (strike->kind) {
    case Kind::dmaDelayed:
      return later(strike->delay, [this, iova, from, size, by, done = std::move(done)] {
        beginWrite(iova, from, size, by, done);
      });
    case Kind::dmaDropped:
      return done(true);
    default: {
      const auto bytes = copyOf(from, size);
      flipBit(bytes->data(), size, strike->number);
      return beginWrite(iova, bytes->data(), size, by,
                        [bytes, done = std::move(done)](bool moved) { done(moved); });
    }
  }
}

// ---------------------------------------------------------------- messages

void Function::deliverMessage(unsigned vector) {
  host.trace("interrupt", bdf);
  if (const auto strike = host.deviceFaults().strike(Of::interrupt, bdf)) {
    deliverFaulty(*strike, vector);
    return;
  }
  if (handler_) handler_->message(vector);
  for (const unsigned late : std::exchange(overtaken_, {}))
    if (handler_) handler_->message(late);
}

void Function::deliverFaulty(const Strike& strike, unsigned vector) {
  const auto deliver = [this](unsigned late) {
    if (handler_) handler_->message(late);
  };
  switch (strike.kind) {
    case Kind::interruptDelayed:
      return later(strike.delay, [deliver, vector] { deliver(vector); });
    case Kind::interruptDoubled:
      deliver(vector);
      return deliver(vector);
    case Kind::interruptReordered:
      overtaken_.push_back(vector);
      return later(strike.delay, [this, deliver, vector] {
        const auto found = std::ranges::find(overtaken_, vector);
        if (found == overtaken_.end()) return;  // the next one has overtaken it
        overtaken_.erase(found);
        deliver(vector);
      });
    default:  // lost
      return;
  }
}

}  // namespace vfio::soft::pci
