// A call that may take long, off the event loop: it runs on Node's thread pool and resolves or rejects a
// promise. The call must own everything that it uses (shared pointers), so that disposing a handle meanwhile
// is harmless.
#pragma once

#include <napi.h>

#include <functional>
#include <memory>
#include <string>

#include "../base/lack.h"
#include "environment.h"
#include "exceptions.h"
#include "schedule.h"

namespace vfio::binding {

class AsyncCall final : public Schedulable {
 public:
  // `run` returns a result or -errno; `convert` turns the result into the value of the promise.
  static Napi::Promise start(Napi::Env env, Naming naming, std::function<int64_t()> run,
                             std::function<Napi::Value(Napi::Env, int64_t)> convert) {
    std::unique_ptr<AsyncCall> call(new AsyncCall(env, naming, std::move(run), std::move(convert)));
    Napi::Promise promise = call->deferred_.Promise();
    Environment::of(env).schedule.start(std::move(call));
    return promise;
  }

 private:
  AsyncCall(Napi::Env env, Naming naming, std::function<int64_t()> run,
            std::function<Napi::Value(Napi::Env, int64_t)> convert)
      : Schedulable(env, naming), run_(std::move(run)), convert_(std::move(convert)), deferred_(env) {}

  void call() override {
    const WithReserve inside;
    try {
      result_ = run_();
    } catch (...) {
      result_ = lack();
    }
  }
  void OnOK() override {
    try {
      if (result_ >= 0) return deferred_.Resolve(convert_(Env(), result_));
    } catch (const Napi::Error& error) {
      return deferred_.Reject(error.Value());
    } catch (...) {
      result_ = lack();
    }
    deferred_.Reject(makeErrno(Env(), result_, naming().syscall, naming().request, nullptr));
  }

  void OnError(const Napi::Error& error) override { deferred_.Reject(error.Value()); }

  std::function<int64_t()> run_;
  std::function<Napi::Value(Napi::Env, int64_t)> convert_;
  Napi::Promise::Deferred deferred_;
  int64_t result_ = 0;
};

}  // namespace vfio::binding
