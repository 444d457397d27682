// Finds out whether two addresses of the process show the same page: a page of a file that is mapped twice is
// one page at two addresses. The kernel compares page frames; a program can compare the file and offset of
// its mappings.
//
// Life: one command, since the mappings can change afterwards. They are read when first needed.
#pragma once

#include <cstdint>
#include <optional>
#include <vector>

#include "../mm/memory.h"

namespace vfio::soft::selftest {

class PageIdentity {
 public:
  explicit PageIdentity(mm::Memory& memory) : memory_(memory) {}

  // Whether the byte at `address` can be read now.
  [[nodiscard]] static bool readable(uint64_t address);
  // Whether both addresses show the same byte of the same page.
  [[nodiscard]] bool same(uint64_t a, uint64_t b);
  // Whether the page has that number of pins, counted at all addresses where it is mapped. Always true for a
  // part of a huge page: the kernel's test doesn't check those.
  [[nodiscard]] bool hasPins(uint64_t address, unsigned pins);

 private:
  // One mapping of the process.
  struct Mapping {
    uint64_t start;
    uint64_t end;
    bool shared;
    uint64_t device;
    uint64_t inode;
    uint64_t offset;    // in the file
    uint64_t pageSize;  // larger than the processor's smallest page: hugetlb
  };
  void read();
  [[nodiscard]] const Mapping* find(uint64_t address);

  mm::Memory& memory_;
  std::optional<std::vector<Mapping>> mappings_;  // ascending
};

}  // namespace vfio::soft::selftest
