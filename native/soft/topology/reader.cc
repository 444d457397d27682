#include "reader.h"

#include <algorithm>
#include <array>
#include <charconv>
#include <stdexcept>

#include "../../base/shown.h"

namespace vfio::soft::topology {

namespace {

std::string hex(uint64_t value) {
  std::array<char, 16> text;
  const auto end = std::to_chars(text.data(), text.data() + text.size(), value, 16).ptr;
  return "0x" + std::string(text.data(), end);
}

}  // namespace

void fail(unsigned line, std::string_view expected, std::string_view where, const std::string& received) {
  throw std::invalid_argument(json::lineText(line) + "Expected " + std::string(expected) + " for " +
                              std::string(where) + " but received " + shown(received));
}

std::optional<uint64_t> toInteger(const Value& value) {
  if (value.kind != Value::Kind::number && value.kind != Value::Kind::string) return std::nullopt;
  std::string_view text = value.text;
  int base = 10;
  if (value.kind == Value::Kind::string && text.starts_with("0x")) {
    text.remove_prefix(2);
    base = 16;
  }
  uint64_t result = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), result, base);
  if (text.empty() || error != std::errc() || end != text.data() + text.size()) return std::nullopt;
  return result;
}

Reader::Reader(const Value& value, std::string name, std::string_view what)
    : value_(value), name_(std::move(name)) {
  if (value.kind != Value::Kind::object) fail(value.line, what, name_, value.shown());
}

void Reader::only(const std::vector<std::string_view>& names,
                  const std::vector<std::string_view>& more) const {
  std::vector<std::string_view> all(names);
  all.insert(all.end(), more.begin(), more.end());
  for (const auto& [name, value] : value_.members) {
    if (std::find(all.begin(), all.end(), name) != all.end()) continue;
    std::string known;
    for (const auto& each : all) known += (known.empty() ? "" : ", ") + std::string(each);
    fail(value.line, "one of the fields " + known, name_, "\"" + name + "\"");
  }
}

std::string Reader::path(std::string_view field) const {
  return (name_.empty() ? "" : name_ + ".") + std::string(field);
}

void Reader::refuse(std::string_view field, std::string_view expected) const {
  const auto* value = find(field);
  fail(value ? value->line : value_.line, expected, path(field), value ? value->shown() : "nothing");
}

std::optional<uint64_t> Reader::integer(std::string_view field, uint64_t least, uint64_t most) const {
  const auto* value = find(field);
  if (!value) return std::nullopt;
  const auto result = toInteger(*value);
  if (!result || *result < least || *result > most) {
    const bool small = most <= 10'000;
    const auto shown = [small](uint64_t limit) { return small ? std::to_string(limit) : hex(limit); };
    refuse(field, "a whole number between " + shown(least) + " and " + shown(most));
  }
  return result;
}

uint64_t Reader::required(std::string_view field, uint64_t most) const {
  if (!find(field)) refuse(field, "a whole number between 0x0 and " + hex(most));
  return *integer(field, 0, most);
}

std::optional<bool> Reader::boolean(std::string_view field) const {
  const auto* value = find(field);
  if (!value) return std::nullopt;
  if (value->kind != Value::Kind::boolean) refuse(field, "true or false");
  return value->boolean;
}

std::optional<std::string> Reader::oneOf(std::string_view field,
                                         const std::vector<std::string_view>& names) const {
  const auto* value = find(field);
  if (!value) return std::nullopt;
  if (value->kind != Value::Kind::string ||
      std::find(names.begin(), names.end(), value->text) == names.end()) {
    refuse(field, alternatives(names));
  }
  return value->text;
}

std::optional<std::string> Reader::text(std::string_view field) const {
  const auto* value = find(field);
  if (!value) return std::nullopt;
  if (value->kind != Value::Kind::string || value->text.find_first_of("\n", 0) != std::string::npos)
    refuse(field, "a line of text");
  return value->text;
}

std::string Reader::alternatives(const std::vector<std::string_view>& names) {
  std::string known = "one of";
  for (const auto& each : names) known += (known == "one of" ? " \"" : ", \"") + std::string(each) + "\"";
  return known;
}

std::optional<Address> Reader::address(std::string_view field) const {
  const auto* value = find(field);
  if (!value) return std::nullopt;
  const auto result = Address::parse(value->kind == Value::Kind::string ? value->text : "");
  if (!result) refuse(field, "a PCI address such as \"0000:00:10.0\" (domain 0000)");
  return result;
}

const std::vector<Value>* Reader::list(std::string_view field, size_t most) const {
  const auto* value = find(field);
  if (!value) return nullptr;
  if (value->kind != Value::Kind::list || value->items.size() > most)
    refuse(field, "a list of at most " + std::to_string(most));
  return &value->items;
}

std::string element(const Reader& reader, std::string_view field, size_t index) {
  return reader.path(field) + "[" + std::to_string(index) + "]";
}

}  // namespace vfio::soft::topology
