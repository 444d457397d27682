// Lets a test control the order of calls on the thread pool. While the test holds the calls, a call waits
// here instead of in the pool's queue. The test decides when the kernel is called, and when the promise is
// settled. Each environment has one; lib/addon/native.ts can reach it, users of the package cannot.
#pragma once

#include <napi.h>

#include <memory>
#include <vector>

namespace vfio::binding {

// A call that can wait.
class Schedulable : public Napi::AsyncWorker {
 public:
  struct Naming {
    const char* syscall;
    const char* request;
  };
  [[nodiscard]] const Naming& naming() const { return naming_; }
  [[nodiscard]] bool done() const { return done_; }

 protected:
  Schedulable(Napi::Env env, Naming naming) : AsyncWorker(env), naming_(naming) {}
  virtual void call() = 0;

 private:
  // Once only: a call that was made by the test may still go through the pool, so that its promise is
  // settled.
  void Execute() final {
    if (done_) return;
    done_ = true;
    call();
  }
  Naming naming_;
  bool done_ = false;
};

class Schedule {
 public:
  // { hold, waiting, run, deliver, release }
  static Napi::Object make(Napi::Env env);
  // Takes the call, which owns itself while it is in the pool's queue.
  void start(std::unique_ptr<Schedulable> call);

 private:
  Schedulable& at(const Napi::CallbackInfo& info);
  static Napi::Value hold(const Napi::CallbackInfo& info);
  static Napi::Value waiting(const Napi::CallbackInfo& info);
  static Napi::Value run(const Napi::CallbackInfo& info);
  static Napi::Value deliver(const Napi::CallbackInfo& info);
  static Napi::Value release(const Napi::CallbackInfo& info);

  bool holding_ = false;
  std::vector<std::unique_ptr<Schedulable>> waiting_;
};

}  // namespace vfio::binding
