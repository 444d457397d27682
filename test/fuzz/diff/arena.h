// The memory that a sequence works on: at one fixed address on both sides, so that every address in a call is
// the same number, with stretches of every kind that a program can have. A shadow copy tells what a call
// changed.
//
// Life: made in the process that runs one sequence, after the fork, and gone with it.
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
  static constexpr uint64_t kArgument = 0x40000;  // 2 pages, behind which nothing is mapped
  static constexpr uint64_t kArgumentEnd = 0x42000;

  Arena();

  // Writes what of it can be written.
  void store(uint64_t address, const std::vector<uint8_t>& bytes);
  // What is at an address: 0 where nothing can be read.
  [[nodiscard]] static uint64_t load(uint64_t address, unsigned width);
  // What has changed since last asked, other than by `store`, for a transcript: " m+40008=02000000 ...".
  [[nodiscard]] std::string changes();

 private:
  struct Stretch {
    uint64_t offset;
    uint64_t size;
    bool writable;
  };
  void map(uint64_t offset, uint64_t pages, int protection, int flags);
  std::vector<Stretch> stretches_;  // what can be read
  std::vector<uint8_t> shadow_;     // by offset
};

}  // namespace vfio::fuzz
