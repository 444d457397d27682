// The state of the controller, for another one with the same namespace. The data of a namespace in memory
// belongs to it. That of a file does not: the other device has the same file.
#include "../state.h"

#include <algorithm>
#include <utility>

#include "controller.h"

namespace vfio::soft::devices::nvme {

namespace {

enum Variant : uint32_t { inMemory = 1, inFile = 2 };

// What both devices must have alike.
struct Shape {
  uint64_t size;
  uint32_t blockSize, doorbellStride;
};

struct Requests {
  std::array<uint16_t, eventRequests> commands;
  uint32_t count;
  uint32_t events;
  uint32_t held;
};

bool isRing(const auto& queue) {
  constexpr uint32_t adminEntries = 4096;
  return queue.size >= 2 && queue.size <= adminEntries && queue.head < queue.size && queue.tail < queue.size;
}

}  // namespace

std::vector<uint8_t> Controller::save() const {
  StateWriter writer({"nvme", storage_.inMemory() ? inMemory : inFile});
  writer.put(Shape{storage_.size(), blockSize_, doorbellStride_});
  writer.put(registers_);
  writer.put(features_);
  writer.put(submissions_);
  writer.put(completions_);
  Requests requests{.commands = {},
                    .count = static_cast<uint32_t>(eventRequests_.size()),
                    .events = events_,
                    .held = eventsHeld_ ? uint32_t{1} : 0};
  std::ranges::copy(eventRequests_, requests.commands.begin());
  writer.put(requests);
  writer.put(errors_);
  writer.put(health_);
  if (storage_.inMemory()) storage_.save(writer);
  return std::move(writer).finish();
}

bool Controller::load(std::span<const uint8_t> state) {
  StateReader reader({"nvme", storage_.inMemory() ? inMemory : inFile}, state);
  Shape shape{};
  Registers registers{};
  Features features{};
  auto submissions = submissions_;
  auto completions = completions_;
  Requests requests{};
  auto errors = errors_;
  Health health{};
  const bool read = reader.get(shape) && reader.get(registers) && reader.get(features) &&
                    reader.get(submissions) && reader.get(completions) && reader.get(requests) &&
                    reader.get(errors) && reader.get(health);
  if (!read || shape.size != storage_.size() || shape.blockSize != blockSize_ ||
      shape.doorbellStride != doorbellStride_ || requests.count > requests.commands.size() ||
      features.queues == 0 || features.queues >= queuePairs)
    return false;
  for (const auto& queue : completions) {
    if (queue.size != 0 && (!isRing(queue) || queue.phase > 1 || queue.vector >= queuePairs)) return false;
  }
  for (const auto& queue : submissions) {
    if (queue.size != 0 &&
        (!isRing(queue) || queue.completions >= queuePairs || completions[queue.completions].size == 0))
      return false;
  }
  const auto waiting = requests.commands.begin();
  std::vector<uint16_t> commands(waiting, waiting + requests.count);
  if (storage_.inMemory() ? !storage_.load(reader) : !reader.finished()) return false;

  ++life_;
  scheduled_ = false;
  registers_ = registers;
  features_ = features;
  submissions_ = submissions;
  completions_ = completions;
  eventRequests_ = std::move(commands);
  events_ = requests.events;
  eventsHeld_ = requests.held != 0;
  errors_ = errors;
  health_ = health;
  resume();
  return true;
}

// Begins anew what was posted, and does the commands that wait in queues.
void Controller::resume() {
  const bool enabled = (registers_.configuration & ccEnable) != 0;
  if (enabled && (registers_.status & (statusReady | statusFatal)) == 0) later([this] { enable(); });
  if ((registers_.status & statusShutdownMask) == statusShuttingDown) later([this] { shutDown(); });
  if (running()) schedule();
  updateLine();
}

}  // namespace vfio::soft::devices::nvme
