// Functions for hot paths, bound to what they work on: a call unwraps no object and checks no tag, which is
// most of what a short call costs. The function owns its share of the object; what can be disposed is reached
// through it.
#pragma once

#include <napi.h>

#include <memory>
#include <optional>

#include "arguments.h"
#include "exceptions.h"

namespace vfio::binding {

constexpr size_t kMaxBoundArguments = 6;

// `Run(env, arguments, object)`; an argument that was not passed is null.
template <typename Object, napi_value (*Run)(Napi::Env, const napi_value*, Object&)>
Napi::Function bind(Napi::Env env, const char* name, std::shared_ptr<Object> object) {
  auto kept = std::make_unique<std::shared_ptr<Object>>(std::move(object));
  napi_value function = nullptr;
  const auto call = [](napi_env raw, napi_callback_info info) -> napi_value {
    size_t count = kMaxBoundArguments;
    napi_value arguments[kMaxBoundArguments];
    void* data = nullptr;
    napi_get_cb_info(raw, info, &count, arguments, nullptr, &data);
    for (; count < kMaxBoundArguments; ++count) arguments[count] = nullptr;
    const WithReserve inside;
    try {
      return Run(raw, arguments, **static_cast<std::shared_ptr<Object>*>(data));
    } catch (...) {
      throwHandled(raw);
    }
    return nullptr;
  };
  const auto drop = [](napi_env, void* data, void*) { delete static_cast<std::shared_ptr<Object>*>(data); };
  // Both can fail while a worker is being stopped.
  if (napi_create_function(env, name, NAPI_AUTO_LENGTH, call, kept.get(), &function) != napi_ok ||
      napi_add_finalizer(env, function, kept.get(), drop, nullptr, nullptr) != napi_ok) {
    throw Napi::Error::New(env);
  }
  (void)kept.release();
  return {env, function};
}

// An unsigned 64-bit quantity going out: a number where it is exact, which costs less, else a bigint. lib/
// makes bigints of them.
inline napi_value u64To(Napi::Env env, uint64_t value) {
  napi_value result = nullptr;
  if (value <= static_cast<uint64_t>(kMaxSafeInteger))
    napi_create_double(env, static_cast<double>(value), &result);
  else
    napi_create_bigint_uint64(env, value, &result);
  return result;
}

// The same for what is most often as it was asked for: undefined then, which costs nothing.
inline napi_value u64UnlessAsked(Napi::Env env, uint64_t value, std::optional<uint64_t> asked) {
  return value == asked ? nullptr : u64To(env, value);
}

}  // namespace vfio::binding
