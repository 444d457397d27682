// A run of the fuzzer: the same sequences on the software host, here, and on the kernels in the guests.
#pragma once

#include <string>
#include <vector>

#include "execute.h"
#include "sequence.h"

namespace vfio::fuzz {

// The arguments of `diff_fuzz fuzz`; the exit code: 0, 1 with a difference, 2 if it could not run.
int campaign(const std::vector<std::string>& arguments);

// The calls of a case up to where the two sides part, with both answers there.
[[nodiscard]] std::string describe(const Case& what, const Transcript& kernel, const Transcript& software);

}  // namespace vfio::fuzz
