#include "queue.h"

#include "../../core/fence.h"

namespace vfio::soft::devices::virtio {

uint64_t Chain::size(const std::vector<Segment>& segments) {
  uint64_t total = 0;
  for (const Segment& each : segments) total += each.length;
  return total;
}

Found Queue::find(const Memory& memory, uint16_t ahead, bool indirect, Chain& into) const {
  uint16_t index = 0;
  if (!memory.read(driver + ringIndex, &index, sizeof index)) return Found::error;
  const auto available = static_cast<uint16_t>(index - position);
  if (available > size) return Found::error;
  if (available <= ahead) return Found::nothing;
  fence(std::memory_order_acquire);
  const auto slot = static_cast<uint16_t>(position + ahead) % size;
  into = {};
  const bool found =
      memory.read(driver + ringEntries + slot * sizeof into.head, &into.head, sizeof into.head) &&
      follow(memory, descriptors, size, into.head, indirect, into);
  return found ? Found::chain : Found::error;
}

// All descriptors that can be written follow those that can be read. A chain is never longer than its table,
// so there are no circles.
bool Queue::follow(const Memory& memory, uint64_t table, uint32_t entries, uint16_t first, bool indirect,
                   Chain& into) const {
  uint16_t at = first;
  for (uint32_t steps = 0; steps < entries; ++steps) {
    Descriptor each{};
    if (at >= entries || !memory.read(table + at * sizeof each, &each, sizeof each)) return false;
    if ((each.flags & isIndirect) != 0) {
      constexpr uint32_t most = uint32_t{queueSizeMost} * sizeof each;
      if (!indirect || (each.flags & hasNext) != 0 || each.length == 0 || each.length % sizeof each != 0 ||
          each.length > most)
        return false;
      return follow(memory, each.address, each.length / sizeof each, 0, false, into);
    }
    const bool writable = (each.flags & isWritable) != 0;
    if (!writable && !into.writable.empty()) return false;
    (writable ? into.writable : into.readable).push_back({each.address, each.length});
    if ((each.flags & hasNext) == 0) return true;
    at = each.next;
  }
  return false;
}

bool Queue::use(const Memory& memory, uint16_t ahead, const Chain& chain, uint64_t written) const {
  const UsedEntry entry{chain.head, static_cast<uint32_t>(written)};
  const auto slot = static_cast<uint16_t>(position + ahead) % size;
  return memory.write(device + ringEntries + slot * sizeof entry, &entry, sizeof entry);
}

// The entries, and the data, are there before the index says so.
bool Queue::publish(const Memory& memory, uint16_t count) {
  const auto index = static_cast<uint16_t>(position + count);
  fence(std::memory_order_release);
  if (!memory.write(device + ringIndex, &index, sizeof index)) return false;
  position = index;
  return true;
}

// The driver may have changed its mind just before it looked at the index.
bool Queue::readWanted(const Memory& memory, bool& wanted) const {
  uint16_t flags = 0;
  fence(std::memory_order_seq_cst);
  if (!memory.read(driver, &flags, sizeof flags)) return false;
  wanted = (flags & noInterrupt) == 0;
  return true;
}

}  // namespace vfio::soft::devices::virtio
