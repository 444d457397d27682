// The entry point of the addon: the functions and classes that lib/addon/native.ts imports.
#include <napi.h>

#include <atomic>

#include "../guard/guard.h"
#include "../ledger/kept.h"
#include "event_fd.h"
#include "file.h"
#include "host_handle.h"
#include "injected_fault.h"
#include "kernel_object.h"
#include "mapped.h"
#include "memory.h"
#include "simulated_device.h"
#include "space.h"
#include "stack.h"
#include "turn.h"
#include "watch.h"
#include "write.h"

namespace vfio::binding {
namespace {

// Reserves `count` new mapping numbers for the caller. (count) => the first of them
Napi::Value mappingNumbers(const Napi::CallbackInfo& info) {
  static std::atomic<uint64_t> next = 1;
  return Napi::Number::New(info.Env(), static_cast<double>(next.fetch_add(Arguments(info).u32(0, "count"))));
}

// () => how many times memory had to be kept
Napi::Value doubts(const Napi::CallbackInfo& info) {
  return Napi::Number::New(info.Env(), static_cast<double>(ledger::doubts()));
}

// () => { bytes, reason }[]: the memory that is kept
Napi::Value kept(const Napi::CallbackInfo& info) {
  const auto all = ledger::kept();
  Napi::Array array = Napi::Array::New(info.Env(), all.size());
  for (uint32_t i = 0; i < all.size(); ++i) {
    Napi::Object entry = Napi::Object::New(info.Env());
    entry.Set("bytes", Napi::BigInt::New(info.Env(), all[i].bytes));
    entry.Set("reason", all[i].reason);
    array.Set(i, entry);
  }
  return array;
}

// (makeError, stackHere): the caller must keep the functions alive
Napi::Value initialize(const Napi::CallbackInfo& info) {
  if (!info[0].IsFunction()) refuse(info.Env(), "a function", "makeError", info[0]);
  if (!info[1].IsFunction()) refuse(info.Env(), "a function", "stackHere", info[1]);
  Environment::of(info.Env()).makeError = Napi::Weak(info[0].As<Napi::Function>());
  setStackFunction(info[1].As<Napi::Function>());
  return info.Env().Undefined();
}

// () => is this the first call in this process?
Napi::Value claimSignals(const Napi::CallbackInfo& info) {
  static std::atomic<bool> claimed = false;
  return Napi::Boolean::New(info.Env(), !claimed.exchange(true));
}

void keepInFront(const Napi::CallbackInfo&) { guard::keepInFront(); }

Napi::Object start(Napi::Env env, Napi::Object exports) {
  auto* environment = new Environment;
  env.SetInstanceData(environment);  // deleted with the environment
  environment->host = Napi::Persistent(HostHandle::define(env));
  environment->files = File::define(env);
  environment->space = Napi::Persistent(Space::define(env));
  environment->object = Napi::Persistent(KernelObject::define(env));
  environment->memory = Napi::Persistent(Memory::define(env));
  environment->mapped = Napi::Persistent(Mapped::define(env));
  environment->write = Napi::Persistent(Write::define(env));
  environment->turn = Napi::Persistent(Turn::define(env));
  environment->injectedFault = Napi::Persistent(InjectedFault::define(env));
  environment->simulatedPort = Napi::Persistent(SimulatedPort::define(env));
  exports.Set("Host", environment->host.Value());
  exports.Set("EventFd", EventFd::define(env));
  exports.Set("Watch", Watch::define(env));
  exports.Set("adopt", Napi::Function::New<HostHandle::adopt>(env, "adopt"));
  exports.Set("allocateMemory", Napi::Function::New<Memory::allocate>(env, "allocateMemory"));
  exports.Set("allocateMemoryAt", Napi::Function::New<Memory::allocateAt>(env, "allocateMemoryAt"));
  exports.Set("memoryOfDescriptor", Napi::Function::New<Memory::ofDescriptor>(env, "memoryOfDescriptor"));
  exports.Set("memoryOfAddress", Napi::Function::New<Memory::ofAddress>(env, "memoryOfAddress"));
  exports.Set("pageSize", Napi::Number::New(env, static_cast<double>(pageSize())));
  exports.Set("addressOf", Napi::Function::New<Memory::addressOf>(env, "addressOf"));
  exports.Set("schedule", Schedule::make(env));
  const Napi::ArrayBuffer place = Napi::ArrayBuffer::New(env, sizeof(uint64_t));
  environment->placeMemory = Napi::Persistent(place);
  environment->place = static_cast<uint64_t*>(environment->placeMemory.Value().Data());
  exports.Set("place", Napi::BigUint64Array::New(env, 1, place, 0));
  exports.Set("mappingNumbers", Napi::Function::New<mappingNumbers>(env, "mappingNumbers"));
  exports.Set("doubts", Napi::Function::New<doubts>(env, "doubts"));
  exports.Set("kept", Napi::Function::New<kept>(env, "kept"));
  exports.Set("claimSignals", Napi::Function::New<claimSignals>(env, "claimSignals"));
  exports.Set("keepInFront", Napi::Function::New<keepInFront>(env, "keepInFront"));
  exports.Set("initialize", Napi::Function::New<initialize>(env, "initialize"));
  return exports;
}

}  // namespace
}  // namespace vfio::binding

static Napi::Object Start(Napi::Env env, Napi::Object exports) { return vfio::binding::start(env, exports); }
NODE_API_MODULE(NODE_GYP_MODULE_NAME, Start)
