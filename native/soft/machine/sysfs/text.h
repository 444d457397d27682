// Writes and reads the texts of sysfs files. The formats are those of the kernel, byte for byte, since tools
// parse them.
#pragma once

#include <array>
#include <cstdint>
#include <cstdio>
#include <functional>
#include <optional>
#include <string>
#include <string_view>

#include "../../files/tree.h"

namespace vfio::soft::machine::sysfs {

using files::Attribute;
using files::Offer;
using files::Opener;
using files::Tree;

inline const std::string busPath = "/sys/bus/pci";
inline const std::string groupsPath = "/sys/kernel/iommu_groups";

template <typename... Values>
std::string format(const char* pattern, Values... values) {
  std::array<char, 160> text;
  std::snprintf(text.data(), text.size(), pattern, values...);
  return text.data();
}

// Makes a store function from a function that returns 0 or -errno.
template <typename Function>
std::function<int64_t(std::string_view)> store(Function function) {
  return [function](std::string_view text) -> int64_t { return function(text); };
}

// Reads a whole number as the kernel does: decimal, octal or hexadecimal, perhaps with a plus before it and a
// newline after it. 0, -EINVAL: it is no number, or -ERANGE: it is larger than `most`.
[[nodiscard]] int number(std::string_view text, uint64_t most, uint64_t& value);

// Reads a yes or a no. Like the kernel, it looks only at the first letters.
[[nodiscard]] std::optional<bool> yesOrNo(std::string_view text);
[[nodiscard]] std::function<int64_t(std::string_view)> storeFlag(bool& flag);

// An attribute that never changes.
[[nodiscard]] Attribute fixed(std::string text);
inline void addText(Tree& tree, const std::string& path, std::string text) {
  tree.attribute(path, fixed(std::move(text)));
}

}  // namespace vfio::soft::machine::sysfs
