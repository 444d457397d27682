// The hardware half of a function. Each bit is read from config space when it matters (is bus mastering on?
// are messages enabled?), so there is no second copy of a bit to keep up to date.
#include "function.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <cstring>
#include <system_error>

#include "../core/dma_watch.h"
#include "../core/engine.h"
#include "../core/services.h"
#include "bar_window.h"
#include "registers.h"

namespace vfio::soft::pci {

namespace {

constexpr uint32_t messageWindow = 0xfee00000;

std::string name(const Bus& bus, uint8_t devfn) {
  std::array<char, 16> text;
  std::snprintf(text.data(), text.size(), "0000:%02x:%02x.%u", bus.number, devfn >> 3, devfn & 7U);
  return text.data();
}

uint64_t load(const uint8_t* from, unsigned width) {
  uint64_t value = 0;
  std::memcpy(&value, from, width);
  return value;
}

}  // namespace

uint64_t resourceFlags(const devices::Bar& bar) {
  constexpr uint64_t io = 0x100, memory = 0x200, prefetch = 0x2000, sizeAligned = 0x40000, wide = 0x100000;
  switch (bar.kind) {
    case devices::BarKind::none:
      return 0;
    case devices::BarKind::io:
      return io | sizeAligned | barIo;
    default:
      return memory | sizeAligned | (bar.prefetchable ? prefetch | barPrefetch : 0) |
             (bar.kind == devices::BarKind::memory64 ? wide | bar64 : 0);
  }
}

Function::Function(Services& host, const Place& place, std::unique_ptr<devices::Device> model,
                   iommu::Unit& unit, iommu::Group& group)
    : host(host),
      bus(*place.bus),
      devfn(place.devfn),
      bdf(place.name.empty() ? name(*place.bus, place.devfn) : place.name),
      interrupt(place.interrupt),
      config(model->description()),
      isolation(place.isolation),
      physical(place.physical),
      endpoint(std::make_unique<iommu::Endpoint>(host, bdf, place.requesterId, unit, group)),
      model_(std::move(model)) {
  if (bus.bridge) isolation.bridge = &bus.bridge->isolation;
  if (isolation.multifunction)
    config.set(regHeaderType, 1, config.read(regHeaderType, 1) | headerMultifunction);
  if (isolation.acs && description().express && isolation.kind != PortKind::conventionalBridge)
    config.addAcs(isolation.kind != PortKind::endpoint);
  if (place.sriov) {
    sriov = std::make_unique<Sriov>(Sriov{*place.sriov});
    config.addSriov(*place.sriov);
  }
  if (description().express && place.pasidBits != 0) config.addPasid(place.pasidBits);
  // Behind an IOMMU that stalls accesses, a device needs no capability to have missing pages requested.
  if (description().express && place.pageRequests && unit.pageRequests != iommu::PageRequestKind::stall)
    config.addPageRequests(place.pasidBits != 0);
  if (physical) {
    config.makeVirtual();
    endpoint->physical = physical->endpoint.get();
  }
  openBarWindow(config);
  config.set(regInterruptLine, 1, place.interrupt);
  config.set(regCommand, 2, place.command);
  for (unsigned i = 0; i < resources.size(); ++i) {
    const auto& bar = description().bars[i];
    if (bar.kind == devices::BarKind::none) continue;
    resources[i] = {place.addresses[i], bar.size, bar.kind, bar.prefetchable, resourceFlags(bar)};
    config.write(regBar0 + 4 * i, 4, static_cast<uint32_t>(place.addresses[i]));
    if (bar.kind == devices::BarKind::memory64) {
      config.write(regBar0 + 4 * i + 4, 4, static_cast<uint32_t>(place.addresses[i] >> 32));
    }
    if (bar.hasMemory()) memory_[i] = std::make_shared<Memory>(bar.size);
  }
  // A driver can tell a device something in memory, which nobody sees: such a device was always told just
  // now.
  if (hasMemory()) endpoint->stored = UINT64_MAX;
  const auto vectors = description().msix.vectors;
  msixTable_.assign(vectors * size_t{msixEntrySize}, 0);
  for (unsigned i = 0; i < vectors; ++i) msixTable_[i * msixEntrySize + msixEntryControl] = 1;  // masked
  msixPending_.assign(vectors, false);
  bus.functions.push_back(this);
  if (model_->remote()) remote_ = std::make_shared<RemotePort>(host, *this);
  model_->plug(remote_ ? static_cast<devices::Port&>(*remote_) : *this);
}

Function::~Function() {
  std::erase(bus.functions, this);
  host.engine().cancel(this);
  if (!remote_) return;
  // The model may have to wait for threads of its own, which wait for the lock. Until it is destroyed, it can
  // use its port and the memory of its BARs.
  remote_->detach();
  host.afterCall([&host = host, memory = std::move(memory_), port = std::move(remote_),
                  model = std::move(model_)]() mutable { host.unlocked([&model] { model.reset(); }); });
}

template <typename Call>
void Function::callModel(const Call& call) {
  if (!remote_) return call();
  const Busy busy(*this);
  host.unlocked(call);
}

Function::Memory::Memory(size_t bytesOfBar) : fd(memfd_create("vfio-bar", MFD_CLOEXEC)) {
  size = bytesOfBar;
  void* mapped = MAP_FAILED;
  if (fd >= 0 && ftruncate(fd, static_cast<off_t>(size)) == 0)
    mapped = ::mmap(nullptr, size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
  if (mapped == MAP_FAILED) {
    const int error = errno;
    if (fd >= 0) ::close(fd);
    throw std::system_error(error, std::generic_category(), "memfd_create");
  }
  bytes = static_cast<uint8_t*>(mapped);
}

Function::Memory::~Memory() {
  ::munmap(bytes, size);
  ::close(fd);
}

bool Function::isBridge() const { return (config.read(regHeaderType, 1) & 0x7f) == 1; }

uint16_t Function::command() const { return static_cast<uint16_t>(config.read(regCommand, 2)); }

// ---------------------------------------------------------------- the bus side

uint32_t Function::configRead(unsigned offset, unsigned width) const {
  if (gone_) return UINT32_MAX >> (32 - 8 * width);
  uint32_t value = config.read(offset, width);
  // Interrupt Status follows the pin, whether it is disabled or not.
  for (unsigned i = 0; i < width; ++i) {
    if (offset + i == regStatus && line_) value |= uint32_t{statusInterrupt} << 8 * i;
  }
  const auto window = barWindowAt(config, offset);
  if (!window || remote_ || window->bar >= resources.size() || !decodes(window->bar) ||
      uint64_t{window->offset} + window->width > resources[window->bar].size)
    return value;
  const uint64_t there = model_->read(window->bar, window->offset, window->width);
  for (unsigned i = 0; i < width; ++i) {
    const unsigned at = offset + i - window->data;
    if (at >= window->width) break;
    value = (value & ~(uint32_t{0xff} << 8 * i)) | static_cast<uint32_t>(there >> 8 * at & 0xff) << 8 * i;
  }
  return value;
}

void Function::configWrite(unsigned offset, unsigned width, uint32_t value) {
  if (gone_) return;
  const bool disabled = (command() & commandIntxDisable) != 0;
  const bool hadPin = !messagesEnabled();
  config.write(offset, width, value);
  const unsigned express = config.findCapability(capExpress);
  if (express != 0 && (config.read(express + expressDeviceControl, 2) & expressStartFlr) != 0) {
    reset(devices::ResetKind::function);
    return;
  }
  // A function that sends messages has stopped asserting its line. It asserts the line again only for a new
  // interrupt.
  if (messagesEnabled()) {
    if (hadPin && line_) unheard_ = 0;  // the program waits for a message of what the line has told
    line_ = false;
    noteMessages();
  }
  if (disabled && (command() & commandIntxDisable) == 0) updateLine();
  flushPending();
  if (const auto window = barWindowAt(config, offset))
    barWrite(window->bar, window->offset, window->width, config.read(window->data, window->width));
}

bool Function::asleep() const {
  return description().power &&
         (config.read(config.findCapability(capPower) + powerControl, 2) & powerStateMask) != 0;
}

bool Function::decodes(unsigned bar) const {
  if (gone_ || asleep()) return false;
  if (physical) {
    const auto& space = physical->config;
    return (space.read(space.findExtended(extendedSriov) + sriovControl, 2) & sriovMemory) != 0;
  }
  const bool io = resources[bar].kind == devices::BarKind::io;
  return (command() & (io ? commandIo : commandMemory)) != 0;
}

bool Function::inMsixTable(unsigned bar, uint64_t offset) const {
  const auto& msix = description().msix;
  return msix.vectors != 0 && bar == msix.bar && offset >= msix.table &&
         offset < msix.table + msixTable_.size();
}

uint64_t Function::barRead(unsigned bar, uint64_t offset, unsigned width) {
  const bool inside =
      bar < resources.size() && offset <= resources[bar].size && width <= resources[bar].size - offset;
  const uint64_t allOnes = ~uint64_t{0} >> (64 - 8 * width);
  if (!inside || !decodes(bar)) return allOnes;
  if (memory_[bar] && description().bars[bar].isMemory(offset, width))
    return load(memory_[bar]->bytes + offset, width);
  const auto& msix = description().msix;
  if (inMsixTable(bar, offset)) return load(msixTable_.data() + (offset - msix.table), width);
  if (msix.vectors != 0 && bar == msix.bar && offset >= msix.pending &&
      offset < msix.pending + (msix.vectors + 63) / 64 * 8) {
    uint64_t value = 0;
    for (unsigned i = 0; i < 8 * width; ++i) {
      const uint64_t vector = 8 * (offset - msix.pending) + i;
      if (vector < msix.vectors && msixPending_[vector]) value |= uint64_t{1} << i;
    }
    return value;
  }
  // A model may give more bits than the access has: all ones, whatever the width.
  if (!remote_) return model_->read(bar, offset, width) & allOnes;
  uint64_t value = 0;
  callModel([&] { value = model_->read(bar, offset, width); });
  return value & allOnes;
}

void Function::barWrite(unsigned bar, uint64_t offset, unsigned width, uint64_t value) {
  if (bar >= resources.size() || offset > resources[bar].size || width > resources[bar].size - offset) return;
  if (!decodes(bar)) return;
  noteStore();
  if (memory_[bar] && description().bars[bar].isMemory(offset, width)) {
    std::memcpy(memory_[bar]->bytes + offset, &value, width);
  } else if (inMsixTable(bar, offset)) {
    std::memcpy(msixTable_.data() + (offset - description().msix.table), &value, width);
    flushPending();
  } else if (!remote_) {
    model_->write(bar, offset, width, value);
  } else {
    callModel([&] { model_->write(bar, offset, width, value); });
  }
}

int Function::memoryFd(unsigned bar) const {
  return bar < memory_.size() && memory_[bar] ? memory_[bar]->fd : -1;
}

uint8_t* Function::memory(unsigned bar) {
  return bar < memory_.size() && memory_[bar] ? memory_[bar]->bytes : nullptr;
}

std::shared_ptr<devices::BarMemory> Function::sharedMemory(unsigned bar) {
  return bar < memory_.size() ? memory_[bar] : nullptr;
}

void Function::reset(devices::ResetKind kind) {
  if (gone_) return;
  noteMasked();
  ++resets_;
  hadMessages_ = false;
  unheard_.reset();
  host.engine().cancel(this);
  overtaken_.clear();
  endpoint->dma.drop();
  config.reset();
  for (unsigned i = 0; i < description().msix.vectors; ++i) {
    std::fill_n(msixTable_.begin() + i * msixEntrySize, msixEntrySize, uint8_t{0});
    msixTable_[i * msixEntrySize + msixEntryControl] = 1;
  }
  std::fill(msixPending_.begin(), msixPending_.end(), false);
  line_ = false;
  resetModel(kind);
  if (!sriov) return;
  for (auto* each : sriov->functions) {
    if (each) each->reset(kind);
  }
}

// A model that lives elsewhere is told of the reset after the call has restored everything else.
void Function::resetModel(devices::ResetKind kind) {
  if (!remote_) return model_->resetBy(kind);
  remote_->beginReset();
  host.afterCall([this, kind, busy = std::make_shared<Busy>(*this)] {
    host.unlocked([this, kind] { model_->resetBy(kind); });
    remote_->endReset();
  });
}

void Function::vanish() {
  gone_ = true;
  ++resets_;  // ends what is under way
  host.engine().cancel(this);
  endpoint->dma.drop();
  line_ = false;
  std::fill(msixPending_.begin(), msixPending_.end(), false);
  if (!sriov) return;
  for (auto* each : sriov->functions) {
    if (each) each->vanish();
  }
}

std::vector<uint8_t> Function::saveModel() {
  std::vector<uint8_t> state;
  callModel([&] { state = model_->save(); });
  return state;
}

bool Function::loadModel(std::span<const uint8_t> state) {
  bool loaded = false;
  callModel([&] { loaded = model_->load(state); });
  return loaded;
}

int Function::tryReset() {
  if (gone_) return -ENOTTY;
  // The kernel tries the methods in order. It refuses a bus reset while other functions share the bus, even
  // though the method was listed when the first of them was found.
  const bool alone = bus.bridge != nullptr && bus.functions.size() == 1 && !isBridge();
  const bool listed = std::ranges::find(resets(), "bus") != resets().end();
  if (resetKind() == devices::ResetKind::bus && !(alone && listed)) return -ENOTTY;
  const auto state = saveState();
  reset(resetKind());
  restoreState(state);
  return 0;
}

Function::State Function::saveState() const {
  State state{std::vector<uint32_t>(config.size() / 4), msixTable_};
  for (unsigned i = 0; i < state.config.size(); ++i) state.config[i] = config.read(4 * i, 4);
  return state;
}

void Function::restoreState(const State& state) {
  msixTable_ = state.msixTable;
  // BARs and capabilities are restored before the command register, so that nothing decodes at a wrong
  // address. The status half of that register is left alone: writing it would clear errors.
  for (auto i = static_cast<unsigned>(state.config.size()); i-- > 0;) {
    if (i != regCommand / 4) config.write(4 * i, 4, state.config[i]);
  }
  configWrite(regCommand, 2, state.config[regCommand / 4] & 0xffff);
}

// ---------------------------------------------------------------- interrupts

void Function::setInterruptHandler(InterruptHandler* handler) {
  handler_ = handler;
  if (!handler) {
    noteMasked();
    hadMessages_ = false;
    unheard_.reset();
    return;
  }
  updateLine();
  flushPending();
}

void Function::setLine(bool asserted) {
  line_ = asserted;
  updateLine();
}

void Function::updateLine() {
  if (handler_ && line_ && (command() & commandIntxDisable) == 0) handler_->line();
}

bool Function::messagesEnabled() const {
  const unsigned msi = config.findCapability(capMsi);
  if (msi != 0 && (config.read(msi + msiFlags, 2) & msiEnable) != 0) return true;
  const unsigned msix = config.findCapability(capMsix);
  return msix != 0 && (config.read(msix + msixFlags, 2) & msixEnable) != 0;
}

bool Function::vectorMasked(unsigned vector) const {
  const unsigned at = config.findCapability(capMsix);
  return (config.read(at + msixFlags, 2) & msixMaskAll) != 0 ||
         (msixTable_[vector * msixEntrySize + msixEntryControl] & 1) != 0;
}

void Function::sendMessage(unsigned vector) {
  const unsigned msix = config.findCapability(capMsix);
  const unsigned msi = config.findCapability(capMsi);
  if (msix != 0 && (config.read(msix + msixFlags, 2) & msixEnable) != 0) {
    if (vector >= msixPending_.size()) return;
    if (vectorMasked(vector)) {
      msixPending_[vector] = true;
      return;
    }
  } else if (msi != 0 && (config.read(msi + msiFlags, 2) & msiEnable) != 0) {
    // A device that is given fewer vectors than it has maps the others onto the given ones.
    const unsigned granted = 1U << ((config.read(msi + msiFlags, 2) & msiEnabledMask) >> 4);
    vector %= granted;
  } else {
    // With a pin the device can assert that instead.
    if (description().interruptPin != 0) return;
    if (hadMessages_) {
      noteLost(vector, "interrupts were disabled");
    } else {
      unheard_ = vector;
    }
    return;
  }
  // A message is a write to memory by the device.
  if (!mayMaster(messageWindow, 4, true, std::nullopt)) return;
  deliverMessage(vector);
}

void Function::setVector(unsigned vector, bool enabled) {
  uint8_t* entry = msixTable_.data() + vector * msixEntrySize;
  const std::array<uint32_t, 4> words{messageWindow, 0, vector, enabled ? 0U : 1U};
  std::memcpy(entry, words.data(), sizeof words);
  flushPending();
}

void Function::flushPending() {
  const unsigned msix = config.findCapability(capMsix);
  if (msix == 0 || (config.read(msix + msixFlags, 2) & msixEnable) == 0) return;
  for (unsigned vector = 0; vector < msixPending_.size(); ++vector) {
    if (!msixPending_[vector] || vectorMasked(vector)) continue;
    msixPending_[vector] = false;
    sendMessage(vector);
  }
}

// ---------------------------------------------------------------- for a sanitizer

bool Function::hasMemory() const {
  return std::ranges::any_of(memory_, [](const auto& each) { return each != nullptr; });
}

void Function::noteStore() {
  storedIn_ = resets_;
  if (hasMemory()) return;
  if (host.watcher() != nullptr) endpoint->stored = DmaWatch::now();
}

void Function::noteLost(unsigned vector, const char* reason) {
  if (DmaWatch* const watch = host.watcher()) watch->lostInterrupt(bdf, vector, reason);
}

// A program that polls need not enable messages, so one that comes before is lost only if it enables them
// later: then it waits for them.
void Function::noteMessages() {
  hadMessages_ = true;
  if (unheard_) noteLost(*unheard_, "it came before interrupts were enabled");
  unheard_.reset();
}

void Function::noteMasked() {
  for (unsigned vector = 0; vector < msixPending_.size(); ++vector) {
    if (msixPending_[vector]) noteLost(vector, "it was masked, or not enabled, until the device was closed");
  }
}

// ---------------------------------------------------------------- time, and the fault log

void Function::refuseDma(uint64_t iova, uint64_t length, bool write, std::string reason) {
  host.reportFault({bdf, iova, length, write, std::move(reason)});
}

bool Function::post(std::chrono::nanoseconds delay, std::function<void()> job) {
  later(delay, [this, job = std::move(job)] {
    host.trace("work", bdf);
    callModel(job);
  });
  return true;
}

}  // namespace vfio::soft::pci
