// The queues of the controller: doorbells, the fetching of commands, completions and their interrupts.
#include <new>

#include "../../core/fence.h"
#include "controller.h"

namespace vfio::soft::devices::nvme {

namespace {

constexpr unsigned burst = 8;  // commands of one queue, before the next one has its turn

}  // namespace

void Controller::ring(uint64_t doorbell, uint32_t value) {
  if (!running()) return;
  const uint64_t number = doorbell / doorbellStride_;
  const uint64_t index = number / 2;
  if (doorbell % doorbellStride_ != 0 || index >= queuePairs) return raiseEvent(Event::badDoorbell);
  if (number % 2 == 0) {
    auto& queue = submissions_[index];
    if (queue.size == 0) return raiseEvent(Event::badDoorbell);
    if (value >= queue.size) return raiseEvent(Event::badDoorbellValue);
    queue.tail = value;
  } else {
    auto& queue = completions_[index];
    if (queue.size == 0) return raiseEvent(Event::badDoorbell);
    // The head can move only over what was posted.
    const uint32_t posted = (queue.tail + queue.size - queue.head) % queue.size;
    if (value >= queue.size || (value + queue.size - queue.head) % queue.size > posted)
      return raiseEvent(Event::badDoorbellValue);
    queue.head = value;
    updateLine();
  }
  schedule();
}

void Controller::schedule() {
  if (scheduled_) return;
  scheduled_ = true;
  later([this] { work(); });
}

// One round over the queues. What is left is for the next one, so that others have their turn at the engine.
void Controller::work() {
  const uint64_t life = life_;
  const unsigned first = nextQueue_;
  nextQueue_ = (first + 1) % queuePairs;
  bool more = false;
  sendEvents();
  for (unsigned i = 0; i < queuePairs && running(); ++i) {
    const unsigned queue = (first + i) % queuePairs;
    if (submissions_[queue].size == 0) continue;
    const unsigned completions = submissions_[queue].completions;
    const uint32_t tail = completions_[completions].tail;
    unsigned done = 0;
    while (done < burst && doNext(queue)) ++done;
    if (life != life_) return;
    more |= done == burst;
    if (completions_[completions].tail != tail) interrupt(completions_[completions]);
  }
  scheduled_ = false;
  if (more && running()) schedule();
}

// Each access to memory may take long enough for the driver to end this life of the controller.
bool Controller::doNext(unsigned number) {
  const uint64_t life = life_;
  auto& queue = submissions_[number];
  if (!running() || queue.size == 0 || queue.head == queue.tail || completions_[queue.completions].full())
    return false;
  Command command;
  const bool fetched = port_->dmaRead(queue.base + uint64_t{queue.head} * sizeof command, &command,
                                      sizeof command, std::nullopt);
  if (life != life_) return false;
  if (!fetched) {
    failFatally();
    return false;
  }
  queue.head = (queue.head + 1) % queue.size;
  std::optional<Outcome> outcome;
  try {
    outcome = number == 0 ? admin(command) : io(command);
  } catch (const std::bad_alloc&) {
    outcome = Status::internalError;
  }
  if (life != life_) return false;
  if (outcome) {
    if (outcome->status != Status::success) recordError(number, command, outcome->status);
    complete(number, command.id, *outcome);
  }
  return life == life_;
}

void Controller::complete(unsigned number, uint16_t command, Outcome outcome) {
  constexpr uint16_t more = 1 << 14;  // in the log of errors
  constexpr uint16_t doNotRetry = 1 << 15;
  const uint64_t life = life_;
  const auto& submission = submissions_[number];
  auto& queue = completions_[submission.completions];
  auto status = static_cast<uint16_t>(static_cast<uint16_t>(outcome.status) << 1 | queue.phase);
  if (outcome.status != Status::success) status |= more;
  if (isLasting(outcome.status)) status |= doNotRetry;
  const Completion entry{.result = outcome.result,
                         .submissionHead = static_cast<uint16_t>(submission.head),
                         .submission = static_cast<uint16_t>(number),
                         .command = command,
                         .status = status};
  // The half with the phase is written last: a driver that sees it may read the rest.
  const uint64_t at = queue.base + uint64_t{queue.tail} * sizeof entry;
  const auto* bytes = reinterpret_cast<const uint8_t*>(&entry);
  constexpr size_t half = sizeof entry / 2;
  const bool begun = port_->dmaWrite(at, bytes, half, std::nullopt);
  fence(std::memory_order_release);
  const bool posted = begun && life == life_ && port_->dmaWrite(at + half, bytes + half, half, std::nullopt);
  if (life != life_) return;
  if (!posted) return failFatally();
  queue.tail = (queue.tail + 1) % queue.size;
  if (queue.tail == 0) queue.phase ^= 1;
}

void Controller::failFatally() { registers_.status |= statusFatal; }

void Controller::interrupt(const CompletionQueue& queue) {
  if (queue.interrupts == 0) return;
  if (port_->messagesEnabled()) {
    port_->sendMessage(queue.vector);
  } else {
    updateLine();
  }
}

// The pin is high while a queue has an entry that the driver has not taken.
void Controller::updateLine() {
  if (port_->messagesEnabled()) return;
  bool waiting = false;
  for (const auto& queue : completions_) waiting |= queue.interrupts != 0 && queue.head != queue.tail;
  port_->setLine(waiting && (registers_.mask & 1) == 0);
}

}  // namespace vfio::soft::devices::nvme
