// A strict reader of JSON (RFC 8259), for topologies. Every value knows its line, an object must not have a
// name twice, and numbers stay text, since numbers of a topology can have 64 bits. It reads at most 16 MiB,
// 32 levels and 1,048,576 values. Values of a text of one line have no line: such a text is not read by
// people, who described an object of JavaScript.
//
// Life: a Value owns the values in it.
#pragma once

#include <string>
#include <string_view>
#include <vector>

namespace vfio::soft::json {

struct Member;

struct Value {
  enum class Kind { null, boolean, number, string, list, object };
  Kind kind = Kind::null;
  unsigned line = 0;  // 0: it has none
  bool boolean = false;
  std::string text;          // the text of a string; a number as it is written
  std::vector<Value> items;  // the items of a list
  std::vector<Member> members;

  // The member of this name; null: there is none.
  [[nodiscard]] const Value* find(std::string_view name) const;
  // The value as a message shows it: short, strings in quotes, control characters escaped (shown.h).
  [[nodiscard]] std::string shown() const;
};

struct Member {
  std::string name;
  Value value;
};

// The beginning of a message about a line: "line 3: ", or nothing if there is none.
[[nodiscard]] std::string lineText(unsigned line);

// Throws std::invalid_argument: "line 3: Expected a comma or ] in a list but received }".
[[nodiscard]] Value parse(std::string_view text);

}  // namespace vfio::soft::json
