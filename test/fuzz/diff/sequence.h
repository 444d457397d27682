// A sequence of system calls as text, one call a line, so that it can be generated, sent, shrunk, kept and
// read:
//
//   open =f0 2 /dev/iommu
//   ioctl $f0 3b81 4:c 4:0 4:0 >i0.8.4
//   ioctl $f0 3b85 @m+40ff0 4:28 4:3 4:$i0 4:0 8:m+1000 8:2000 8:$v1+800
//
// All numbers are hexadecimal. Words: `=x` names the result of a call; `$x` is the value of a variable (plus
// a number); `m+N` is an address in the arena (arena.h); `W:value` are W bytes of the argument struct (or of
// what `store` writes); `@value` is where the struct lies, and with no bytes what the argument is; `>x.O.W`
// keeps the W bytes at offset O of the struct in x if the call succeeds. What has never been set is 0, and a
// variable whose name begins with f holds a descriptor: it is -1 until then, and its number never shows in a
// transcript.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace vfio::fuzz {

enum class Op {
  open,     // =f FLAGS PATH
  eventfd,  // =f
  close,    // $f
  dup,      // =f $f
  ioctl,    // $f REQUEST struct
  read,     // $f ADDRESS SIZE
  write,    // $f ADDRESS SIZE
  pread,    // $f ADDRESS SIZE OFFSET
  pwrite,   // $f ADDRESS SIZE OFFSET
  poll,     // $f
  mmap,     // =a $f SIZE PROTECTION FLAGS OFFSET
  munmap,   // $a SIZE
  store,    // @ADDRESS bytes
  count,    // $f: reads an eventfd
  signal,   // $f: writes an eventfd
  dma,      // $f SOURCE DESTINATION SIZE COMMAND: a transfer of an edu device, waited for
  limit,    // BYTES: RLIMIT_MEMLOCK, and away with the capabilities that lift it
};

struct Value {
  std::string variable;  // empty: none; "m": the arena
  uint64_t number = 0;

  bool operator==(const Value&) const = default;
};

struct Token {
  unsigned width;
  Value value;
};

struct Save {
  std::string variable;
  unsigned offset;
  unsigned width;
};

struct Call {
  Op op;
  std::string result;
  std::vector<Value> operands;
  std::string path;
  std::optional<Value> at;
  std::vector<Token> bytes;
  std::vector<Save> saves;
};

using Sequence = std::vector<Call>;

[[nodiscard]] std::string print(const Call& call);
[[nodiscard]] std::string print(const Sequence& sequence);
[[nodiscard]] std::optional<Call> parse(std::string_view line);

// What a call is, for the count of states reached and for telling differences apart: "IOMMU_IOAS_MAP",
// "pread" ...
[[nodiscard]] std::string nameOf(const Call& call);

// One thing to run: what kind of guest it is for, its calls and, where known, what the kernel answered to
// each.
struct Case {
  std::string name;
  std::string kind;      // "iommufd", "mock" or "vfio" (generate.h)
  uint64_t without = 0;  // capabilities that both sides run without: those that one of the machines lacks
  Sequence calls;
  std::vector<std::string> answers;
};

// Files of cases: "# name", "kind NAME", "without MASK", then each call followed by its answer, if it has
// one, as "= answer"; an empty line ends a case.
[[nodiscard]] std::string print(const Case& what);
[[nodiscard]] std::vector<Case> parseCases(std::string_view text);

}  // namespace vfio::fuzz
