// A call that may take long, off the event loop: runs on Node's thread pool, resolves or rejects a promise.
// Whatever the call uses must be owned by it (shared pointers), so that disposing a handle meanwhile is
// harmless.
#pragma once

#include <napi.h>

#include <functional>
#include <string>

#include "../soft/lack.h"
#include "environment.h"
#include "exceptions.h"

namespace vfio::binding {

class AsyncCall final : public Napi::AsyncWorker {
 public:
  struct Naming {
    const char* syscall;
    const char* request;
  };
  // `run` gives a result or -errno; `convert` makes the promise's value of it.
  static Napi::Promise start(Napi::Env env, Naming naming, std::function<int64_t()> run,
                             std::function<Napi::Value(Napi::Env, int64_t)> convert) {
    auto* call = new AsyncCall(env, naming, std::move(run), std::move(convert));
    Napi::Promise promise = call->deferred_.Promise();
    call->Queue();
    return promise;
  }

 private:
  AsyncCall(Napi::Env env, Naming naming, std::function<int64_t()> run,
            std::function<Napi::Value(Napi::Env, int64_t)> convert)
      : AsyncWorker(env),
        naming_(naming),
        run_(std::move(run)),
        convert_(std::move(convert)),
        deferred_(env) {}

  void Execute() override {
    const WithReserve inside;
    try {
      result_ = run_();
    } catch (...) {
      result_ = soft::lack();
    }
  }
  void OnOK() override {
    try {
      if (result_ >= 0) return deferred_.Resolve(convert_(Env(), result_));
    } catch (const Napi::Error& error) {
      return deferred_.Reject(error.Value());
    } catch (...) {
      result_ = soft::lack();
    }
    deferred_.Reject(makeErrno(Env(), result_, naming_.syscall, naming_.request, nullptr));
  }

  void OnError(const Napi::Error& error) override { deferred_.Reject(error.Value()); }

  Naming naming_;
  std::function<int64_t()> run_;
  std::function<Napi::Value(Napi::Env, int64_t)> convert_;
  Napi::Promise::Deferred deferred_;
  int64_t result_ = 0;
};

}  // namespace vfio::binding
