// How the bytes of an access to a region reach whoever asked for it, piece by piece as the device moves them:
// a program's memory behind system calls (requests.h), a span for a caller of this process.
//
// Life: an access makes one and calls it before it returns.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <span>

namespace vfio::soft::cdev {

// Takes what was read, or gives what is to be written. `at` counts from the start of the access. 0, or
// -errno, which ends the access.
using Put = std::function<int(size_t at, std::span<const uint8_t> bytes)>;
using Fetch = std::function<int(size_t at, std::span<uint8_t> bytes)>;

}  // namespace vfio::soft::cdev
