// Turns a C++ exception into a JavaScript error that says which resource was missing.
//
// node-addon-api runs every callback inside its WrapCallback, which handles Napi::Error only. The compiler
// chooses the WrapCallback in this file instead, because it is the more constrained of the two. For that,
// this file must be included before napi.h: the compiler's command line does so (binding.gyp).
#pragma once

#include <node_api.h>

#include <concepts>

#include "../base/reserve.h"

namespace vfio::binding {

// The result of a system call must reach JavaScript, so allocations inside a callback can use the memory
// reserve.
class WithReserve {
 public:
  WithReserve() { (void)Reserve::fill(); }

 private:
  const Reserve::Use use_;
};

// Call this inside a catch handler: throws the caught exception as a JavaScript error. A lack of memory,
// descriptors or threads becomes a VfioError with the errno.
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
