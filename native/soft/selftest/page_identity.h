// What is behind the process's addresses: a page of a file that is mapped twice is one page at two addresses.
// A kernel compares page frames; a program can compare where its mappings lead to.
//
// Life: of one command, since the answer is that of a moment. The mappings are read when first needed.
#pragma once

#include <cstdint>
#include <optional>
#include <vector>

#include "../mm/memory.h"

namespace vfio::soft::selftest {

class PageIdentity {
 public:
  explicit PageIdentity(mm::Memory& memory) : memory_(memory) {}

  // Can the byte at `address` be read now?
  [[nodiscard]] static bool readable(uint64_t address);
  // Do both addresses show the same byte of the same page?
  [[nodiscard]] bool same(uint64_t a, uint64_t b);
  // Does the page have so many pins, counted wherever it is mapped? A page that is part of a larger one has
  // as many as asked for: the kernel's test doesn't look at those.
  [[nodiscard]] bool hasPins(uint64_t address, unsigned pins);

 private:
  // A stretch of addresses with one mapping behind it.
  struct Mapping {
    uint64_t start;
    uint64_t end;
    bool shared;
    uint64_t device;
    uint64_t inode;
    uint64_t offset;    // in the file
    uint64_t pageSize;  // larger than the processor's smallest: hugetlb
  };
  void read();
  [[nodiscard]] const Mapping* find(uint64_t address);

  mm::Memory& memory_;
  std::optional<std::vector<Mapping>> mappings_;  // ascending
};

}  // namespace vfio::soft::selftest
