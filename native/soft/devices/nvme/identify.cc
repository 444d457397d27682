// The admin command Identify.
#include <algorithm>
#include <bit>
#include <cstring>
#include <string_view>

#include "controller.h"

namespace vfio::soft::devices::nvme {

namespace {

constexpr size_t dataSize = 4096;
using Data = std::array<uint8_t, dataSize>;

enum What : uint32_t { ofNamespace = 0, ofController = 1, listOfNamespaces = 2, namesOfNamespace = 3 };

constexpr uint64_t uniqueId = 0x0000010000a0a452;  // EUI-64, as its bytes are in memory

template <typename Value>
void put(Data& data, size_t at, Value value) {
  std::memcpy(data.data() + at, &value, sizeof value);
}

// Text is padded with spaces, and has no end mark.
void putText(Data& data, size_t at, size_t size, std::string_view text) {
  std::fill_n(data.begin() + static_cast<ptrdiff_t>(at), size, uint8_t{' '});
  std::ranges::copy(text, data.begin() + static_cast<ptrdiff_t>(at));
}

void describeController(Data& data, const Description& pci) {
  put<uint16_t>(data, 0, pci.vendor);
  put<uint16_t>(data, 2, pci.subsystemVendor);
  putText(data, 4, 20, "vfio-soft");
  putText(data, 24, 40, "Software NVMe controller");
  putText(data, 64, 8, "1.0");
  data[77] = transferShift;
  put<uint32_t>(data, 80, version);
  data[258] = 3;                  // aborts at a time, less one
  data[259] = eventRequests - 1;  // AERL
  data[260] = 1 << 1 | 1;         // one slot of firmware, read only
  data[261] = 1 << 2;             // logs are read from any offset
  data[262] = errorEntries - 1;
  put<uint16_t>(data, 266, 273 + 70);  // where it warns of its temperature
  put<uint16_t>(data, 268, 273 + 80);
  data[512] = submissionShift << 4 | submissionShift;
  data[513] = completionShift << 4 | completionShift;
  put<uint32_t>(data, 516, 1);                // namespaces
  put<uint16_t>(data, 520, 1 << 2 | 1 << 3);  // Dataset Management, Write Zeroes
  data[525] = 1;                              // a volatile write cache
  constexpr std::string_view name = "nqn.2014-08.org.nvmexpress:uuid:7a1b5a3e-3c0e-4f5e-9d0c-5f6e76666900";
  std::ranges::copy(name, data.begin() + 768);
  put<uint16_t>(data, 2048, 900);  // power state 0: in hundredths of a watt
}

}  // namespace

Outcome Controller::identifyWhat(const Command& command) {
  Data data{};
  switch (command.dw10 & 0xff) {
    case ofController:
      describeController(data, description());
      break;
    case ofNamespace:
      if (command.nsid != theNamespace && command.nsid != broadcast) return Status::invalidNamespace;
      put(data, 0, blocks());
      put(data, 8, storage_.most() / blockSize_);
      put(data, 16, storage_.used() / blockSize_);
      data[24] = 1;           // thin provisioning: it may be full before all blocks are written
      data[33] = 1 << 3 | 1;  // deallocated blocks read as zero
      if (command.nsid == theNamespace) put(data, 120, uniqueId);
      data[130] = static_cast<uint8_t>(std::countr_zero(blockSize_));  // of the only format
      break;
    case listOfNamespaces:
      if (command.nsid >= 0xfffffffe) return Status::invalidNamespace;
      if (command.nsid < theNamespace) put<uint32_t>(data, 0, theNamespace);
      break;
    case namesOfNamespace:
      if (command.nsid != theNamespace) return Status::invalidNamespace;
      data[0] = 1;  // an EUI-64
      data[1] = sizeof uniqueId;
      put(data, 4, uniqueId);
      break;
    default:
      return Status::invalidField;
  }
  return answer(command, data);
}

}  // namespace vfio::soft::devices::nvme
