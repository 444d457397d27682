#include <cstring>
#include <string>

#include "bench.h"

namespace vfio::bench {

int64_t checked(Napi::Env env, int64_t result, const char* what) {
  if (result < 0)
    throw Napi::Error::New(env, std::string(what) + ": " + std::strerror(static_cast<int>(-result)));
  return result;
}

}  // namespace vfio::bench

static Napi::Object Start(Napi::Env env, Napi::Object exports) {
  vfio::bench::addRegisters(env, exports);
  vfio::bench::addMappings(env, exports);
  vfio::bench::addInterrupts(env, exports);
  vfio::bench::addStart(env, exports);
  vfio::bench::addSoftware(env, exports);
  return exports;
}
NODE_API_MODULE(NODE_GYP_MODULE_NAME, Start)
