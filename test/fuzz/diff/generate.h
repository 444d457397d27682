// Random sequences. They know what they have made so far (address spaces, mappings, page tables, devices
// ...), so that most calls mean something; some are nearly right, and some are wild.
//
// What the software host declares that it can't do as a kernel does is left out here, by construction, each
// with its name in docs/fuzzing.md.
#pragma once

#include <string>

#include "sequence.h"

namespace vfio::fuzz {

// The same for the same seed. `kind`: "iommufd" (no devices), "mock" (with the kernel's mock
// devices), "vfio" (with edu devices).
[[nodiscard]] Case generate(const std::string& kind, uint64_t seed);

}  // namespace vfio::fuzz
