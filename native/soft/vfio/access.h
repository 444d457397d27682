// How the bytes of an access to a region reach whoever asked for it, piece by piece as the device moves them:
// a program's memory behind system calls (requests.h), a span for a caller of this process.
//
// Life: an access makes one and calls it before it returns.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

namespace vfio::soft::cdev {

// A function of the caller, (size_t at, std::span<Byte> bytes) -> int, which outlives it. Nothing is copied:
// an access to a register takes little more time than it takes to make a std::function.
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

// Takes what was read, or gives what is to be written. `at` counts from the start of the access. 0, or
// -errno, which ends the access.
using Put = Mover<const uint8_t>;
using Fetch = Mover<uint8_t>;

}  // namespace vfio::soft::cdev
