// Loads and stores on a mapping, in a loop over volatile words. Like the loops of bench/registers.ts it makes
// four accesses in an iteration, and its window is a power of two.
#include "bench.h"

namespace vfio::bench {
namespace {

struct Window {
  volatile uint32_t* at;
  uint32_t mask;
  uint32_t times;

  explicit Window(const Napi::CallbackInfo& info) {
    auto words = info[0].As<Napi::Uint32Array>();
    at = words.Data();
    mask = static_cast<uint32_t>(words.ElementLength() - 1);
    times = info[1].As<Napi::Number>().Uint32Value();
  }
};

// (words: Uint32Array, times, first: unused) => sum
Napi::Value loads(const Napi::CallbackInfo& info) {
  const Window window(info);
  uint32_t sum = 0;
  for (uint32_t i = 0; i < window.times; i += 4) {
    const uint32_t at = i & window.mask;
    sum += window.at[at];
    sum += window.at[at | 1];
    sum += window.at[at | 2];
    sum += window.at[at | 3];
  }
  return Napi::Number::New(info.Env(), static_cast<int32_t>(sum));
}

// (words: Uint32Array, times, first) => 0
Napi::Value stores(const Napi::CallbackInfo& info) {
  const Window window(info);
  const uint32_t first = info[2].As<Napi::Number>().Uint32Value();
  for (uint32_t i = 0; i < window.times; i += 4) {
    const uint32_t at = i & window.mask;
    window.at[at] = first + i;
    window.at[at | 1] = first + i + 1;
    window.at[at | 2] = first + i + 2;
    window.at[at | 3] = first + i + 3;
  }
  return Napi::Number::New(info.Env(), 0);
}

}  // namespace

void addRegisters(Napi::Env env, Napi::Object exports) {
  exports.Set("loads", Napi::Function::New<loads>(env, "loads"));
  exports.Set("stores", Napi::Function::New<stores>(env, "stores"));
}

}  // namespace vfio::bench
