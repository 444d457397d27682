// Mappings of device files in the program's address space: which addresses are registers, and of which
// device.
//
// Life: the host owns this object. mmap makes a trap, which lives until the last part of its range is
// unmapped or replaced by another mapping.
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

  // Implements the calls of Services with these names.
  [[nodiscard]] int64_t mapTrap(void* hint, int flags, Trap trap);
  [[nodiscard]] int64_t mapFile(void* hint, int protection, int flags, int fd, uint64_t offset, Trap trap);
  // Removes [address, address + length) from the traps; cuts a trap that lies only partly in it.
  void drop(uintptr_t address, size_t length);
  // The trap that contains these bytes, and their offset from its start. Null: no trap contains all of them.
  struct Found {
    std::shared_ptr<Trap> trap;
    uint64_t offset;
  };
  [[nodiscard]] Found find(const void* address, size_t length) const;
  // Unmaps everything.
  void clear();

 private:
  struct Part {  // a part of a trap that is still mapped: munmap may cut the range
    size_t length;
    uint64_t offset;
    std::shared_ptr<Trap> trap;
  };
  mm::Memory& memory_;
  std::map<uintptr_t, Part> parts_;  // by address
};

}  // namespace vfio::soft::files
