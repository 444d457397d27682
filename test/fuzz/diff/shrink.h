// Makes a sequence on which the two sides differ as short and as simple as possible, while they still differ.
#pragma once

#include <functional>
#include <vector>

#include "sequence.h"

namespace vfio::fuzz {

// Finds the candidates on which the sides differ. The guest runs all of them in one batch.
using Differ = std::function<std::vector<bool>(const std::vector<Case>&)>;

[[nodiscard]] Case shrink(Case what, const Differ& differ);

}  // namespace vfio::fuzz
