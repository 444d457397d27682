// Admin commands: queues, aborts, requests of events.
#include <algorithm>

#include "controller.h"

namespace vfio::soft::devices::nvme {

std::optional<Outcome> Controller::admin(const Command& command) {
  if (command.flags != 0) return Status::invalidField;  // fused operations and SGLs
  switch (command.opcode) {
    case deleteSubmission:
      return deleteSubmissionQueue(command);
    case createSubmission:
      return createSubmissionQueue(command);
    case getLogPage:
      return readLog(command);
    case deleteCompletion:
      return deleteCompletionQueue(command);
    case createCompletion:
      return createCompletionQueue(command);
    case identify:
      return identifyWhat(command);
    case abortCommand:
      return abort(command);
    case setFeatures:
      return setFeature(command);
    case getFeatures:
      return getFeature(command);
    case requestEvent:
      return takeEventRequest(command);
    default:
      return Status::invalidOpcode;
  }
}

bool Controller::mayCreate(uint32_t queue) const { return queue != 0 && queue <= features_.queues; }

Outcome Controller::createCompletionQueue(const Command& command) {
  const uint32_t number = command.dw10 & 0xffff;
  const uint32_t size = (command.dw10 >> 16) + 1;
  const uint32_t vector = command.dw11 >> 16;
  const bool contiguous = (command.dw11 & 1) != 0;
  const bool interrupts = (command.dw11 & 2) != 0;
  if (!mayCreate(number) || completions_[number].size != 0) return Status::invalidQueue;
  if (size < 2 || size > queueEntries || ccCompletionShift(registers_.configuration) != completionShift)
    return Status::invalidQueueSize;
  if (vector >= queuePairs || (vector != 0 && !port_->messagesEnabled())) return Status::invalidVector;
  if (!contiguous) return Status::invalidField;
  if (command.prp1 % (uint64_t{1} << ccPageShift(registers_.configuration)) != 0)
    return Status::invalidPrpOffset;
  completions_[number] = {.base = command.prp1,
                          .size = size,
                          .phase = 1,
                          .interrupts = interrupts ? uint32_t{1} : 0,
                          .vector = vector};
  return Status::success;
}

Outcome Controller::createSubmissionQueue(const Command& command) {
  const uint32_t number = command.dw10 & 0xffff;
  const uint32_t size = (command.dw10 >> 16) + 1;
  const uint32_t completions = command.dw11 >> 16;
  const bool contiguous = (command.dw11 & 1) != 0;
  if (!mayCreate(number) || submissions_[number].size != 0) return Status::invalidQueue;
  if (completions > features_.queues) return Status::invalidQueue;
  if (completions == 0 || completions_[completions].size == 0) return Status::completionInvalid;
  if (size < 2 || size > queueEntries || ccSubmissionShift(registers_.configuration) != submissionShift)
    return Status::invalidQueueSize;
  if (!contiguous) return Status::invalidField;
  if (command.prp1 % (uint64_t{1} << ccPageShift(registers_.configuration)) != 0)
    return Status::invalidPrpOffset;
  submissions_[number] = {.base = command.prp1, .size = size, .completions = completions};
  return Status::success;
}

Outcome Controller::deleteCompletionQueue(const Command& command) {
  const uint32_t number = command.dw10 & 0xffff;
  if (number == 0 || number >= queuePairs || completions_[number].size == 0) return Status::invalidQueue;
  const bool used = std::ranges::any_of(submissions_, [number](const SubmissionQueue& queue) {
    return queue.size != 0 && queue.completions == number;
  });
  if (used) return Status::invalidQueueDeletion;
  completions_[number] = {};
  updateLine();
  return Status::success;
}

// Commands that the device has not fetched yet are dropped.
Outcome Controller::deleteSubmissionQueue(const Command& command) {
  const uint32_t number = command.dw10 & 0xffff;
  if (number == 0 || number >= queuePairs || submissions_[number].size == 0) return Status::invalidQueue;
  submissions_[number] = {};
  return Status::success;
}

// Commands are done whole, so only a request for an event can be found. The result says whether the command
// was not aborted.
Outcome Controller::abort(const Command& command) {
  const uint32_t queue = command.dw10 & 0xffff;
  const auto id = static_cast<uint16_t>(command.dw10 >> 16);
  const auto found = std::ranges::find(eventRequests_, id);
  const auto& completions = completions_[0];
  const bool room = (completions.tail + 2) % completions.size != completions.head;  // for both commands
  if (queue != 0 || found == eventRequests_.end() || !room) return Outcome(uint32_t{1});
  eventRequests_.erase(found);
  complete(0, id, Status::abortRequested);
  return Outcome(uint32_t{0});
}

std::optional<Outcome> Controller::takeEventRequest(const Command& command) {
  if (eventRequests_.size() == eventRequests) return Status::tooManyEventRequests;
  eventRequests_.push_back(command.id);
  if (events_ != 0) schedule();
  return std::nullopt;
}

Status Controller::answer(const Command& command, std::span<const uint8_t> bytes) {
  const uint64_t page = uint64_t{1} << ccPageShift(registers_.configuration);
  Prps prps;
  const Status found = prps.find(*port_, command, bytes.size(), page);
  return found == Status::success ? prps.write(*port_, bytes) : found;
}

}  // namespace vfio::soft::devices::nvme
