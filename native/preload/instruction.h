// One instruction of x86-64 that loads or stores: which bytes of memory it touches and how, and the same
// instruction with another place for them.
//
// Only what the table knows is decoded: what compilers make of loads, stores and arithmetic on memory, of up
// to 64 bytes.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <optional>

namespace vfio::preload {

struct Instruction {
  unsigned length = 0;
  bool reads = false;
  bool writes = false;
  unsigned width = 0;  // bytes of memory
  // Where, out of the registers: base + index * scale + displacement. 16: none; 17: the next instruction.
  unsigned base = 16;
  unsigned index = 16;
  unsigned scale = 1;
  int64_t displacement = 0;
  bool segment = false;  // a base of fs or gs besides, which is not known here

  // movs, stos and lods have fixed places instead, and may repeat.
  enum class String { none, move, store, load };
  String string = String::none;
  bool repeats = false;

  // Its bytes with an address relative to the next instruction instead; `displacementAt` is where that goes
  // (4 bytes).
  std::array<uint8_t, 24> rewritten{};
  unsigned rewrittenLength = 0;
  unsigned displacementAt = 0;
};

// Nothing: not one that the table knows.
[[nodiscard]] std::optional<Instruction> decode(const uint8_t* code, size_t size);

}  // namespace vfio::preload
