#include "nested.h"

#include <cerrno>

#include "../mm/memory.h"

namespace vfio::soft::iommu {

int UserData::copy(uint32_t expected, void* to, size_t size) const {
  if (type != expected || length != size) return -EINVAL;
  return mm::Memory::copyIn(to, user, size);
}

bool NestedTable::load(uint64_t address, uint64_t& word) const {
  const Reach at = parent->reach(address, sizeof(word), kRead);
  return at.size == sizeof(word) && mm::Memory::copyIn(&word, at.user, sizeof(word)) == 0;
}

bool NestedTable::store(uint64_t address, uint64_t word) const {
  const Reach at = parent->reach(address, sizeof(word), kWrite);
  if (at.size != sizeof(word) || mm::Memory::copyOut(at.user, &word, sizeof(word)) != 0) return false;
  if (parent->dirtyTracking()) parent->markDirty(at.iova, sizeof(word));
  return true;
}

}  // namespace vfio::soft::iommu
