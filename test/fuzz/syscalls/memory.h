// The memory of the program that a sequence stands for: one stretch at a place of its own, far from anything
// else, so that what a sequence does with addresses can't reach the memory of the software host.
//
// Life: one for the process; `reset` before each sequence.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

namespace vfio::soft::fuzz {

class ProgramMemory {
 public:
  static constexpr size_t kPage = 4096;
  // In turn: pages that can be written, 8 that can only be read, 8 of a memfd, 8 that can't be reached, and
  // a window for mappings of devices.
  static constexpr size_t kWritable = 600;
  static constexpr size_t kReadOnly = kWritable;
  static constexpr size_t kShared = kReadOnly + 8;
  static constexpr size_t kHole = kShared + 8;
  static constexpr size_t kWindow = kHole + 8;
  static constexpr size_t kWindowPages = 600;
  static constexpr size_t kPages = kWindow + kWindowPages;

  ProgramMemory();
  void reset();
  [[nodiscard]] char* page(size_t number) const { return base_ + number * kPage; }
  [[nodiscard]] uint64_t address(size_t number) const { return reinterpret_cast<uint64_t>(page(number)); }
  [[nodiscard]] int memfd() const { return memfd_; }
  [[nodiscard]] bool contains(uint64_t address, uint64_t size) const;
  // After the sequence unmapped [address, address+size): what is gone is kept from being used by anything
  // else, here and after each further call, as it may go later.
  void unmapped(uint64_t address, uint64_t size);
  void keep();

 private:
  char* base_;
  int memfd_;
  std::vector<size_t> gone_;
};

}  // namespace vfio::soft::fuzz
