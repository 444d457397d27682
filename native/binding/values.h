// Conversions of values to and from JavaScript that many calls use.
#pragma once

#include <napi.h>

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "arguments.h"

namespace vfio::binding {

inline Napi::Value number(Napi::Env env, uint32_t value) { return Napi::Number::New(env, value); }
inline Napi::Value bigint(Napi::Env env, uint64_t value) { return Napi::BigInt::New(env, value); }

inline Napi::Array numbers(Napi::Env env, const auto& values) {
  Napi::Array array = Napi::Array::New(env);
  for (const auto value : values) array.Set(array.Length(), number(env, value));
  return array;
}

inline Napi::Array bigints(Napi::Env env, const auto& values) {
  Napi::Array array = Napi::Array::New(env);
  for (const auto value : values) array.Set(array.Length(), bigint(env, value));
  return array;
}

// A BigUint64Array's elements, copied; `unit`: their number must be a multiple of it.
inline std::vector<uint64_t> fields(const Arguments& arguments, size_t index, size_t unit) {
  const Napi::Value value = arguments[index];
  if (!value.IsTypedArray() || value.As<Napi::TypedArray>().TypedArrayType() != napi_biguint64_array)
    refuse(arguments.env(), "a BigUint64Array", "fields", value);
  const auto array = value.As<Napi::BigUint64Array>();
  if (array.ElementLength() % unit != 0) refuse(arguments.env(), "whole entries", "fields", value);
  return {array.Data(), array.Data() + array.ElementLength()};
}

// Finds one of several names, and returns the value that it stands for.
template <typename T, size_t Count>
T oneOf(const Arguments& arguments, size_t index, const char* name,
        const std::pair<const char*, T> (&allowed)[Count]) {
  const std::string text = arguments.text(index, name);
  for (const auto& [each, value] : allowed)
    if (text == each) return value;
  std::string expected;
  for (const auto& [each, value] : allowed)
    expected += (expected.empty() ? "'" : " or '") + std::string(each) + "'";
  refuse(arguments.env(), expected.c_str(), name, arguments[index]);
}

// A bitmap for JavaScript: one bit for each `pageSize` bytes of `length`. The kernel uses 64-bit words.
class Bitmap {
 public:
  // Refuses a page size that is not a power of two (the kernel would then count the bits differently), and an
  // unreasonable number of bits.
  Bitmap(const Arguments& arguments, uint64_t length, size_t pageSizeIndex, uint64_t pageSize);
  [[nodiscard]] uint64_t* words() { return words_.data(); }
  [[nodiscard]] size_t size() const { return words_.size() * sizeof(uint64_t); }  // in bytes
  [[nodiscard]] Napi::Value toJs(Napi::Env env) const;

 private:
  uint64_t bits_;
  std::vector<uint64_t> words_;
};

}  // namespace vfio::binding
