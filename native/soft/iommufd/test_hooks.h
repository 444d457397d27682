// The additions to iommufd of a kernel that was built with its tests. Without hooks (null) there are none.
//
// Life: static data of the code that adds them, given to each open file.
#pragma once

#include <cstdint>

namespace vfio::soft::iommufd {

class Context;
struct Command;

struct TestHooks {
  // The test-only command.
  int (*command)(Command& command);
  // For IOAS_COPY: converts an IOVA that is given in another way, and clears the flag that says so.
  void (*convertIova)(const Context& context, uint32_t ioasId, uint64_t& iova, uint32_t& flags);
};

}  // namespace vfio::soft::iommufd
