// The addon's entry: what lib/native.ts sees of it.
#include <napi.h>

#include "event_fd.h"
#include "file.h"
#include "host_handle.h"
#include "mapped.h"
#include "memory.h"
#include "watch.h"

namespace vfio::binding {
namespace {

// (value) => is it a File of this addon?
Napi::Value isFile(const Napi::CallbackInfo& info) {
  return Napi::Boolean::New(info.Env(), File::from(info[0]) != nullptr);
}

// (makeError)
Napi::Value initialize(const Napi::CallbackInfo& info) {
  if (!info[0].IsFunction()) refuse(info.Env(), "a function", "makeError", info[0]);
  Environment::of(info.Env()).makeError = Napi::Persistent(info[0].As<Napi::Function>());
  return info.Env().Undefined();
}

Napi::Object start(Napi::Env env, Napi::Object exports) {
  auto* environment = new Environment;
  env.SetInstanceData(environment);  // deleted with the environment
  environment->host = Napi::Persistent(HostHandle::define(env));
  environment->file = Napi::Persistent(File::define(env));
  environment->memory = Napi::Persistent(Memory::define(env));
  environment->mapped = Napi::Persistent(Mapped::define(env));
  exports.Set("Host", environment->host.Value());
  exports.Set("EventFd", EventFd::define(env));
  exports.Set("Watch", Watch::define(env));
  exports.Set("adopt", Napi::Function::New<HostHandle::adopt>(env, "adopt"));
  exports.Set("isFile", Napi::Function::New<isFile>(env, "isFile"));
  exports.Set("allocateMemory", Napi::Function::New<Memory::allocate>(env, "allocateMemory"));
  exports.Set("memoryOfDescriptor", Napi::Function::New<Memory::ofDescriptor>(env, "memoryOfDescriptor"));
  exports.Set("memoryOfAddress", Napi::Function::New<Memory::ofAddress>(env, "memoryOfAddress"));
  exports.Set("schedule", Schedule::make(env));
  exports.Set("initialize", Napi::Function::New<initialize>(env, "initialize"));
  return exports;
}

}  // namespace
}  // namespace vfio::binding

static Napi::Object Start(Napi::Env env, Napi::Object exports) { return vfio::binding::start(env, exports); }
NODE_API_MODULE(NODE_GYP_MODULE_NAME, Start)
