// Makes a sequence on which the two sides differ as short and as plain as it can be while they still do.
#pragma once

#include <functional>
#include <vector>

#include "sequence.h"

namespace vfio::fuzz {

// Which of some candidates differ (the guest is asked once for all of them).
using Differ = std::function<std::vector<bool>(const std::vector<Case>&)>;

[[nodiscard]] Case shrink(Case what, const Differ& differ);

}  // namespace vfio::fuzz
