// What becomes of a C++ exception at the border to JavaScript: an error that says what was lacking.
//
// node-addon-api runs every callback inside its WrapCallback, which knows Napi::Error only. The one here is
// chosen instead, being the more constrained one of two: so this is included before napi.h, by the compiler's
// command line (binding.gyp).
#pragma once

#include <node_api.h>

#include <concepts>

#include "../soft/core/reserve.h"

namespace vfio::binding {

// What a system call has given must reach JavaScript: a callback's own allocations fall back on the reserve.
class WithReserve {
 public:
  WithReserve() { (void)soft::Reserve::fill(); }

 private:
  const soft::Reserve::Use use_;
};

// Within a handler: throws what is being handled as JavaScript's. Lack of memory, descriptors or threads is a
// VfioError with the errno.
void throwHandled(napi_env env) noexcept;

}  // namespace vfio::binding

namespace Napi::details {

template <std::invocable Callable>
napi_value WrapCallback(napi_env env, Callable callback) {
  const vfio::binding::WithReserve inside;
  try {
    return callback();
  } catch (...) {
    vfio::binding::throwHandled(env);
    return nullptr;
  }
}

}  // namespace Napi::details
