// The registers of the controller, and its lives.
#include "controller.h"

#include <bit>
#include <utility>

namespace vfio::soft::devices {

namespace nvme {

namespace {

constexpr uint64_t lowHalf = 0xffffffff;

constexpr Description controller{
    .vendor = 0x1b36,
    .device = 0x0010,
    .subsystemVendor = 0x1af4,
    .subsystem = 0x1100,
    .classCode = 0x010802,
    .revision = 2,
    .bars = {{{.kind = BarKind::memory64, .size = barSize}}},
    .interruptPin = 1,
    .msix = {.vectors = queuePairs, .bar = 0, .table = vectorTable, .pending = pendingTable},
    .express = true,
    .functionReset = true,
};

void setHalf(uint64_t& value, bool upper, uint32_t half) {
  value = upper ? (value & lowHalf) | uint64_t{half} << 32 : (value & ~lowHalf) | half;
}

}  // namespace

Controller::Controller(const NvmeOptions& options)
    : blockSize_(options.blockSize), doorbellStride_(options.doorbellStride), storage_(options) {}

const Description& Controller::description() const { return controller; }

// Registers are read in any width. Narrow writes do nothing, wide ones are two of four bytes.
uint64_t Controller::read(unsigned, uint64_t offset, unsigned width) {
  if (width == 8) return readRegister(offset) | uint64_t{readRegister(offset + 4)} << 32;
  const uint64_t value = readRegister(offset & ~uint64_t{3}) >> (offset % 4 * 8);
  return width == 4 ? value : value & ((uint64_t{1} << width * 8) - 1);
}

void Controller::write(unsigned, uint64_t offset, unsigned width, uint64_t value) {
  if (width < 4) return;
  writeRegister(offset, static_cast<uint32_t>(value));
  if (width == 8) writeRegister(offset + 4, static_cast<uint32_t>(value >> 32));
}

void Controller::reset() {
  endLife();
  registers_ = {};
}

uint32_t Controller::readRegister(uint64_t offset) const {
  switch (offset) {
    case regCap:
      return static_cast<uint32_t>(capabilities());
    case regCap + 4:
      return static_cast<uint32_t>(capabilities() >> 32);
    case regVersion:
      return version;
    case regMaskSet:
    case regMaskClear:
      return registers_.mask;
    case regConfiguration:
      return registers_.configuration;
    case regStatus:
      return registers_.status;
    case regAdminSizes:
      return registers_.adminSizes;
    case regAdminSubmission:
      return static_cast<uint32_t>(registers_.adminSubmission);
    case regAdminSubmission + 4:
      return static_cast<uint32_t>(registers_.adminSubmission >> 32);
    case regAdminCompletion:
      return static_cast<uint32_t>(registers_.adminCompletion);
    case regAdminCompletion + 4:
      return static_cast<uint32_t>(registers_.adminCompletion >> 32);
    default:
      return 0;  // doorbells too
  }
}

void Controller::writeRegister(uint64_t offset, uint32_t value) {
  constexpr uint32_t pageMask = ~uint32_t{0xfff};
  switch (offset) {
    case regMaskSet:
      registers_.mask |= value;
      return updateLine();
    case regMaskClear:
      registers_.mask &= ~value;
      return updateLine();
    case regConfiguration:
      return configure(value & ccWritable);
    case regAdminSizes:
      registers_.adminSizes = value & 0x0fff0fff;
      return;
    case regAdminSubmission:
      return setHalf(registers_.adminSubmission, false, value & pageMask);
    case regAdminSubmission + 4:
      return setHalf(registers_.adminSubmission, true, value);
    case regAdminCompletion:
      return setHalf(registers_.adminCompletion, false, value & pageMask);
    case regAdminCompletion + 4:
      return setHalf(registers_.adminCompletion, true, value);
    default:
      if (offset >= doorbells && offset < vectorTable) ring(offset - doorbells, value);
  }
}

uint64_t Controller::capabilities() const {
  constexpr uint64_t contiguousQueues = 1 << 16;
  constexpr uint64_t timeout = 20 << 24;  // times 500 ms
  constexpr uint64_t commandSet = uint64_t{1} << 37;
  const auto stride = static_cast<uint64_t>(std::countr_zero(doorbellStride_) - 2);
  return (queueEntries - 1) | contiguousQueues | timeout | stride << 32 | commandSet |
         uint64_t{pageShiftLeast - 12} << 48 | uint64_t{pageShiftMost - 12} << 52;
}

// Fields other than the enable bit and the shutdown notification may change only while the controller is
// disabled; the driver is not stopped from breaking that rule, but the change has no effect on queues.
void Controller::configure(uint32_t value) {
  const uint32_t before = std::exchange(registers_.configuration, value);
  const bool enabled = (value & ccEnable) != 0;
  const bool wasEnabled = (before & ccEnable) != 0;
  if (wasEnabled && !enabled) {
    endLife();
    registers_.status = 0;
  } else if (enabled && !wasEnabled) {
    later([this] { enable(); });
  }
  if (ccShutdown(value) != 0 && ccShutdown(before) == 0) {
    registers_.status = (registers_.status & ~statusShutdownMask) | statusShuttingDown;
    later([this] { shutDown(); });
  }
}

void Controller::enable() {
  const uint32_t cc = registers_.configuration;
  const uint32_t submission = (registers_.adminSizes & 0xfff) + 1;
  const uint32_t completion = (registers_.adminSizes >> 16 & 0xfff) + 1;
  const uint32_t shift = ccPageShift(cc);
  const uint64_t inPage = (uint64_t{1} << shift) - 1;
  const bool possible = ccCommandSet(cc) == 0 && ccArbitration(cc) == 0 && shift >= pageShiftLeast &&
                        shift <= pageShiftMost && submission > 1 && completion > 1 &&
                        ((registers_.adminSubmission | registers_.adminCompletion) & inPage) == 0;
  if (!possible) {
    registers_.status |= statusFatal;
    return;
  }
  submissions_[0] = {.base = registers_.adminSubmission, .size = submission};
  completions_[0] = {.base = registers_.adminCompletion, .size = completion, .phase = 1, .interrupts = 1};
  registers_.status |= statusReady;
}

// What a reset of any kind ends. The registers that the driver has set stay.
void Controller::endLife() {
  ++life_;
  scheduled_ = false;
  submissions_ = {};
  completions_ = {};
  features_ = initialFeatures();
  eventRequests_.clear();
  events_ = 0;
  eventsHeld_ = false;
  registers_.mask = 0;
  updateLine();
}

void Controller::shutDown() {
  registers_.status = (registers_.status & ~statusShutdownMask) | statusShutDown;
}

bool Controller::running() const {
  return (registers_.status & (statusReady | statusFatal | statusShutdownMask)) == statusReady;
}

void Controller::later(std::function<void()> job) {
  port_->post(std::chrono::nanoseconds::zero(), [this, life = life_, job = std::move(job)] {
    if (life == life_) job();
  });
}

}  // namespace nvme

std::unique_ptr<Device> makeNvme(const NvmeOptions& options) {
  return std::make_unique<nvme::Controller>(options);
}

}  // namespace vfio::soft::devices
