// A sequence of system calls as text, with one call on each line. It can be generated, sent, shrunk, kept and
// read by people:
//
//   open =f0 2 /dev/iommu
//   ioctl $f0 3b81 4:c 4:0 4:0 >i0.8.4
//   ioctl $f0 3b85 @m+40ff0 4:28 4:3 4:$i0 4:0 8:m+1000 8:2000 8:$v1+800
//
// All numbers are hexadecimal. Words: `=x` names the result of a call; `$x` is the value of a variable (plus
// a number); `m+N` is an address in the arena (arena.h); `W:value` are W bytes of the argument struct (or of
// the bytes that `store` writes); `@value` is the address of the struct or, if there are no bytes, the
// argument itself; `>x.O.W` stores the W bytes at offset O of the struct in x if the call succeeds. A
// variable that was never set is 0. A variable whose name begins with f contains a descriptor: it is -1
// before it is set, and its number never appears in a transcript.
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
  dma,      // $f SOURCE DESTINATION SIZE COMMAND: a transfer of an edu device, and its end
  limit,    // BYTES: sets RLIMIT_MEMLOCK, and gives up the capabilities that lift it
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

// The name of a call, by which results are counted and differences are told apart: "IOMMU_IOAS_MAP", "pread"
// ...
[[nodiscard]] std::string nameOf(const Call& call);

// One sequence to run: the kind of guest that it is for, its calls and, if known, the kernel's answer to
// each.
struct Case {
  std::string name;
  std::string kind;      // "iommufd", "mock" or "vfio" (generate.h)
  uint64_t without = 0;  // capabilities that both sides run without: one of the machines lacks them
  Sequence calls;
  std::vector<std::string> answers;
};

// Files of cases: "# name", "kind NAME", "without MASK", then each call followed by its answer, if it has
// one, as "= answer"; an empty line ends a case.
[[nodiscard]] std::string print(const Case& what);
[[nodiscard]] std::vector<Case> parseCases(std::string_view text);

}  // namespace vfio::fuzz
