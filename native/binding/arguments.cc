#include "arguments.h"

#include "../base/shown.h"

namespace vfio::binding {
namespace {

std::string describe(const Napi::Value& value) {
  switch (value.Type()) {
    case napi_undefined:
      return "undefined";
    case napi_null:
      return "null";
    case napi_string: {
      const std::string text = value.As<Napi::String>().Utf8Value();
      return std::string("'").append(shown(shortened(text, 40))) + "' of type string";
    }
    case napi_number:
    case napi_boolean:
    case napi_bigint: {
      const char* type = value.IsNumber() ? "number" : value.IsBoolean() ? "boolean" : "bigint";
      return value.ToString().Utf8Value() + (value.IsBigInt() ? "n" : "") + " of type " + type;
    }
    case napi_symbol:
      return "a symbol";
    case napi_function:
      return "a function";
    default:
      return "an object";
  }
}

// An integer from 0 to `max`, which is 2^53-1 at most.
bool isInteger(double number, double max, uint64_t& result) {
  if (!(number >= 0 && number <= max)) return false;
  const auto whole = static_cast<int64_t>(number);
  result = static_cast<uint64_t>(whole);
  return static_cast<double>(whole) == number;
}

}  // namespace

void refuse(Napi::Env env, const char* expected, const char* name, const Napi::Value& received) {
  const std::string message =
      std::string("Expected ") + expected + " for " + name + " but received " + describe(received);
  // If a number is expected, a received number is out of range; any other value has the wrong type.
  const bool range = received.IsNumber() || received.IsBigInt();
  Napi::Error error = range ? static_cast<Napi::Error>(Napi::RangeError::New(env, message))
                            : static_cast<Napi::Error>(Napi::TypeError::New(env, message));
  error.Set("code", range ? "ERR_OUT_OF_RANGE" : "ERR_INVALID_ARG_TYPE");
  throw error;
}

uint64_t u64Of(Napi::Env env, napi_value value, const char* name) {
  double number;
  uint64_t result;
  if (napi_get_value_double(env, value, &number) == napi_ok) {
    if (isInteger(number, kMaxSafeInteger, result)) return result;
  } else {
    bool lossless;
    if (napi_get_value_bigint_uint64(env, value, &result, &lossless) == napi_ok && lossless) return result;
  }
  refuse(env, "an unsigned 64-bit integer (bigint, or number up to 2^53-1)", name, Napi::Value(env, value));
}

uint64_t bigU64Of(Napi::Env env, napi_value value, const char* name) {
  uint64_t result;
  bool lossless;
  if (napi_get_value_bigint_uint64(env, value, &result, &lossless) == napi_ok && lossless) return result;
  return u64Of(env, value, name);
}

std::optional<uint64_t> optionalU64Of(Napi::Env env, napi_value value, const char* name) {
  napi_valuetype type;
  if (value == nullptr || (napi_typeof(env, value, &type) == napi_ok && type == napi_undefined))
    return std::nullopt;
  return bigU64Of(env, value, name);
}

uint64_t unsignedOf(Napi::Env env, napi_value value, const char* name, uint64_t max) {
  double number;
  uint64_t result;
  if (napi_get_value_double(env, value, &number) == napi_ok &&
      isInteger(number, static_cast<double>(max), result))
    return result;
  const std::string expected = "an integer from 0 to " + std::to_string(max);
  refuse(env, expected.c_str(), name, Napi::Value(env, value));
}

uint64_t Arguments::u64(size_t index, const char* name) const { return u64Of(env(), info_[index], name); }

std::optional<uint64_t> Arguments::optionalU64(size_t index, const char* name) const {
  return optionalU64Of(env(), info_[index], name);
}

uint64_t Arguments::unsignedNumber(size_t index, const char* name, uint64_t max) const {
  return unsignedOf(env(), info_[index], name, max);
}

std::optional<uint32_t> Arguments::optionalU32(size_t index, const char* name) const {
  if (info_[index].IsUndefined()) return std::nullopt;
  return u32(index, name);
}

bool Arguments::boolean(size_t index, const char* name) const {
  if (!info_[index].IsBoolean()) refuse(env(), "a boolean", name, info_[index]);
  return info_[index].As<Napi::Boolean>().Value();
}

std::string Arguments::text(size_t index, const char* name) const {
  if (!info_[index].IsString()) refuse(env(), "a string", name, info_[index]);
  std::string text = info_[index].As<Napi::String>().Utf8Value();
  if (text.find('\0') != std::string::npos) refuse(env(), "a string without NUL", name, info_[index]);
  return text;
}

std::span<uint8_t> Arguments::bytes(size_t index, const char* name) const {
  if (!info_[index].IsTypedArray() ||
      info_[index].As<Napi::TypedArray>().TypedArrayType() != napi_uint8_array)
    refuse(env(), "a Uint8Array", name, info_[index]);
  const auto array = info_[index].As<Napi::Uint8Array>();
  return {const_cast<uint8_t*>(array.Data()), array.ByteLength()};
}

}  // namespace vfio::binding
