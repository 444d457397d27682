#include "values.h"

#include <bit>
#include <cstring>

namespace vfio::binding {
namespace {

constexpr uint64_t kMostBits = uint64_t{1} << 31;

}  // namespace

Bitmap::Bitmap(const Arguments& arguments, uint64_t length, size_t pageSizeIndex, uint64_t pageSize) {
  if (!std::has_single_bit(pageSize))
    refuse(arguments.env(), "a power of two", "pageSize", arguments[pageSizeIndex]);
  bits_ = length / pageSize + (length % pageSize != 0 ? 1 : 0);
  if (bits_ > kMostBits)
    refuse(arguments.env(), "pages large enough that 2^31 bits suffice", "pageSize",
           arguments[pageSizeIndex]);
  // One word more: a kernel that rounds up stays inside.
  words_.resize(bits_ / 64 + 2);
}

Napi::Value Bitmap::toJs(Napi::Env env) const {
  Napi::Uint8Array bytes = Napi::Uint8Array::New(env, (bits_ + 7) / 8);
  if (bytes.ByteLength() != 0) std::memcpy(bytes.Data(), words_.data(), bytes.ByteLength());
  return bytes;
}

}  // namespace vfio::binding
