// The memory of the program that a sequence represents. It is one area, far from all other memory, so that no
// address of a sequence reaches the memory of the software host.
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
  // In this order: writable pages, 8 read-only pages, 8 pages of a memfd, 8 pages without access, and a
  // window for mappings of devices.
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
  // Call this after the sequence unmapped [address, address+size). It reserves the addresses, so that no
  // other memory is mapped there. It does so again after each later call, since the unmapping may be delayed.
  void unmapped(uint64_t address, uint64_t size);
  void keep();

 private:
  char* base_;
  int memfd_;
  std::vector<size_t> gone_;
};

}  // namespace vfio::soft::fuzz
