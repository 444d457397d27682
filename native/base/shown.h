// Makes text that others chose (a name, a path, a piece of a file) safe to show to people.
#pragma once

#include <string>
#include <string_view>

namespace vfio {

// Characters without a shape of their own, or with a misleading one, are shown as numbers: control
// characters, which would move a terminal's cursor, marks of direction, which would turn the line around,
// line separators, and bytes that are no UTF-8. lib/base/shell.ts does the same.
[[nodiscard]] std::string shown(std::string_view text);

// Returns the first bytes of the text, `most` or fewer, so that no character is cut; "..." says that there
// was more.
[[nodiscard]] std::string shortened(std::string_view text, size_t most);

}  // namespace vfio
