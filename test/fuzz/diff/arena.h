// The memory that a sequence uses. It has the same fixed address on both sides, so that every address in a
// call is the same number, and contains areas of every kind that a program can have. A shadow copy shows
// which bytes a call has changed.
//
// Life: made after the fork, in the process that runs one sequence, and ends with that process.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace vfio::fuzz {

class Arena {
 public:
  static constexpr uint64_t kBase = 0x567000000000;
  static constexpr uint64_t kPage = 4096;
  static constexpr uint64_t kPlain = 0;           // 16 pages: private, anonymous
  static constexpr uint64_t kShared = 0x10000;    // 8 pages: memfd, shared
  static constexpr uint64_t kReadOnly = 0x18000;  // 4 pages: private, anonymous, read-only
  static constexpr uint64_t kNone = 0x1c000;      // 2 pages: no access; then 2 pages that are not mapped
  static constexpr uint64_t kHole = 0x1e000;
  static constexpr uint64_t kCopied = 0x20000;    // 4 pages: memfd, private
  static constexpr uint64_t kArgument = 0x40000;  // 2 pages; the addresses after them are not mapped
  static constexpr uint64_t kArgumentEnd = 0x42000;

  Arena();

  // Writes the bytes as far as the memory is writable.
  void store(uint64_t address, const std::vector<uint8_t>& bytes);
  // The value at an address; 0 if it can't be read.
  [[nodiscard]] static uint64_t load(uint64_t address, unsigned width);
  // The bytes that changed since the last call, except by `store`, as text for a transcript:
  // " m+40008=02000000 ...".
  [[nodiscard]] std::string changes();

 private:
  struct Stretch {
    uint64_t offset;
    uint64_t size;
    bool writable;
  };
  void map(uint64_t offset, uint64_t pages, int protection, int flags);
  std::vector<Stretch> stretches_;  // the readable areas
  std::vector<uint8_t> shadow_;     // by offset
};

}  // namespace vfio::fuzz
