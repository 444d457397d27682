// I/O commands on the namespace.
#include <cstring>

#include "controller.h"

namespace vfio::soft::devices::nvme {

namespace {

uint64_t firstBlock(const Command& command) { return command.dw10 | uint64_t{command.dw11} << 32; }
uint64_t blockCount(const Command& command) { return uint64_t{command.dw12 & 0xffff} + 1; }

}  // namespace

Outcome Controller::io(const Command& command) {
  if (command.flags != 0) return Status::invalidField;  // fused operations and SGLs
  const bool forAll = command.opcode == flush && command.nsid == broadcast;
  switch (command.opcode) {
    case flush:
    case writeBlocks:
    case readBlocks:
    case writeZeroes:
    case manageDatasets:
      if (command.nsid != theNamespace && !forAll) return Status::invalidNamespace;
      break;
    default:
      return Status::invalidOpcode;
  }
  switch (command.opcode) {
    case writeBlocks:
      return readOrWrite(command, true);
    case readBlocks:
      return readOrWrite(command, false);
    case writeZeroes:
      return zero(command);
    case manageDatasets:
      return deallocate(command);
    default:
      return Status::success;  // a flush: nothing is cached
  }
}

bool Controller::inside(uint64_t block, uint64_t count) const {
  return block <= blocks() && count <= blocks() - block;
}

Outcome Controller::readOrWrite(const Command& command, bool write) {
  const uint64_t life = life_;
  const uint64_t size = blockCount(command) * blockSize_;
  if (size > uint64_t{4096} << transferShift) return Status::invalidField;
  if (!inside(firstBlock(command), blockCount(command))) return Status::outOfRange;
  const uint64_t page = uint64_t{1} << ccPageShift(registers_.configuration);
  Prps prps;
  const Status found = prps.find(*port_, command, size, page);
  if (found != Status::success || life != life_) return found;
  std::vector<uint8_t> data(size);
  const uint64_t at = firstBlock(command) * blockSize_;
  if (write) {
    const Status moved = prps.read(*port_, data);
    if (moved != Status::success || life != life_) return moved;
    if (!storage_.write(at, data)) return Status::capacityExceeded;
    ++health_.writes;
    health_.blocksWritten += size / 512;
    return Status::success;
  }
  if (!storage_.read(at, data)) return Status::internalError;
  ++health_.reads;
  health_.blocksRead += size / 512;
  return prps.write(*port_, data);
}

Outcome Controller::zero(const Command& command) {
  if (!inside(firstBlock(command), blockCount(command))) return Status::outOfRange;
  const bool cleared = storage_.clear(firstBlock(command) * blockSize_, blockCount(command) * blockSize_);
  return cleared ? Status::success : Status::internalError;
}

// Blocks that were deallocated read as zero. The other attributes are hints, which change nothing.
Outcome Controller::deallocate(const Command& command) {
  struct Range {
    uint32_t attributes;
    uint32_t count;
    uint64_t block;
  };
  const uint64_t life = life_;
  constexpr uint32_t attributeDeallocate = 4;
  std::vector<Range> ranges((command.dw10 & 0xff) + 1);
  const uint64_t size = ranges.size() * sizeof(Range);
  const uint64_t page = uint64_t{1} << ccPageShift(registers_.configuration);
  Prps prps;
  Status status = prps.find(*port_, command, size, page);
  if (status == Status::success)
    status = prps.read(*port_, {reinterpret_cast<uint8_t*>(ranges.data()), size});
  if (status != Status::success || life != life_) return status;
  for (const Range& range : ranges) {
    if (!inside(range.block, range.count)) return Status::outOfRange;
  }
  if ((command.dw11 & attributeDeallocate) == 0) return Status::success;
  bool cleared = true;
  for (const Range& range : ranges)
    cleared &= storage_.clear(range.block * blockSize_, uint64_t{range.count} * blockSize_);
  return cleared ? Status::success : Status::internalError;
}

}  // namespace vfio::soft::devices::nvme
