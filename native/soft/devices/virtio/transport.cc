#include "transport.h"

#include <algorithm>
#include <bit>
#include <optional>
#include <utility>

namespace vfio::soft::devices::virtio {

namespace {

// The part of `value` that an access of `width` bytes, `skip` bytes into it, reads.
uint64_t part(uint64_t value, uint64_t skip, unsigned width) {
  value >>= 8 * skip;
  return width == 8 ? value : value & ((uint64_t{1} << 8 * width) - 1);
}

// A 64-bit register is written whole, or in halves.
void setAddress(uint64_t& address, uint64_t skip, unsigned width, uint64_t value) {
  constexpr uint64_t half = 0xffffffff;
  if (width == 8) {
    address = value;
  } else if (width == 4 && skip == 4) {
    address = (address & half) | value << 32;
  } else if (width == 4 && skip == 0) {
    address = (address & ~half) | (value & half);
  }
}

}  // namespace

VendorCapabilities capabilities(unsigned queues, uint32_t specificSize) {
  VendorCapabilities result;
  size_t count = 0, used = 0;
  // `last`: a field that only some of them have.
  const auto put = [&](Structure type, uint32_t offset, uint32_t size, std::optional<uint32_t> last = {}) {
    const size_t from = used;
    result.bytes[used++] = static_cast<uint8_t>(type);
    used += 4;  // the BAR, 0, an id, 0, and two bytes that are reserved
    const auto putField = [&](uint32_t field) {
      for (unsigned i = 0; i < 4; ++i) result.bytes[used++] = static_cast<uint8_t>(field >> 8 * i);
    };
    putField(offset);
    putField(size);
    if (last) putField(*last);
    result.lengths[count++] = static_cast<uint8_t>(used - from);
  };
  put(Structure::common, commonAt, commonSize);
  put(Structure::notify, notifyAt, queues * notifyMultiplier, notifyMultiplier);
  put(Structure::isr, isrAt, isrSize);
  put(Structure::specific, specificAt, specificSize);
  put(Structure::configAccess, 0, 0, 0);  // the driver fills it: soft/pci/bar_window.h
  return result;
}

// ---------------------------------------------------------------- registers

uint64_t Transport::read(unsigned, uint64_t offset, unsigned width) {
  if (offset < commonAt + commonSize) return readCommon(offset - commonAt, width);
  if (offset == isrAt) {
    const uint8_t isr = std::exchange(registers_.isr, uint8_t{0});
    port_->setLine(false);
    return isr;
  }
  uint64_t value = 0;
  if (offset >= specificAt && offset < notifyAt) {
    for (unsigned i = 0; i < width; ++i) value |= uint64_t{specific(offset - specificAt + i)} << 8 * i;
  }
  return value;
}

void Transport::write(unsigned, uint64_t offset, unsigned width, uint64_t value) {
  if (offset < commonAt + commonSize) return writeCommon(offset - commonAt, width, value);
  // The number of the queue follows from the address alone.
  const uint64_t number = (offset - notifyAt) / notifyMultiplier;
  if (offset >= notifyAt && number < queues_.size() && queues_[number].enabled != 0 && running()) schedule();
}

uint64_t Transport::readCommon(uint64_t offset, unsigned width) const {
  const Queue* queue = selected();
  const auto half = [](uint64_t features, uint32_t select) -> uint64_t {
    return select < 2 ? features >> 32 * select & 0xffffffff : 0;
  };
  switch (offset) {
    case deviceFeatureSelect:
      return registers_.deviceSelect;
    case deviceFeature:
      return part(half(features_, registers_.deviceSelect), 0, width);
    case driverFeatureSelect:
      return registers_.driverSelect;
    case driverFeature:
      return part(half(registers_.driverFeatures, registers_.driverSelect), 0, width);
    case configVector:
      return part(registers_.configVector, 0, width);
    case queueCount:
      return part(queues_.size(), 0, width);
    case deviceStatus:
      return registers_.status;
    case queueSelect:
      return part(registers_.queue, 0, width);
    case queueSize:
      return queue ? part(queue->size, 0, width) : 0;
    case queueVector:
      return queue ? part(queue->vector, 0, width) : noVector;
    case queueEnable:
      return queue ? queue->enabled : 0;
    case queueNotifyOffset:
    case queueNotifyData:
      return queue ? part(registers_.queue, 0, width) : 0;
    case queueDescriptors:
    case queueDescriptors + 4:
      return queue ? part(queue->descriptors, offset - queueDescriptors, width) : 0;
    case queueDriver:
    case queueDriver + 4:
      return queue ? part(queue->driver, offset - queueDriver, width) : 0;
    case queueDevice:
    case queueDevice + 4:
      return queue ? part(queue->device, offset - queueDevice, width) : 0;
    default:
      return 0;  // the generation of the configuration, which never changes, too
  }
}

void Transport::writeCommon(uint64_t offset, unsigned width, uint64_t value) {
  switch (offset) {
    case deviceFeatureSelect:
      registers_.deviceSelect = static_cast<uint32_t>(value);
      return;
    case driverFeatureSelect:
      registers_.driverSelect = static_cast<uint32_t>(value);
      return;
    case driverFeature: {
      // What was agreed on stays.
      if ((registers_.status & statusFeaturesOk) != 0 || registers_.driverSelect > 1) return;
      const unsigned shift = 32 * registers_.driverSelect;
      const uint64_t mask = uint64_t{0xffffffff} << shift;
      registers_.driverFeatures = (registers_.driverFeatures & ~mask) | (value << shift & mask);
      return;
    }
    case configVector:
      registers_.configVector = checked(value);
      return;
    case deviceStatus:
      return setStatus(static_cast<uint8_t>(value));
    case queueSelect:
      registers_.queue = static_cast<uint16_t>(value);
      return;
    default:
      writeQueue(offset, width, value);
  }
}

// A queue that is enabled stays as it is, until a reset. Only its vector may change.
void Transport::writeQueue(uint64_t offset, unsigned width, uint64_t value) {
  Queue* queue = selected();
  if (!queue) return;
  if (offset == queueVector) queue->vector = checked(value);
  if (queue->enabled != 0) return;
  switch (offset) {
    case queueSize:
      if (value <= queueSizeMost && std::has_single_bit(value)) queue->size = static_cast<uint16_t>(value);
      return;
    case queueEnable:
      queue->enabled = value == 1 ? 1 : 0;
      return;
    case queueDescriptors:
    case queueDescriptors + 4:
      return setAddress(queue->descriptors, offset - queueDescriptors, width, value);
    case queueDriver:
    case queueDriver + 4:
      return setAddress(queue->driver, offset - queueDriver, width, value);
    case queueDevice:
    case queueDevice + 4:
      return setAddress(queue->device, offset - queueDevice, width, value);
    default:
      return;
  }
}

uint16_t Transport::checked(uint64_t vector) const {
  return vector < description().msix.vectors ? static_cast<uint16_t>(vector) : noVector;
}

Queue* Transport::selected() {
  return registers_.queue < queues_.size() ? &queues_[registers_.queue] : nullptr;
}

const Queue* Transport::selected() const {
  return registers_.queue < queues_.size() ? &queues_[registers_.queue] : nullptr;
}

// ---------------------------------------------------------------- states

// The driver adds bits; it takes them all back by a reset, with 0. FEATURES_OK stays clear if the device
// can't work with what the driver accepted: it needs the IOMMU's addresses, and the registers of version 1.
void Transport::setStatus(uint8_t value) {
  if (value == 0) return reset();
  constexpr uint64_t required = featureVersion1 | featureAccessPlatform;
  const uint64_t accepted = registers_.driverFeatures;
  if ((accepted & ~features_) != 0 || (accepted & required) != required)
    value &= static_cast<uint8_t>(~statusFeaturesOk);
  registers_.status |= value & static_cast<uint8_t>(~statusNeedsReset);
  if (running()) schedule();
}

void Transport::reset() {
  ++life_;
  scheduled_ = false;
  registers_ = {};
  for (Queue& each : queues_) each = {};
  drop();
  port_->setLine(false);
}

bool Transport::running() const {
  constexpr uint8_t started = statusFeaturesOk | statusDriverOk;
  return (registers_.status & (started | statusNeedsReset | statusFailed)) == started;
}

void Transport::schedule() {
  if (scheduled_) return;
  scheduled_ = true;
  port_->post(std::chrono::nanoseconds::zero(), [this, life = life_] {
    if (life != life_) return;
    scheduled_ = false;
    if (running()) work();
  });
}

void Transport::tell(const Memory& memory, const Queue& queue) {
  bool wanted = false;
  if (!queue.readWanted(memory, wanted)) return fail(memory);
  if (wanted) interrupt(queue.vector, isrQueue);
}

void Transport::fail(const Memory& memory) {
  if (!memory.current()) return;
  registers_.status |= statusNeedsReset;
  interrupt(registers_.configVector, isrConfig);
}

void Transport::interrupt(uint16_t vector, IsrBit bit) {
  if (port_->messagesEnabled()) {
    if (vector != noVector) port_->sendMessage(vector);
  } else {
    registers_.isr |= bit;
    port_->setLine(true);
  }
}

// ---------------------------------------------------------------- the state as bytes

void Transport::putState(StateWriter& writer) const {
  writer.put(features_);
  writer.put(registers_);
  for (const Queue& each : queues_) writer.put(each);
}

bool Transport::getState(StateReader& reader, State& into) const {
  uint64_t features = 0;
  bool good = reader.get(features) && features == features_ && reader.get(into.registers);
  into.queues.resize(queues_.size());
  for (Queue& each : into.queues) {
    good = good && reader.get(each) && std::has_single_bit(each.size) && each.size <= queueSizeMost &&
           checked(each.vector) == each.vector;
  }
  return good && checked(into.registers.configVector) == into.registers.configVector;
}

void Transport::resume(const State& state) {
  ++life_;
  scheduled_ = false;
  registers_ = state.registers;
  std::ranges::copy(state.queues, queues_.begin());  // in place: work under way may know them
  port_->setLine(registers_.isr != 0);
  if (running()) schedule();
}

}  // namespace vfio::soft::devices::virtio
