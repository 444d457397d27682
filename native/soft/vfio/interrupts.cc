// See interrupts.h. Data arrives as bytes: one byte for a boolean, four for a descriptor.
#include "interrupts.h"

#include <bit>
#include <cstring>

#include "../core/dma_watch.h"
#include "../core/engine.h"
#include "../core/services.h"
#include "../pci/registers.h"

namespace vfio::soft::cdev {

using namespace uapi;
using namespace pci;

namespace {

int descriptorAt(std::span<const uint8_t> data, unsigned i) {
  int32_t fd;
  std::memcpy(&fd, data.data() + 4 * i, sizeof fd);
  return fd;
}

}  // namespace

Interrupts::Interrupts(Services& host, Function& function) : host_(host), function_(function) {
  function_.setInterruptHandler(this);
}

Interrupts::~Interrupts() {
  disable();
  function_.setInterruptHandler(nullptr);
}

unsigned Interrupts::count(uint32_t index, uint8_t pin) const {
  switch (index) {
    case VFIO_PCI_INTX_IRQ_INDEX:
      return pin != 0 ? 1 : 0;
    case VFIO_PCI_MSI_IRQ_INDEX: {
      const unsigned at = function_.config.findCapability(capMsi);
      return at == 0 ? 0 : 1U << ((function_.configRead(at + msiFlags, 2) & msiCapableMask) >> 1);
    }
    case VFIO_PCI_MSIX_IRQ_INDEX: {
      const unsigned at = function_.config.findCapability(capMsix);
      return at == 0 ? 0 : (function_.configRead(at + msixFlags, 2) & msixSizeMask) + 1;
    }
    case VFIO_PCI_ERR_IRQ_INDEX:
      return function_.config.findCapability(capExpress) != 0 ? 1 : 0;
    case VFIO_PCI_REQ_IRQ_INDEX:
      return 1;
    default:
      return 0;
  }
}

int Interrupts::set(const vfio_irq_set& request, std::span<const uint8_t> data) {
  const uint32_t action = request.flags & VFIO_IRQ_SET_ACTION_TYPE_MASK;
  switch (request.index) {
    case VFIO_PCI_INTX_IRQ_INDEX:
      if (action == VFIO_IRQ_SET_ACTION_MASK) return setLineMask(request, data, true);
      if (action == VFIO_IRQ_SET_ACTION_UNMASK) return setLineMask(request, data, false);
      if (action == VFIO_IRQ_SET_ACTION_TRIGGER) return setLineTrigger(request, data);
      break;
    case VFIO_PCI_MSI_IRQ_INDEX:
    case VFIO_PCI_MSIX_IRQ_INDEX:
      if (action == VFIO_IRQ_SET_ACTION_TRIGGER) return setMessages(request, data);
      break;
    case VFIO_PCI_ERR_IRQ_INDEX:
      if (action == VFIO_IRQ_SET_ACTION_TRIGGER) return setSingle(error_, request, data);
      break;
    case VFIO_PCI_REQ_IRQ_INDEX:
      if (action == VFIO_IRQ_SET_ACTION_TRIGGER) return setSingle(request_, request, data);
      break;
    default:
      break;
  }
  return -ENOTTY;
}

void Interrupts::disable() {
  if (lineActive()) {
    disableLine();
  } else if (!idle()) {
    disableMessages();
  }
}

void Interrupts::requestRelease() {
  if (request_) request_->signal();
}

void Interrupts::releaseSingles() {
  error_.reset();
  request_.reset();
}

// ---------------------------------------------------------------- INTx

void Interrupts::writeCommandBit(bool disabled) {
  const uint16_t command = function_.command();
  const auto wanted =
      static_cast<uint16_t>(disabled ? command | commandIntxDisable : command & ~commandIntxDisable);
  if (wanted != command) function_.configWrite(regCommand, 2, wanted);
}

// The device asserts its pin: mask it until the program has handled the interrupt, and signal the program.
void Interrupts::line() {
  if (!lineActive() || masked_) return;
  masked_ = true;
  writeCommandBit(true);
  sendLine();
}

void Interrupts::sendLine() {
  if (lineActive() && !disabled_ && line_) line_->signal();
}

void Interrupts::mask() {
  if (!lineActive()) {
    writeCommandBit(true);
    return;
  }
  if (masked_) return;
  writeCommandBit(true);
  masked_ = true;
}

void Interrupts::unmask() {
  if (!lineActive()) {
    writeCommandBit(false);
    return;
  }
  if (!masked_ || disabled_) return;
  // The pin is still asserted: it stays masked, and the program is signalled again.
  if (function_.lineAsserted()) {
    sendLine();
    return;
  }
  masked_ = false;
  writeCommandBit(false);
}

void Interrupts::setDisabled(bool disabled) {
  if (disabled == disabled_) return;
  disabled_ = disabled;
  if (disabled) {
    mask();
  } else {
    unmask();
  }
}

int Interrupts::setLineMask(const vfio_irq_set& request, std::span<const uint8_t> data, bool masking) {
  if (!lineActive() || request.start != 0 || request.count != 1) return -EINVAL;
  if ((request.flags & VFIO_IRQ_SET_DATA_EVENTFD) != 0) {
    if (masking) return -ENOTTY;  // the kernel doesn't implement it either
    const int fd = descriptorAt(data, 0);
    if (fd >= 0) {
      Trigger source;
      if (const int failed = EventFd::get(fd, source)) return failed;
      if (unmaskFd_) return -EBUSY;
      unmaskWatch_ = host_.engine().watch(source->fd(), [this] { unmask(); });
      unmaskFd_ = std::move(source);
    } else if (unmaskFd_) {
      host_.engine().unwatch(unmaskWatch_);
      unmaskFd_.reset();
    }
    return 0;
  }
  const bool act = (request.flags & VFIO_IRQ_SET_DATA_NONE) != 0 || data[0] != 0;
  if (!act) return 0;
  if (masking) {
    mask();
  } else {
    unmask();
  }
  return 0;
}

int Interrupts::setLineTrigger(const vfio_irq_set& request, std::span<const uint8_t> data) {
  const bool bare = (request.flags & VFIO_IRQ_SET_DATA_NONE) != 0;
  if (lineActive() && request.count == 0 && bare) {
    disableLine();
    return 0;
  }
  if (!(lineActive() || idle()) || request.start != 0 || request.count != 1) return -EINVAL;
  if ((request.flags & VFIO_IRQ_SET_DATA_EVENTFD) != 0) {
    const int fd = descriptorAt(data, 0);
    Trigger trigger;
    if (fd >= 0) {
      if (const int failed = EventFd::get(fd, trigger)) return failed;
    }
    if (!lineActive()) {
      if (function_.interrupt == 0) return -ENODEV;
      line_ = std::move(trigger);
      active_ = VFIO_PCI_INTX_IRQ_INDEX;
      masked_ = disabled_;
      writeCommandBit(masked_);
      if (!masked_ && function_.lineAsserted()) line();
    } else {
      line_ = std::move(trigger);
    }
    return 0;
  }
  if (!lineActive()) return -EINVAL;
  if (bare || data[0] != 0) sendLine();
  return 0;
}

void Interrupts::disableLine() {
  // The program has not unmasked it since it was signalled, but the device has something to tell.
  DmaWatch* const watch = host_.watcher();
  if (watch != nullptr && masked_ && !disabled_ && line_ && function_.lineAsserted())
    watch->lostInterrupt(function_.bdf, 0, "INTx was masked, and the device still asserted it, at the end");
  if (unmaskFd_) host_.engine().unwatch(unmaskWatch_);
  unmaskFd_.reset();
  line_.reset();
  active_ = VFIO_PCI_NUM_IRQS;
}

// ---------------------------------------------------------------- MSI and MSI-X

int Interrupts::setMessages(const vfio_irq_set& request, std::span<const uint8_t> data) {
  const bool active = active_ == request.index;
  const bool bare = (request.flags & VFIO_IRQ_SET_DATA_NONE) != 0;
  if (active && request.count == 0 && bare) {
    disableMessages();
    return 0;
  }
  if (!active && !idle()) return -EINVAL;
  if ((request.flags & VFIO_IRQ_SET_DATA_EVENTFD) != 0) {
    std::vector<Source> sources;
    if (const int failed = sourcesOf(data, request.count, sources)) return failed;
    if (active) return setBlock(request.start, std::move(sources));
    const unsigned wanted = request.start + request.count;
    if (wanted == 0) return -ERANGE;  // the kernel's call: "at least one, at most none"
    enableMessages(request.index, wanted);
    const int failed = setBlock(request.start, std::move(sources));
    if (failed) disableMessages();
    return failed;
  }
  if (!active) return -EINVAL;
  for (unsigned i = 0; i < request.count; ++i) {
    const auto found = vectors_.find(request.start + i);
    if (found != vectors_.end() && (bare || data[i] != 0)) found->second->signal();
  }
  return 0;
}

void Interrupts::enableMessages(uint32_t index, unsigned vectors) {
  active_ = index;
  granted_ = vectors;
  // The kernel disables the pin while messages are enabled.
  writeCommandBit(true);
  if (index == VFIO_PCI_MSI_IRQ_INDEX) {
    const unsigned at = function_.config.findCapability(capMsi);
    const auto log2 = static_cast<unsigned>(std::bit_width(std::bit_ceil(vectors)) - 1);
    grantedLog2_ = static_cast<unsigned>(std::bit_width(2 * vectors - 1)) - 1;
    const uint32_t flags = function_.configRead(at + msiFlags, 2) & ~uint32_t{msiEnabledMask};
    function_.configWrite(at + msiAddress, 4, 0xfee00000);
    function_.configWrite(at + msiFlags, 2, flags | log2 << 4 | msiEnable);
  } else {
    const unsigned at = function_.config.findCapability(capMsix);
    const uint32_t flags = function_.configRead(at + msixFlags, 2) & ~uint32_t{msixMaskAll};
    function_.configWrite(at + msixFlags, 2, flags | msixEnable);
  }
}

void Interrupts::disableMessages() {
  const bool msix = active_ == VFIO_PCI_MSIX_IRQ_INDEX;
  if (msix) {
    for (const auto& [vector, trigger] : vectors_) function_.setVector(vector, false);
  }
  vectors_.clear();
  triggered_.clear();
  early_.clear();
  const unsigned at = function_.config.findCapability(msix ? capMsix : capMsi) + 2;
  const uint32_t enable = msix ? msixEnable : msiEnable;
  function_.configWrite(at, 2, function_.configRead(at, 2) & ~enable);
  writeCommandBit(false);
  active_ = VFIO_PCI_NUM_IRQS;
}

// This host duplicates descriptors, where a kernel needs none. So it makes all duplicates before it closes
// those that it already owns.
int Interrupts::sourcesOf(std::span<const uint8_t> data, unsigned count, std::vector<Source>& sources) {
  sources.resize(count);
  for (unsigned i = 0; i < count; ++i) {
    const int fd = descriptorAt(data, i);
    Source& source = sources[i];
    if (fd >= 0) source.failed = EventFd::get(fd, source.trigger);
    if (source.failed == -EMFILE || source.failed == -ENFILE) return source.failed;
  }
  return 0;
}

int Interrupts::setBlock(unsigned start, std::vector<Source> sources) {
  for (unsigned i = 0; i < sources.size(); ++i) {
    const int failed = setVector(start + i, std::move(sources[i]));
    if (!failed) continue;
    for (unsigned k = 0; k <= i; ++k) {
      if (setVector(start + k, {}) != 0) break;  // disconnecting can't fail
    }
    return failed;
  }
  return 0;
}

int Interrupts::setVector(unsigned vector, Source source) {
  const bool msix = active_ == VFIO_PCI_MSIX_IRQ_INDEX;
  if (vectors_.erase(vector) != 0 && msix) function_.setVector(vector, false);
  if (!source.trigger && source.failed == 0) return 0;
  // MSI vectors are enabled all at once; MSI-X vectors can be added while others are in use.
  if (!msix && vector >= granted_) return -EINVAL;
  if (source.failed != 0) return source.failed;
  const Trigger& set = vectors_[vector] = std::move(source.trigger);
  triggered_.insert(vector);
  if (early_.erase(vector) != 0) set->signal();
  if (msix) function_.setVector(vector, true);
  return 0;
}

void Interrupts::message(unsigned vector) {
  const auto found = vectors_.find(vector);
  if (found != vectors_.end()) {
    found->second->signal();
  } else if (messagesActive() && vector < granted_ && !triggered_.contains(vector)) {
    early_.insert(vector);
  } else if (DmaWatch* const watch = host_.watcher()) {
    watch->lostInterrupt(function_.bdf, vector, "the vector has no eventfd");
  }
}

// ---------------------------------------------------------------- ERR and REQ

int Interrupts::setSingle(Trigger& trigger, const vfio_irq_set& request, std::span<const uint8_t> data) {
  if (request.index == VFIO_PCI_ERR_IRQ_INDEX && function_.config.findCapability(capExpress) == 0)
    return -ENOTTY;
  if (request.start != 0 || request.count > 1) return -EINVAL;
  if ((request.flags & VFIO_IRQ_SET_DATA_NONE) != 0) {
    if (!trigger) return -EINVAL;
    if (request.count != 0) {
      trigger->signal();
    } else {
      trigger.reset();
    }
    return 0;
  }
  if (request.count == 0) return -EINVAL;
  if ((request.flags & VFIO_IRQ_SET_DATA_BOOL) != 0) {
    if (data[0] != 0 && trigger) trigger->signal();
    return 0;
  }
  const int fd = descriptorAt(data, 0);
  if (fd < -1) return -EINVAL;
  Trigger replacement;
  if (fd >= 0) {
    if (const int failed = EventFd::get(fd, replacement)) return failed;
  }
  trigger = std::move(replacement);
  return 0;
}

}  // namespace vfio::soft::cdev
