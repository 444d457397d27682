// Opening and closing, the requests that are about the whole device, and features.
#include "session.h"

#include <cstddef>

#include "../../uapi/vfio.h"
#include "../core/engine.h"
#include "../core/services.h"
#include "../mm/memory.h"
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

// pci_enable_device: decoding of what the BARs need.
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

// What is to be done before the config view takes its copy: the state that close goes back to.
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
  interrupts_.disable();
  removeIoEvents();
  device_.needsReset = true;
  function_.configWrite(regCommand, 2, commandIntxDisable);
  if (resetWorks_) {
    function_.reset();
    device_.needsReset = false;
  }
  function_.restoreState(saved_);
  clearMaster(function_);
  if (function_.enableCount > 0) --function_.enableCount;
  interrupts_.releaseSingles();
  // The last one out resets the bus, if everybody on it is VFIO's.
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

int Session::ioctl(unsigned long request, UserAddress argument) {
  const bool isForBus = request == VFIO_DEVICE_GET_PCI_HOT_RESET_INFO || request == VFIO_DEVICE_PCI_HOT_RESET;
  if (isForBus && function_.isMediated()) return -ENOTTY;  // it is on none
  switch (request) {
    case VFIO_DEVICE_GET_INFO:
      return getInfo(argument);
    case VFIO_DEVICE_GET_REGION_INFO:
      return getRegionInfo(argument);
    case VFIO_DEVICE_GET_IRQ_INFO:
      return getIrqInfo(argument);
    case VFIO_DEVICE_SET_IRQS:
      return setIrqs(argument);
    case VFIO_DEVICE_RESET:
      return reset();
    case VFIO_DEVICE_GET_PCI_HOT_RESET_INFO:
      return getHotResetInfo(argument);
    case VFIO_DEVICE_PCI_HOT_RESET:
      return hotReset(argument);
    case VFIO_DEVICE_IOEVENTFD:
      return setIoEvent(argument);
    case VFIO_DEVICE_FEATURE:
      return feature(argument);
    default:
      return -ENOTTY;
  }
}

int Session::reset() {
  if (!resetWorks_) return -EINVAL;
  return function_.tryReset();
}

int Session::setIrqs(UserAddress argument) {
  vfio_irq_set request{};
  if (mm::Memory::copyIn(&request, argument, sizeof request) != 0) return -EFAULT;
  const unsigned vectors = interrupts_.count(request.index, config_.interruptPin());
  constexpr uint32_t known = VFIO_IRQ_SET_DATA_TYPE_MASK | VFIO_IRQ_SET_ACTION_TYPE_MASK;
  if (request.argsz < sizeof request || request.index >= VFIO_PCI_NUM_IRQS ||
      request.count >= UINT32_MAX - request.start || (request.flags & ~known) != 0) {
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
  const size_t size = request.count * width;  // at most 2048 vectors of 4 bytes
  if (request.argsz - sizeof request < size) return -EINVAL;
  std::vector<uint8_t> data(size);
  if (size != 0 && mm::Memory::copyIn(data.data(), argument + sizeof request, size) != 0) return -EFAULT;
  return interrupts_.set(request, data);
}

// ---------------------------------------------------------------- features

int Session::feature(UserAddress argument) {
  vfio_device_feature request{};
  if (mm::Memory::copyIn(&request, argument, sizeof request) != 0) return -EFAULT;
  if (request.argsz < sizeof request) return -EINVAL;
  constexpr uint32_t operations = VFIO_DEVICE_FEATURE_GET | VFIO_DEVICE_FEATURE_SET;
  if ((request.flags & ~(VFIO_DEVICE_FEATURE_MASK | operations | VFIO_DEVICE_FEATURE_PROBE)) != 0)
    return -EINVAL;
  if ((request.flags & VFIO_DEVICE_FEATURE_PROBE) == 0 && (request.flags & operations) == operations)
    return -EINVAL;
  const uint32_t number = request.flags & VFIO_DEVICE_FEATURE_MASK;
  switch (number) {
    case VFIO_DEVICE_FEATURE_PCI_VF_TOKEN:
      return setToken(request.flags, argument + sizeof request, request.argsz - sizeof request);
    case VFIO_DEVICE_FEATURE_LOW_POWER_ENTRY:
    case VFIO_DEVICE_FEATURE_LOW_POWER_ENTRY_WITH_WAKEUP:
    case VFIO_DEVICE_FEATURE_LOW_POWER_EXIT:
      return lowPower(request.flags, argument + sizeof request, request.argsz - sizeof request, number);
    default:
      return -ENOTTY;  // no migration, no DMA logging
  }
}

int Session::setToken(uint32_t flags, UserAddress argument, size_t size) {
  if (!device_.token) return -ENOTTY;
  if ((flags & VFIO_DEVICE_FEATURE_GET) != 0) return -EINVAL;  // it would tell the last user's
  if ((flags & VFIO_DEVICE_FEATURE_PROBE) != 0) return 0;
  if ((flags & VFIO_DEVICE_FEATURE_SET) == 0 || size < sizeof(Token)) return -EINVAL;
  Token token{};
  if (mm::Memory::copyIn(token.data(), argument, token.size()) != 0) return -EFAULT;
  device_.token = token;
  return 0;
}

int Session::lowPower(uint32_t flags, UserAddress argument, size_t size, uint32_t feature) {
  const bool withWakeup = feature == VFIO_DEVICE_FEATURE_LOW_POWER_ENTRY_WITH_WAKEUP;
  if ((flags & VFIO_DEVICE_FEATURE_GET) != 0) return -EINVAL;
  if ((flags & VFIO_DEVICE_FEATURE_PROBE) != 0) return 0;
  if ((flags & VFIO_DEVICE_FEATURE_SET) == 0) return -EINVAL;
  vfio_device_low_power_entry_with_wakeup entry{};
  if (withWakeup && size < sizeof entry) return -EINVAL;
  if (feature == VFIO_DEVICE_FEATURE_LOW_POWER_EXIT) {
    asleep_ = false;
    wakeup_.reset();
    return 0;
  }
  std::shared_ptr<EventFd> wakeup;
  if (withWakeup) {
    if (mm::Memory::copyIn(&entry, argument, sizeof entry) != 0) return -EFAULT;
    if (entry.wakeup_eventfd < 0) return -EINVAL;
    if (const int failed = EventFd::get(entry.wakeup_eventfd, wakeup)) return failed;
  }
  if (asleep_) return -EINVAL;
  asleep_ = true;
  wakeup_ = std::move(wakeup);
  return 0;
}

}  // namespace vfio::soft::cdev
