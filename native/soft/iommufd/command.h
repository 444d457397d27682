// A request on /dev/iommu on its way through its handler: the caller's struct, zero-extended to the size that
// this "kernel" knows, and where the reply goes.
#pragma once

#include <cstddef>
#include <cstdint>

#include "../file.h"
#include "context.h"

namespace vfio::soft::iommufd {

struct Command {
  Context& context;
  UserAddress user;   // the caller's struct
  uint32_t userSize;  // what the caller says its size is
  void* bytes;

  template <class Struct>
  [[nodiscard]] Struct& as() const {
    return *static_cast<Struct*>(bytes);
  }
  // Writes the struct back, no more of it than the caller knows: 0 or -EFAULT.
  [[nodiscard]] int respond(size_t size) const;
};

using Handler = int (*)(Command& command);

// ioas.cc, ioas_commands.cc
int ioasAlloc(Command& command);
int ioasIovaRanges(Command& command);
int ioasAllowIovas(Command& command);
int ioasMap(Command& command);
int ioasCopy(Command& command);
int ioasUnmap(Command& command);
// options.cc
int option(Command& command);
int vfioIoas(Command& command);
// hwpt.cc, hw_info.cc
int hwptAlloc(Command& command);
int getHwInfo(Command& command);

// vfio_compat.cc: the requests of a VFIO container, for numbers that are none of iommufd's.
[[nodiscard]] int vfioRequest(Context& context, uint32_t request, UserAddress argument);

}  // namespace vfio::soft::iommufd
