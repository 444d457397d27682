// Makes random sequences. A generator remembers the objects that a sequence has made (address spaces,
// mappings, page tables, devices ...), so that most calls are valid. Some calls are nearly valid, and some
// are random.
//
// The generator never makes calls in which the software host is known to differ from a kernel.
// docs/fuzzing.md lists these cases by name.
#pragma once

#include <string>

#include "sequence.h"

namespace vfio::fuzz {

// Returns the same sequence for the same seed. `kind`: "iommufd" (no devices), "mock" (with the kernel's mock
// devices), "vfio" (with edu devices).
[[nodiscard]] Case generate(const std::string& kind, uint64_t seed);

}  // namespace vfio::fuzz
