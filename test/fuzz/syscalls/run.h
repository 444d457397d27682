// Runs one sequence of system calls on a software host of its own, as the bytes of `data` say, and ends the
// process if something is wrong that no sanitizer would notice: a result that is no errno, a descriptor or a
// pin that is left behind.
//
// Any bytes are a sequence. They are read in turn, and what is missing at the end is 0.
#pragma once

#include <cstddef>
#include <cstdint>

namespace vfio::soft::fuzz {

void run(const uint8_t* data, size_t size);

}  // namespace vfio::soft::fuzz
