// How the bytes of an access to a region reach its caller, piece by piece as the device moves them. For a
// system call (requests.h) they reach the program's memory. For a caller in this process they reach a span.
//
// Life: a caller makes a mover for one access; the access calls it before it returns and keeps no reference.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

namespace vfio::soft::cdev {

// Refers to a function of the caller, (size_t at, std::span<Byte> bytes) -> int. That function outlives the
// mover. Nothing is copied, because an access to a register takes little more time than the making of a
// std::function.
template <typename Byte>
class Mover {
 public:
  template <typename Function>
  Mover(const Function& function)
      : function_(&function), call_([](const void* its, size_t at, std::span<Byte> bytes) -> int {
          return (*static_cast<const Function*>(its))(at, bytes);
        }) {}

  int operator()(size_t at, std::span<Byte> bytes) const { return call_(function_, at, bytes); }

 private:
  const void* function_;
  int (*call_)(const void*, size_t, std::span<Byte>);
};

// `Put` takes the bytes that were read; `Fetch` supplies the bytes to write. `at` counts from the start of
// the access. Both return 0, or -errno, which ends the access.
using Put = Mover<const uint8_t>;
using Fetch = Mover<uint8_t>;

}  // namespace vfio::soft::cdev
