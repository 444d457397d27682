// Reading the objects of a topology's JSON text: each asks for its fields by name, and says where in the text
// a wrong value is.
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

// A whole number: as a number, or as a string in hexadecimal.
[[nodiscard]] std::optional<uint64_t> toInteger(const Value& value);

// An object of the schema. What is not as asked for is refused, as by fail().
class Reader {
 public:
  Reader(const Value& value, std::string name, std::string_view what);

  // No other fields than these, and `more`: what else there is is a mistake. Said before anything is read, so
  // that a name with a slip in it is not reported as one that is missing.
  void only(const std::vector<std::string_view>& names, const std::vector<std::string_view>& more = {}) const;

  [[nodiscard]] const Value* find(std::string_view field) const { return value_.find(field); }
  [[nodiscard]] std::string path(std::string_view field) const;
  [[noreturn]] void refuse(std::string_view field, std::string_view expected) const;

  // The values of fields. Nothing: the object has no such field.
  [[nodiscard]] std::optional<uint64_t> integer(std::string_view field, uint64_t least, uint64_t most) const;
  [[nodiscard]] uint64_t required(std::string_view field, uint64_t most) const;
  [[nodiscard]] std::optional<bool> boolean(std::string_view field) const;
  [[nodiscard]] std::optional<std::string> oneOf(std::string_view field,
                                                 const std::vector<std::string_view>& names) const;
  [[nodiscard]] std::optional<std::string> text(std::string_view field) const;
  [[nodiscard]] std::optional<Address> address(std::string_view field) const;
  [[nodiscard]] const std::vector<Value>* list(std::string_view field, size_t most) const;

  // In words: `one of "a", "b"`.
  [[nodiscard]] static std::string alternatives(const std::vector<std::string_view>& names);

 private:
  const Value& value_;
  const std::string name_;
};

// What a list's element is called in messages: "devices[2].bars[0]".
[[nodiscard]] std::string element(const Reader& reader, std::string_view field, size_t index);

}  // namespace vfio::soft::topology
