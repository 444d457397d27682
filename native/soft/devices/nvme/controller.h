// The NVMe controller: its registers and queues, and the commands that it does.
//
// Life: made with its function. Setting CC.EN begins a life of the controller, which ends when CC.EN is
// cleared or the function is reset. Work on the engine belongs to the life in which it was posted.
#pragma once

#include <array>
#include <cstdint>
#include <functional>
#include <optional>
#include <span>
#include <vector>

#include "../device.h"
#include "format.h"
#include "nvme.h"
#include "prp.h"
#include "storage.h"

namespace vfio::soft::devices::nvme {

// Rings in the memory of the driver. A size of 0 means that the queue does not exist.
struct SubmissionQueue {
  uint64_t base;
  uint32_t size, head, tail;
  uint32_t completions;  // the number of its completion queue
};
struct CompletionQueue {
  uint64_t base;
  uint32_t size, head, tail;
  uint32_t phase;
  uint32_t interrupts;  // is it to raise any?
  uint32_t vector;

  [[nodiscard]] bool full() const { return (tail + 1) % size == head; }
};

// The registers that can be written.
struct Registers {
  uint64_t adminSubmission, adminCompletion;
  uint32_t adminSizes, configuration, status, mask;
};

// The values of features. They begin anew with each life.
struct Features {
  uint32_t arbitration, power, hot, cold, errorRecovery, writeCache, queues, coalescing, atomicity, events;
  std::array<uint32_t, queuePairs> vectors;
};

// What the log of health counts. It stays as long as the device.
struct Health {
  uint64_t blocksRead, blocksWritten;  // of 512 bytes
  uint64_t reads, writes;
  uint64_t errors;
};

struct ErrorEntry {
  uint64_t count;
  uint16_t submission, command, status, location;
  uint64_t block;
  uint32_t nsid;
  std::array<uint8_t, 36> reserved;
};
static_assert(sizeof(ErrorEntry) == 64);

class Controller final : public Device {
 public:
  explicit Controller(const NvmeOptions& options);
  [[nodiscard]] const Description& description() const override;
  void plug(Port& port) override { port_ = &port; }
  [[nodiscard]] uint64_t read(unsigned bar, uint64_t offset, unsigned width) override;
  void write(unsigned bar, uint64_t offset, unsigned width, uint64_t value) override;
  void reset() override;
  [[nodiscard]] std::vector<uint8_t> save() const override;          // state.cc
  [[nodiscard]] bool load(std::span<const uint8_t> state) override;  // state.cc

 private:
  // --- registers (controller.cc)
  [[nodiscard]] uint32_t readRegister(uint64_t offset) const;
  void writeRegister(uint64_t offset, uint32_t value);
  [[nodiscard]] uint64_t capabilities() const;
  void configure(uint32_t value);
  void enable();
  void endLife();
  void shutDown();
  void resume();  // state.cc
  [[nodiscard]] bool running() const;
  void later(std::function<void()> job);

  // --- queues (queues.cc)
  void ring(uint64_t doorbell, uint32_t value);
  void schedule();
  void work();
  // Does the next command of a queue. Returns false if there is none that can be done.
  bool doNext(unsigned queue);
  void complete(unsigned queue, uint16_t command, Outcome outcome);
  // A queue can't be reached: only a reset helps.
  void failFatally();
  void interrupt(const CompletionQueue& queue);
  void updateLine();

  // --- admin commands (admin.cc). No outcome: the command stays outstanding.
  [[nodiscard]] std::optional<Outcome> admin(const Command& command);
  [[nodiscard]] Outcome createCompletionQueue(const Command& command);
  [[nodiscard]] Outcome createSubmissionQueue(const Command& command);
  [[nodiscard]] Outcome deleteCompletionQueue(const Command& command);
  [[nodiscard]] Outcome deleteSubmissionQueue(const Command& command);
  [[nodiscard]] Outcome abort(const Command& command);
  [[nodiscard]] std::optional<Outcome> takeEventRequest(const Command& command);
  [[nodiscard]] bool mayCreate(uint32_t queue) const;
  // Moves an answer to the driver. It is as long as the command asks for, at most all of it.
  [[nodiscard]] Status answer(const Command& command, std::span<const uint8_t> bytes);
  [[nodiscard]] Outcome identifyWhat(const Command& command);               // identify.cc
  [[nodiscard]] Outcome getFeature(const Command& command);                 // features.cc
  [[nodiscard]] Outcome setFeature(const Command& command);                 // features.cc
  [[nodiscard]] static Features initialFeatures();                          // features.cc
  [[nodiscard]] Outcome readLog(const Command& command);                    // logs.cc
  void recordError(unsigned queue, const Command& command, Status status);  // logs.cc
  void raiseEvent(Event event);                                             // logs.cc
  void sendEvents();                                                        // logs.cc

  // --- I/O commands (io.cc)
  [[nodiscard]] Outcome io(const Command& command);
  [[nodiscard]] Outcome readOrWrite(const Command& command, bool write);
  [[nodiscard]] Outcome zero(const Command& command);
  [[nodiscard]] Outcome deallocate(const Command& command);
  [[nodiscard]] uint64_t blocks() const { return storage_.size() / blockSize_; }
  [[nodiscard]] bool inside(uint64_t block, uint64_t count) const;

  const uint32_t blockSize_;
  const uint32_t doorbellStride_;
  Port* port_ = nullptr;
  Storage storage_;
  Registers registers_{};
  Features features_ = initialFeatures();
  std::array<SubmissionQueue, queuePairs> submissions_{};
  std::array<CompletionQueue, queuePairs> completions_{};
  uint64_t life_ = 0;
  bool scheduled_ = false;
  unsigned nextQueue_ = 0;                         // where the round over the queues begins
  std::vector<uint16_t> eventRequests_;            // commands that wait for an event
  uint32_t events_ = 0;                            // a bit for each event that the driver was not told yet
  bool eventsHeld_ = false;                        // no more are sent until the log of errors is read
  std::array<ErrorEntry, errorEntries> errors_{};  // the latest first
  Health health_{};
};

}  // namespace vfio::soft::devices::nvme
