// See session.h. Opening and closing, interrupts, reset and low power.
#include "session.h"

#include <cerrno>
#include <utility>

#include "../../uapi/vfio.h"
#include "../core/services.h"
#include "../iommu/endpoint.h"
#include "../iommu/sva.h"
#include "../pci/function.h"
#include "../pci/registers.h"
#include "device.h"

namespace vfio::soft::cdev {

using namespace uapi;
using namespace pci;

namespace {

void clearMaster(Function& function) {
  const uint16_t command = function.command();
  if ((command & commandMaster) != 0) {
    function.configWrite(regCommand, 2, static_cast<uint16_t>(command & ~commandMaster));
  }
}

// What pci_enable_device does: turns on the decoding that the BARs need (I/O, memory).
void enable(Function& function) {
  uint16_t decode = 0;
  for (const auto& resource : function.resources) {
    if (resource.address == 0) continue;
    decode |= resource.kind == devices::BarKind::io ? commandIo : commandMemory;
  }
  ++function.enableCount;
  const uint16_t command = function.command();
  if ((command & decode) != decode) function.configWrite(regCommand, 2, command | decode);
}

// The part of an open that must come before the config view copies config space. Returns the state that the
// close restores.
Function::State open(Function& function, bool& resetWorks) {
  clearMaster(function);
  enable(function);
  resetWorks = function.tryReset() == 0;
  auto state = function.saveState();
  const uint16_t command = function.command();
  if ((command & commandIntxDisable) != 0) {
    function.configWrite(regCommand, 2, static_cast<uint16_t>(command & ~commandIntxDisable));
  }
  return state;
}

}  // namespace

Session::Session(Device& device)
    : device_(device),
      function_(device.function),
      saved_(open(device.function, resetWorks_)),
      interrupts_(device.host, device.function),
      config_(device.function, interrupts_) {}

Session::~Session() {
  clearMaster(function_);
  function_.host.sva().close(endpoint());
  interrupts_.disable();
  removeIoEvents();
  device_.needsReset = true;
  function_.configWrite(regCommand, 2, commandIntxDisable);
  if (resetWorks_) {
    function_.reset(function_.resetKind());
    device_.needsReset = false;
  }
  function_.restoreState(saved_);
  clearMaster(function_);
  if (function_.enableCount > 0) --function_.enableCount;
  interrupts_.releaseSingles();
  // The session that ends last resets the bus, if vfio-pci holds every function on it.
  if (function_.bus.bridge == nullptr || !busHeldByVfio(function_)) return;
  bool needed = false;
  for (const auto* other : function_.bus.functions) {
    const Device& device = *Device::of(*other);
    if (other != &function_ && device.session) return;
    needed |= device.needsReset;
  }
  if (needed) resetBus(function_);
}

void Session::wake() {
  if (!asleep_ || !wakeup_) return;
  wakeup_->signal();
  wakeup_.reset();
  asleep_ = false;
}

void Session::leaveSleep() {
  asleep_ = false;
  wakeup_.reset();
}

int Session::sleep(std::shared_ptr<EventFd> wakeup) {
  if (asleep_) return -EINVAL;
  asleep_ = true;
  wakeup_ = std::move(wakeup);
  return 0;
}

int Session::reset() {
  if (!resetWorks_) return -EINVAL;
  return function_.tryReset();
}

int Session::irqDataSize(const vfio_irq_set& request, size_t& size) const {
  const unsigned vectors = interrupts_.count(request.index, config_.interruptPin());
  constexpr uint32_t known = VFIO_IRQ_SET_DATA_TYPE_MASK | VFIO_IRQ_SET_ACTION_TYPE_MASK;
  if (request.index >= VFIO_PCI_NUM_IRQS || request.count >= UINT32_MAX - request.start ||
      (request.flags & ~known) != 0) {
    return -EINVAL;
  }
  if (request.start >= vectors || request.start + request.count > vectors) return -EINVAL;
  size_t width = 0;
  switch (request.flags & VFIO_IRQ_SET_DATA_TYPE_MASK) {
    case VFIO_IRQ_SET_DATA_NONE:
      break;
    case VFIO_IRQ_SET_DATA_BOOL:
      width = sizeof(uint8_t);
      break;
    case VFIO_IRQ_SET_DATA_EVENTFD:
      width = sizeof(int32_t);
      break;
    default:
      return -EINVAL;
  }
  size = request.count * width;  // at most 2048 vectors of 4 bytes
  return 0;
}

int Session::setIrqs(const vfio_irq_set& request, std::span<const uint8_t> data) {
  size_t size = 0;
  if (const int failed = irqDataSize(request, size)) return failed;
  return data.size() < size ? -EINVAL : interrupts_.set(request, data.first(size));
}

}  // namespace vfio::soft::cdev
