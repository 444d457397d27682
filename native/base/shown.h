// Text that others chose (a name, a path, a piece of a file) in what people read.
#pragma once

#include <string>
#include <string_view>

namespace vfio {

// What has no shape of its own, or another than it seems, is shown as its number: control characters, which
// would move a terminal's cursor, marks of direction, which would turn the line around, line separators, and
// bytes that are no UTF-8. As lib/base/shell.ts does it.
[[nodiscard]] std::string shown(std::string_view text);

// The first bytes of it, `most` or fewer, so that no character is cut; "..." says that there was more.
[[nodiscard]] std::string shortened(std::string_view text, size_t most);

}  // namespace vfio
