// Functions for hot paths, each bound to the object it works on. A call unwraps no object and checks no tag;
// these steps are most of the cost of a short call. The function owns a share of the bound object, and
// reaches the disposable handle through it.
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

// Returns an unsigned 64-bit value to JavaScript: as a number if that is exact, which costs less, else as a
// bigint. lib/ converts both to bigints.
inline napi_value u64To(Napi::Env env, uint64_t value) {
  napi_value result = nullptr;
  if (value <= static_cast<uint64_t>(kMaxSafeInteger))
    napi_create_double(env, static_cast<double>(value), &result);
  else
    napi_create_bigint_uint64(env, value, &result);
  return result;
}

// The same for a value that usually equals the requested one: then returns undefined, which costs nothing.
inline napi_value u64UnlessAsked(Napi::Env env, uint64_t value, std::optional<uint64_t> asked) {
  return value == asked ? nullptr : u64To(env, value);
}

}  // namespace vfio::binding
