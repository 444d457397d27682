// Calls of a function of JavaScript by the addon.
//
// JavaScript that is being stopped (by the end of a worker, or by a watchdog of node:vm) leaves no exception.
// node-addon-api ends the process if it is to make an error of that, so the addon does not call through it.
#pragma once

#include <napi.h>

#include <initializer_list>

namespace vfio::binding {

// Is thrown when a call can't go on, because the JavaScript of the thread is being stopped. Nobody is told.
struct Stopped {};

// Returns what the function returned. Null: it threw, and the exception is cleared; or it is being stopped.
inline napi_value tryCall(const Napi::Function& function, std::initializer_list<napi_value> arguments) {
  const Napi::Env env = function.Env();
  napi_value result = nullptr;
  if (napi_call_function(env, env.Undefined(), function, arguments.size(), arguments.begin(), &result) ==
      napi_ok)
    return result;
  bool pending = false;
  napi_is_exception_pending(env, &pending);
  napi_value exception = nullptr;
  if (pending) napi_get_and_clear_last_exception(env, &exception);
  return nullptr;
}

}  // namespace vfio::binding
