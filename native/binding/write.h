// A running write to a sysfs file, which may wait for others for ever: see native/kernel/late_call.h. No
// thread waits for it: the event loop polls for its end. If the object or its environment ends first, the
// write continues and nobody receives its result.
#pragma once

#include <napi.h>

#include <memory>

#include "../kernel/late_call.h"

namespace vfio::binding {

class Poll;

class Write final : public Napi::ObjectWrap<Write> {
 public:
  static Napi::Function define(Napi::Env env);
  explicit Write(const Napi::CallbackInfo& info) : ObjectWrap(info) {}
  ~Write() override;
  // Calls onOver(bytes or -errno) once, when `write` has ended. Start `write` after this call.
  static Napi::Object make(Napi::Env env, std::shared_ptr<LateCall> write, Napi::Value onOver);
  // For a write that could not be started.
  static void abandon(const Napi::Object& object) { Unwrap(object)->close(); }

 private:
  Napi::Value dispose(const Napi::CallbackInfo& info);
  void close();

  std::shared_ptr<LateCall> write_;
  Poll* poll_ = nullptr;
};

}  // namespace vfio::binding
