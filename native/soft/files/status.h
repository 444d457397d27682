// The status of a file of the software host, as stat(2) returns it.
#pragma once

#include <cstdint>

namespace vfio::soft::files {

struct Status {
  uint32_t mode = 0;  // type and permissions, as st_mode
  uint64_t size = 0;
  uint64_t device = 0;  // the number of a device node, as st_rdev
};

}  // namespace vfio::soft::files
