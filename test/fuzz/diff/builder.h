// Shared code of the generators: it makes calls, chooses numbers, and makes a valid call invalid.
#pragma once

#include <initializer_list>
#include <string>
#include <vector>

#include "arena.h"
#include "random.h"
#include "sequence.h"

namespace vfio::fuzz {

inline Value number(uint64_t value) { return {"", value}; }
inline Value variable(const std::string& name, uint64_t plus = 0) { return {name, plus}; }
inline Value memory(uint64_t offset) { return {"m", offset}; }

inline Token u8(uint64_t value) { return {1, number(value)}; }
inline Token u16(uint64_t value) { return {2, number(value)}; }
inline Token u32(uint64_t value) { return {4, number(value)}; }
inline Token u32(Value value) { return {4, std::move(value)}; }
inline Token u64(uint64_t value) { return {8, number(value)}; }
inline Token u64(Value value) { return {8, std::move(value)}; }

class Builder {
 public:
  // The address of arrays and other data that a struct points to.
  static constexpr uint64_t kData = Arena::kArgument + 0x800;

  explicit Builder(uint64_t seed) : random(seed) {}

  Random random;
  Sequence calls;

  std::string fresh(char kind) { return kind + std::to_string(made_++); }

  void add(Call call) { calls.push_back(std::move(call)); }
  std::string open(const std::string& path, unsigned flags = 2);
  void ioctl(const std::string& fd, uint64_t request, std::vector<Token> bytes, std::vector<Save> saves = {});
  void ioctlValue(const std::string& fd, uint64_t request, uint64_t value);
  void store(uint64_t offset, std::vector<Token> bytes);
  void transfer(Op op, const std::string& fd, Value address, uint64_t size, uint64_t offset = 0);
  void simple(Op op, const std::string& fd);

  // An address in the arena and a length: mostly of memory that is readable and writable.
  struct Span {
    Value address;
    uint64_t length;
  };
  Span userMemory(uint64_t granule);
  // Numbers that have caused errors before.
  uint64_t odd();

 private:
  // Makes one part of a call invalid, or at least unusual.
  void spoil(Call& call);
  unsigned made_ = 0;
};

}  // namespace vfio::fuzz
