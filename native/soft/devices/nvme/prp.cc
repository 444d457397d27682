#include "prp.h"

#include <algorithm>

namespace vfio::soft::devices::nvme {

Status Prps::find(Port& port, const Command& command, uint64_t size, uint64_t pageSize) {
  parts_.clear();
  if (size == 0) return Status::success;
  if (command.prp1 % 4 != 0) return Status::invalidPrpOffset;
  const uint64_t first = std::min(size, pageSize - command.prp1 % pageSize);
  add(command.prp1, first);
  const uint64_t left = size - first;
  if (left == 0) return Status::success;
  if (left > pageSize) return followList(port, command.prp2, left, pageSize);
  // The second entry names the last page itself.
  if (command.prp2 % pageSize != 0) return Status::invalidPrpOffset;
  add(command.prp2, left);
  return Status::success;
}

// A list reaches to the end of its page. If more entries are needed, the last one there leads to the next
// list.
Status Prps::followList(Port& port, uint64_t list, uint64_t size, uint64_t pageSize) {
  std::vector<uint64_t> entries;
  while (size != 0) {
    if (list % sizeof(uint64_t) != 0) return Status::invalidPrpOffset;
    const uint64_t room = (pageSize - list % pageSize) / sizeof(uint64_t);
    const uint64_t pages = (size + pageSize - 1) / pageSize;
    entries.resize(std::min(room, pages));
    if (!port.dmaRead(list, entries.data(), entries.size() * sizeof(uint64_t), std::nullopt))
      return Status::transferError;
    const uint64_t data = pages > room ? room - 1 : pages;
    for (uint64_t i = 0; i < data; ++i) {
      if (entries[i] % pageSize != 0) return Status::invalidPrpOffset;
      const uint64_t length = std::min(size, pageSize);
      add(entries[i], length);
      size -= length;
    }
    if (size == 0) break;
    list = entries.back();
    // Only the first list may begin inside a page. So each further one has data, and there is no circle.
    if (list % pageSize != 0) return Status::invalidPrpOffset;
  }
  return Status::success;
}

// Pages that follow each other move at once.
void Prps::add(uint64_t iova, uint64_t size) {
  if (!parts_.empty() && parts_.back().iova + parts_.back().size == iova) {
    parts_.back().size += size;
  } else {
    parts_.push_back({iova, size});
  }
}

Status Prps::read(Port& port, std::span<uint8_t> into) const {
  bool moved = true;
  for (const Part& part : parts_) {
    moved &= port.dmaRead(part.iova, into.data(), part.size, std::nullopt);
    into = into.subspan(part.size);
  }
  return moved ? Status::success : Status::transferError;
}

Status Prps::write(Port& port, std::span<const uint8_t> from) const {
  bool moved = true;
  for (const Part& part : parts_) {
    moved &= port.dmaWrite(part.iova, from.data(), part.size, std::nullopt);
    from = from.subspan(part.size);
  }
  return moved ? Status::success : Status::transferError;
}

}  // namespace vfio::soft::devices::nvme
