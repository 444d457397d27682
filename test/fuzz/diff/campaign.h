// A run of the fuzzer: it runs the same sequences on the software host in this process, and on the kernels in
// the guests.
#pragma once

#include <string>
#include <vector>

#include "execute.h"
#include "sequence.h"

namespace vfio::fuzz {

// Takes the arguments of `diff_fuzz fuzz`. Returns the exit code: 0; 1 with a difference; 2 if it could not
// run.
int campaign(const std::vector<std::string>& arguments);

// The text of the calls of a case up to the first difference, with the two answers there.
[[nodiscard]] std::string describe(const Case& what, const Transcript& kernel, const Transcript& software);

}  // namespace vfio::fuzz
