#include "schedule.h"

#include <thread>
#include <utility>

#include "arguments.h"
#include "environment.h"

namespace vfio::binding {

Napi::Object Schedule::make(Napi::Env env) {
  Napi::Object schedule = Napi::Object::New(env);
  schedule.Set("hold", Napi::Function::New<hold>(env, "hold"));
  schedule.Set("waiting", Napi::Function::New<waiting>(env, "waiting"));
  schedule.Set("run", Napi::Function::New<run>(env, "run"));
  schedule.Set("deliver", Napi::Function::New<deliver>(env, "deliver"));
  schedule.Set("release", Napi::Function::New<release>(env, "release"));
  return schedule;
}

void Schedule::start(std::unique_ptr<Schedulable> call) {
  if (holding_) return waiting_.push_back(std::move(call));
  call->Queue();
  (void)call.release();  // deletes itself when it is done
}

Schedulable& Schedule::at(const Napi::CallbackInfo& info) {
  const uint32_t index = Arguments(info).u32(0, "index");
  if (index >= waiting_.size()) refuse(info.Env(), "the index of a waiting call", "index", info[0]);
  return *waiting_[index];
}

// (): from now on calls wait
Napi::Value Schedule::hold(const Napi::CallbackInfo& info) {
  Environment::of(info.Env()).schedule.holding_ = true;
  return info.Env().Undefined();
}

// () => { syscall, request, done }[]: the waiting calls, oldest first. `done`: the kernel was called.
Napi::Value Schedule::waiting(const Napi::CallbackInfo& info) {
  const Napi::Env env = info.Env();
  Napi::Array array = Napi::Array::New(env);
  for (const auto& call : Environment::of(env).schedule.waiting_) {
    const auto& [syscall, request] = call->naming();
    Napi::Object entry = Napi::Object::New(env);
    entry.Set("syscall", syscall);
    entry.Set("request", request ? Napi::Value(Napi::String::New(env, request)) : env.Null());
    entry.Set("done", call->done());
    array.Set(array.Length(), entry);
  }
  return array;
}

// (index): makes the call to the kernel on a new thread (the pool also uses another thread), and waits for it
Napi::Value Schedule::run(const Napi::CallbackInfo& info) {
  Schedulable& call = Environment::of(info.Env()).schedule.at(info);
  if (call.done()) refuse(info.Env(), "a call that was not made yet", "index", info[0]);
  std::thread([&call, env = info.Env()] { call.OnExecute(env); }).join();
  return info.Env().Undefined();
}

// (index): settles the promise of a call that was made
Napi::Value Schedule::deliver(const Napi::CallbackInfo& info) {
  auto& waiting = Environment::of(info.Env()).schedule.waiting_;
  const Schedulable& call = Environment::of(info.Env()).schedule.at(info);
  if (!call.done()) refuse(info.Env(), "a call that was made", "index", info[0]);
  const auto found = waiting.begin() + Arguments(info).u32(0, "index");
  Schedulable* const settled = found->release();  // deletes itself
  waiting.erase(found);
  settled->OnWorkComplete(info.Env(), napi_ok);
  return info.Env().Undefined();
}

// (): waiting calls go to the pool, and so do all later calls
Napi::Value Schedule::release(const Napi::CallbackInfo& info) {
  Schedule& schedule = Environment::of(info.Env()).schedule;
  schedule.holding_ = false;
  for (auto& call : std::exchange(schedule.waiting_, {})) schedule.start(std::move(call));
  return info.Env().Undefined();
}

}  // namespace vfio::binding
