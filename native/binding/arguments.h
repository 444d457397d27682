// Checks the arguments that JavaScript passes. Every error message has the same form: Expected X for Y but
// received Z.
#pragma once

#include <napi.h>

#include <cstdint>
#include <optional>
#include <span>
#include <string>

namespace vfio::binding {

// Throws a TypeError or RangeError with Node's codes ERR_INVALID_ARG_TYPE and ERR_OUT_OF_RANGE.
[[noreturn]] void refuse(Napi::Env env, const char* expected, const char* name, const Napi::Value& received);

constexpr double kMaxSafeInteger = 9007199254740991.0;

// One argument of a call that has no CallbackInfo (bound.h); null: it was not passed. Same checks as
// Arguments::u64 and unsignedNumber.
[[nodiscard]] uint64_t u64Of(Napi::Env env, napi_value value, const char* name);
// The same for a value that is usually a bigint: a bigint then needs one type check less.
[[nodiscard]] uint64_t bigU64Of(Napi::Env env, napi_value value, const char* name);
[[nodiscard]] std::optional<uint64_t> optionalU64Of(Napi::Env env, napi_value value, const char* name);
[[nodiscard]] uint64_t unsignedOf(Napi::Env env, napi_value value, const char* name, uint64_t max);

class Arguments {
 public:
  explicit Arguments(const Napi::CallbackInfo& info) : info_(info) {}

  [[nodiscard]] uint64_t u64(size_t index, const char* name) const;  // bigint or safe integer, 0 to 2^64-1
  [[nodiscard]] std::optional<uint64_t> optionalU64(size_t index, const char* name) const;  // undefined: none
  [[nodiscard]] uint64_t unsignedNumber(size_t index, const char* name, uint64_t max) const;
  [[nodiscard]] uint32_t u32(size_t index, const char* name) const {
    return static_cast<uint32_t>(unsignedNumber(index, name, UINT32_MAX));
  }
  [[nodiscard]] std::optional<uint32_t> optionalU32(size_t index, const char* name) const;
  [[nodiscard]] int descriptor(size_t index, const char* name) const {
    return static_cast<int>(unsignedNumber(index, name, INT32_MAX));
  }
  [[nodiscard]] bool boolean(size_t index, const char* name) const;
  [[nodiscard]] std::string text(size_t index, const char* name) const;  // without NUL
  [[nodiscard]] std::span<uint8_t> bytes(size_t index,
                                         const char* name) const;  // of a Uint8Array; valid for the call

  Napi::Env env() const { return info_.Env(); }
  Napi::Value operator[](size_t index) const { return info_[index]; }

 private:
  const Napi::CallbackInfo& info_;
};

}  // namespace vfio::binding
