// Runs the sequence of system calls that the bytes of `data` describe, on a new software host. Ends the
// process for errors that no sanitizer finds: a result that is not an errno, or a descriptor or a pin that is
// left behind.
//
// Any bytes form a sequence. They are read in order, and bytes that are missing at the end are 0.
#pragma once

#include <cstddef>
#include <cstdint>

namespace vfio::soft::fuzz {

void run(const uint8_t* data, size_t size);

}  // namespace vfio::soft::fuzz
