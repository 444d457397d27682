// The logs of the controller, and the events that lead a driver to them.
#include <algorithm>
#include <cstring>

#include "controller.h"

namespace vfio::soft::devices::nvme {

namespace {

enum LogPage : uint32_t { logErrors = 1, logHealth = 2, logFirmware = 3 };

constexpr size_t pageSize = 512;
using Page = std::array<uint8_t, pageSize>;

template <typename Value>
void put(Page& page, size_t at, const Value& value) {
  std::memcpy(page.data() + at, &value, sizeof value);
}

Page healthPage(const Health& health) {
  constexpr uint64_t unit = 1000;  // of blocks of 512 bytes, rounded up
  Page page{};
  put<uint16_t>(page, 1, temperatureNow);
  page[3] = 100;  // per cent of spare blocks
  page[4] = 10;   // fewer would be a warning
  put(page, 32, (health.blocksRead + unit - 1) / unit);
  put(page, 48, (health.blocksWritten + unit - 1) / unit);
  put(page, 64, health.reads);
  put(page, 80, health.writes);
  page[112] = 1;  // times that it was switched on
  put(page, 176, health.errors);
  return page;
}

Page firmwarePage() {
  Page page{};
  page[0] = 1;  // the slot in use
  std::memcpy(page.data() + 8, "1.0     ", 8);
  return page;
}

}  // namespace

Outcome Controller::readLog(const Command& command) {
  if (command.nsid != 0 && command.nsid != broadcast) return Status::invalidField;
  const uint64_t size = ((command.dw10 >> 16 | uint64_t{command.dw11 & 0xffff} << 16) + 1) * 4;
  const uint64_t offset = command.dw12 | uint64_t{command.dw13} << 32;
  const bool keepEvent = (command.dw10 & 1 << 15) != 0;
  if (size > uint64_t{4096} << transferShift) return Status::invalidField;
  Page page{};
  switch (command.dw10 & 0xff) {
    case logErrors:
      std::memcpy(page.data(), errors_.data(), sizeof errors_);
      break;
    case logHealth:
      page = healthPage(health_);
      break;
    case logFirmware:
      page = firmwarePage();
      break;
    default:
      return Status::invalidLogPage;
  }
  if (offset % 4 != 0 || offset > page.size()) return Status::invalidField;
  // Zeroes follow where the log ends.
  std::vector<uint8_t> bytes(size);
  std::copy_n(page.begin() + static_cast<ptrdiff_t>(offset), std::min(size, page.size() - offset),
              bytes.begin());
  const uint64_t life = life_;
  const Status status = answer(command, bytes);
  if (life == life_ && status == Status::success && (command.dw10 & 0xff) == logErrors && !keepEvent) {
    eventsHeld_ = false;
    if (events_ != 0) schedule();
  }
  return status;
}

void Controller::recordError(unsigned queue, const Command& command, Status status) {
  std::shift_right(errors_.begin(), errors_.end(), 1);
  errors_.front() = {.count = ++health_.errors,
                     .submission = static_cast<uint16_t>(queue),
                     .command = command.id,
                     .status = static_cast<uint16_t>(static_cast<uint16_t>(status) << 1),
                     .location = 0xffff,  // not of one field alone
                     .block = queue == 0 ? 0 : command.dw10 | uint64_t{command.dw11} << 32,
                     .nsid = command.nsid,
                     .reserved = {}};
}

void Controller::raiseEvent(Event event) {
  events_ |= uint32_t{1} << static_cast<uint32_t>(event);
  schedule();
}

// An event ends one of the commands that wait for it.
void Controller::sendEvents() {
  constexpr uint32_t withLog = logErrors << 16;
  const uint64_t life = life_;
  for (uint32_t event = 0; event < eventKinds; ++event) {
    const uint32_t bit = uint32_t{1} << event;
    if ((events_ & bit) == 0 || eventsHeld_ || eventRequests_.empty() || !running() || completions_[0].full())
      continue;
    const uint16_t id = eventRequests_.front();
    eventRequests_.erase(eventRequests_.begin());
    events_ &= ~bit;
    eventsHeld_ = true;
    complete(0, id, Outcome(withLog | event << 8));
    if (life != life_) return;
    interrupt(completions_[0]);
  }
}

}  // namespace vfio::soft::devices::nvme
