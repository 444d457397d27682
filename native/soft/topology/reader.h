// Reads the objects of a topology's JSON text: fields are read by name, and an error says where in the text
// the wrong value is.
//
// Life: a Reader belongs to one call and refers to the value that it reads.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "json.h"
#include "topology.h"

namespace vfio::soft::topology {

using json::Value;

// Throws std::invalid_argument: "line 4: Expected X for devices[2].field but received Y".
[[noreturn]] void fail(unsigned line, std::string_view expected, std::string_view where,
                       const std::string& received);

// The whole number that a value means: a number, or a string with a hexadecimal or decimal number.
[[nodiscard]] std::optional<uint64_t> toInteger(const Value& value);

// An object of the schema. A value that is not as asked for is refused, as by fail().
class Reader {
 public:
  Reader(const Value& value, std::string name, std::string_view what);

  // Refuses fields with other names than these and those in `more`. Call this before any field is read, so
  // that a misspelt name is not reported as a field that is missing.
  void only(const std::vector<std::string_view>& names, const std::vector<std::string_view>& more = {}) const;

  [[nodiscard]] const Value* find(std::string_view field) const { return value_.find(field); }
  [[nodiscard]] std::string path(std::string_view field) const;
  [[noreturn]] void refuse(std::string_view field, std::string_view expected) const;

  // The values of fields. nullopt or null: the object has no such field.
  [[nodiscard]] std::optional<uint64_t> integer(std::string_view field, uint64_t least, uint64_t most) const;
  [[nodiscard]] uint64_t required(std::string_view field, uint64_t most) const;
  [[nodiscard]] std::optional<bool> boolean(std::string_view field) const;
  [[nodiscard]] std::optional<std::string> oneOf(std::string_view field,
                                                 const std::vector<std::string_view>& names) const;
  [[nodiscard]] std::optional<std::string> text(std::string_view field) const;
  [[nodiscard]] std::optional<Address> address(std::string_view field) const;
  [[nodiscard]] const std::vector<Value>* list(std::string_view field, size_t most) const;

  // The names in words: `one of "a", "b"`.
  [[nodiscard]] static std::string alternatives(const std::vector<std::string_view>& names);

 private:
  const Value& value_;
  const std::string name_;
};

// The name of a list's element in messages: "devices[2].bars[0]".
[[nodiscard]] std::string element(const Reader& reader, std::string_view field, size_t index);

}  // namespace vfio::soft::topology
