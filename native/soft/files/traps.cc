#include "traps.h"

#include <sys/mman.h>

#include <cerrno>

#include "../mm/memory.h"

namespace vfio::soft::files {

int64_t Traps::mapTrap(void* hint, int flags, Trap trap) {
  const int kept = flags & (MAP_FIXED | MAP_FIXED_NOREPLACE);
  return mapFile(hint, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | kept, -1, 0, std::move(trap));
}

int64_t Traps::mapFile(void* hint, int protection, int flags, int fd, uint64_t offset, Trap trap) {
  const size_t length = trap.length;
  void* mapped = ::mmap(hint, length, protection, flags, fd, static_cast<off_t>(offset));
  if (mapped == MAP_FAILED) return -errno;
  const auto address = reinterpret_cast<uintptr_t>(mapped);
  drop(address, length);
  memory_.mapped(address, length, true);
  parts_.emplace(address, Part{length, 0, std::make_shared<Trap>(std::move(trap))});
  return static_cast<int64_t>(address);
}

void Traps::drop(uintptr_t address, size_t length) {
  const uintptr_t end = address + length;
  auto it = parts_.upper_bound(address);
  if (it != parts_.begin()) --it;
  while (it != parts_.end() && it->first < end) {
    const auto [start, part] = *it;
    if (start + part.length <= address) {
      ++it;
      continue;
    }
    it = parts_.erase(it);
    if (start < address) parts_.emplace(start, Part{address - start, part.offset, part.trap});
    const uintptr_t last = start + part.length;
    if (last > end) parts_.emplace(end, Part{last - end, part.offset + (end - start), part.trap});
  }
}

Traps::Found Traps::find(const void* address, size_t length) const {
  const auto wanted = reinterpret_cast<uintptr_t>(address);
  auto it = parts_.upper_bound(wanted);
  if (it == parts_.begin()) return {nullptr, 0};
  --it;
  const uint64_t inside = wanted - it->first;
  if (inside >= it->second.length || length > it->second.length - inside) return {nullptr, 0};
  return {it->second.trap, it->second.offset + inside};
}

void Traps::clear() {
  for (const auto& [address, part] : parts_) ::munmap(reinterpret_cast<void*>(address), part.length);
  parts_.clear();
}

}  // namespace vfio::soft::files
