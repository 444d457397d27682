// Mappings of device files in the program's address space: which of its addresses are registers, and whose.
//
// Life: the host's. A trap is made by mmap and lives until the last part of its range is unmapped or
// replaced.
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>

#include "../core/services.h"

namespace vfio::soft::files {

class Traps {
 public:
  explicit Traps(mm::Memory& memory) : memory_(memory) {}

  // As Services has them.
  [[nodiscard]] int64_t mapTrap(void* hint, int flags, Trap trap);
  [[nodiscard]] int64_t mapFile(void* hint, int protection, int flags, int fd, uint64_t offset, Trap trap);
  // Takes [address, address + length) out of the traps, cutting those that it touches.
  void drop(uintptr_t address, size_t length);
  // Where the bytes from `address` lead to, and how far from the start of that range they are. Null: no trap,
  // or not all of them in one.
  struct Found {
    std::shared_ptr<Trap> trap;
    uint64_t offset;
  };
  [[nodiscard]] Found find(const void* address, size_t length) const;
  // Unmaps everything.
  void clear();

 private:
  struct Part {  // what is left of a trap: munmap may cut it
    size_t length;
    uint64_t offset;
    std::shared_ptr<Trap> trap;
  };
  mm::Memory& memory_;
  std::map<uintptr_t, Part> parts_;  // by address
};

}  // namespace vfio::soft::files
