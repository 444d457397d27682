// Where the data of a command is in memory: its two PRP entries, and the lists that the second one can lead
// to.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "../device.h"
#include "format.h"

namespace vfio::soft::devices::nvme {

class Prps {
 public:
  // Finds where `size` bytes are. It reads lists through the port. `pageSize` is the controller's.
  [[nodiscard]] Status find(Port& port, const Command& command, uint64_t size, uint64_t pageSize);

  // Each moves all bytes, or as many as it can: then the status is `transferError`.
  [[nodiscard]] Status read(Port& port, std::span<uint8_t> into) const;
  [[nodiscard]] Status write(Port& port, std::span<const uint8_t> from) const;

 private:
  struct Part {
    uint64_t iova;
    uint64_t size;
  };
  void add(uint64_t iova, uint64_t size);
  [[nodiscard]] Status followList(Port& port, uint64_t list, uint64_t size, uint64_t pageSize);

  std::vector<Part> parts_;
};

}  // namespace vfio::soft::devices::nvme
