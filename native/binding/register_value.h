// Register values to and from JavaScript: a number up to 32 bits, a bigint at 64.
#pragma once

#include <napi.h>

#include "arguments.h"
#include "environment.h"

namespace vfio::binding {

inline size_t accessWidth(const Arguments& arguments, size_t index) {
  const uint64_t width = arguments.unsignedNumber(index, "width", 8);
  if (width != 1 && width != 2 && width != 4 && width != 8)
    refuse(arguments.env(), "1, 2, 4 or 8", "width", arguments[index]);
  return width;
}

inline Napi::Value registerValue(Napi::Env env, size_t width, uint64_t value) {
  if (width == 8) return Napi::BigInt::New(env, value);
  return Napi::Number::New(env, static_cast<double>(value));
}

inline uint64_t registerArgument(Napi::Env env, napi_value value, size_t width) {
  if (width == 8) return u64Of(env, value, "value");
  return unsignedOf(env, value, "value", (uint64_t{1} << (8 * width)) - 1);
}

// The region transferred fewer bytes than one access needs: the region ends there.
[[noreturn]] inline void throwShort(Napi::Env env, const char* what, size_t width, int64_t moved) {
  throwCode(env, "ERR_OUT_OF_RANGE",
            std::string("Expected to ") + what + " " + std::to_string(width) +
                " bytes but the region moved " + std::to_string(moved));
}

}  // namespace vfio::binding
