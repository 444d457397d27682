// A strict reader of JSON (RFC 8259), for topologies: every value knows its line, an object has each name
// once, and numbers stay text, since those of this program have 64 bits. It reads at most 16 MiB, 32 levels
// and 1,048,576 values.
//
// Life: a Value owns all that is in it.
#pragma once

#include <string>
#include <string_view>
#include <vector>

namespace vfio::soft::json {

struct Member;

struct Value {
  enum class Kind { null, boolean, number, string, list, object };
  Kind kind = Kind::null;
  unsigned line = 1;
  bool boolean = false;
  std::string text;          // of a string; a number as it is written
  std::vector<Value> items;  // of a list
  std::vector<Member> members;

  // The member of this name; null: there is none.
  [[nodiscard]] const Value* find(std::string_view name) const;
  // As a message shows it: short, quoted as in the text, with nothing that moves a cursor (shown.h).
  [[nodiscard]] std::string shown() const;
};

struct Member {
  std::string name;
  Value value;
};

// Throws std::invalid_argument: "line 3: Expected a comma or ] in a list but received }".
[[nodiscard]] Value parse(std::string_view text);

}  // namespace vfio::soft::json
