// What a kernel that was built with its tests adds to iommufd. Without hooks (null) there is none of it.
//
// Life: static data of who adds it, given to each open file.
#pragma once

#include <cstdint>

namespace vfio::soft::iommufd {

class Context;
struct Command;

struct TestHooks {
  // The test-only command.
  int (*command)(Command& command);
  // For IOAS_COPY: replaces an IOVA that is given in another way, and takes away the flag that says so.
  void (*convertIova)(const Context& context, uint32_t ioasId, uint64_t& iova, uint32_t& flags);
};

}  // namespace vfio::soft::iommufd
