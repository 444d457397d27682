// A split virtqueue, and the memory that it is in.
//
// Life: a Memory belongs to one piece of work, a Queue to its device. Chains are used in the order in which
// the driver made them available, so one position is enough for both rings.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "../device.h"
#include "format.h"

namespace vfio::soft::devices::virtio {

// The driver's memory, as one piece of work reaches it. An access may take long enough for the driver to
// reset the device: then this access and all later ones fail.
class Memory {
 public:
  Memory(Port& port, const uint64_t& life) : port_(port), life_(life), begun_(life) {}

  [[nodiscard]] bool read(uint64_t at, void* into, size_t size) const {
    return current() && port_.dmaRead(at, into, size, std::nullopt) && current();
  }
  [[nodiscard]] bool write(uint64_t at, const void* from, size_t size) const {
    return current() && port_.dmaWrite(at, from, size, std::nullopt) && current();
  }
  [[nodiscard]] bool current() const { return life_ == begun_; }

 private:
  Port& port_;
  const uint64_t& life_;
  const uint64_t begun_;
};

struct Segment {
  uint64_t address;
  uint64_t length;
};

// The buffers behind one entry of the driver's ring.
struct Chain {
  uint16_t head;
  std::vector<Segment> readable, writable;

  [[nodiscard]] static uint64_t size(const std::vector<Segment>& segments);
};

enum class Found { chain, nothing, error };

struct Queue {
  uint64_t descriptors = 0, driver = 0, device = 0;  // addresses of the three parts
  uint16_t size = queueSizeMost;
  uint16_t vector = noVector;
  uint16_t enabled = 0;
  uint16_t position = 0;  // chains used so far, modulo 2^16

  // Finds the chain that is `ahead` of the position.
  [[nodiscard]] Found find(const Memory& memory, uint16_t ahead, bool indirect, Chain& into) const;
  // Writes the entry of the used ring for a chain, `ahead` of the position. The driver does not see it yet.
  [[nodiscard]] bool use(const Memory& memory, uint16_t ahead, const Chain& chain, uint64_t written) const;
  // Moves the position over entries that were written, and lets the driver see them.
  [[nodiscard]] bool publish(const Memory& memory, uint16_t count);
  // Reads whether the driver wants interrupts. Returns false if that fails.
  [[nodiscard]] bool readWanted(const Memory& memory, bool& wanted) const;

 private:
  [[nodiscard]] bool follow(const Memory& memory, uint64_t table, uint32_t entries, uint16_t first,
                            bool indirect, Chain& into) const;
};

}  // namespace vfio::soft::devices::virtio
