// What the NVM Express specification lays out: registers, commands, completions, status codes. Numbers are
// little-endian, like the machine's own.
#pragma once

#include <cstdint>

namespace vfio::soft::devices::nvme {

enum Register : uint64_t {
  regCap = 0x00,  // 64 bits
  regVersion = 0x08,
  regMaskSet = 0x0c,
  regMaskClear = 0x10,
  regConfiguration = 0x14,
  regStatus = 0x1c,
  regAdminSizes = 0x24,
  regAdminSubmission = 0x28,  // 64 bits
  regAdminCompletion = 0x30,  // 64 bits
  doorbells = 0x1000,
  vectorTable = 0x2000,  // the port answers from here on
  pendingTable = 0x3000,
  barSize = 0x4000,
};

inline constexpr uint32_t version = 0x00010300;

// Fields of CC and of CSTS.
inline constexpr uint32_t ccEnable = 1;
constexpr uint32_t ccCommandSet(uint32_t cc) { return cc >> 4 & 7; }
constexpr uint32_t ccPageShift(uint32_t cc) { return 12 + (cc >> 7 & 15); }
constexpr uint32_t ccArbitration(uint32_t cc) { return cc >> 11 & 7; }
constexpr uint32_t ccShutdown(uint32_t cc) { return cc >> 14 & 3; }
constexpr uint32_t ccSubmissionShift(uint32_t cc) { return cc >> 16 & 15; }
constexpr uint32_t ccCompletionShift(uint32_t cc) { return cc >> 20 & 15; }
inline constexpr uint32_t ccWritable = 0x00fffff1;
inline constexpr uint32_t statusReady = 1;
inline constexpr uint32_t statusFatal = 2;
inline constexpr uint32_t statusShutdownMask = 3 << 2;
inline constexpr uint32_t statusShuttingDown = 1 << 2;
inline constexpr uint32_t statusShutDown = 2 << 2;

inline constexpr uint32_t submissionShift = 6;  // log2 of the sizes of entries
inline constexpr uint32_t completionShift = 4;
inline constexpr uint32_t pageShiftLeast = 12;
inline constexpr uint32_t pageShiftMost = 16;
inline constexpr uint32_t queueEntries = 1024;        // of a queue, at most
inline constexpr uint32_t queuePairs = 32;            // with the admin queues
inline constexpr uint32_t transferShift = 7;          // MDTS: a command moves 4096 << 7 bytes at most
inline constexpr uint32_t eventRequests = 4;          // outstanding ones, at most
inline constexpr uint32_t errorEntries = 4;           // of the log of errors
inline constexpr uint32_t broadcast = 0xffffffff;     // as a namespace: all of them
inline constexpr uint32_t theNamespace = 1;           // the only one
inline constexpr uint32_t temperatureNow = 273 + 40;  // in kelvins

enum AdminOpcode : uint8_t {
  deleteSubmission = 0x00,
  createSubmission = 0x01,
  getLogPage = 0x02,
  deleteCompletion = 0x04,
  createCompletion = 0x05,
  identify = 0x06,
  abortCommand = 0x08,
  setFeatures = 0x09,
  getFeatures = 0x0a,
  requestEvent = 0x0c,
};

enum IoOpcode : uint8_t {
  flush = 0x00,
  writeBlocks = 0x01,
  readBlocks = 0x02,
  writeZeroes = 0x08,
  manageDatasets = 0x09,
};

struct Command {
  uint8_t opcode;
  uint8_t flags;  // fused operations, and whether the data has PRPs
  uint16_t id;
  uint32_t nsid;
  uint64_t reserved;
  uint64_t metadata;
  uint64_t prp1;
  uint64_t prp2;
  uint32_t dw10, dw11, dw12, dw13, dw14, dw15;
};
static_assert(sizeof(Command) == 1 << submissionShift);

struct Completion {
  uint32_t result;
  uint32_t reserved;
  uint16_t submissionHead;
  uint16_t submission;
  uint16_t command;
  uint16_t status;  // bit 0: the phase
};
static_assert(sizeof(Completion) == 1 << completionShift);

// The status code type (bits 8 to 10) and the status code.
enum class Status : uint16_t {
  success = 0x000,
  invalidOpcode = 0x001,
  invalidField = 0x002,
  transferError = 0x004,
  internalError = 0x006,
  abortRequested = 0x007,
  invalidNamespace = 0x00b,
  sequenceError = 0x00c,
  invalidPrpOffset = 0x013,
  outOfRange = 0x080,
  capacityExceeded = 0x081,
  completionInvalid = 0x100,
  invalidQueue = 0x101,
  invalidQueueSize = 0x102,
  tooManyEventRequests = 0x105,
  invalidVector = 0x108,
  invalidLogPage = 0x109,
  invalidQueueDeletion = 0x10c,
  notSaveable = 0x10d,
  notNamespaceSpecific = 0x10f,
};

// Events of the type "error".
enum class Event : uint32_t { badDoorbell = 0, badDoorbellValue = 1 };
inline constexpr unsigned eventKinds = 2;

// What a command ends with.
struct Outcome {
  Status status = Status::success;
  uint32_t result = 0;

  Outcome(Status itsStatus) : status(itsStatus) {}
  explicit Outcome(uint32_t itsResult) : result(itsResult) {}
};

// Would the same command, made again, fail for the same reason?
constexpr bool isLasting(Status status) {
  return status != Status::success && status != Status::transferError && status != Status::internalError &&
         status != Status::abortRequested;
}

}  // namespace vfio::soft::devices::nvme
