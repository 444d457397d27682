// A fault that a program has injected, as JavaScript holds it: what it has struck, and its end.
#pragma once

#include <napi.h>

#include <functional>
#include <memory>

#include "../controls.h"

namespace vfio::binding {

class InjectedFault final : public Napi::ObjectWrap<InjectedFault> {
 public:
  static Napi::Function define(Napi::Env env);
  explicit InjectedFault(const Napi::CallbackInfo& info);
  ~InjectedFault() override;

  // `inject` is called once, and returns what the fault ends with. `onStrike`: a function, which is called in
  // the middle of each struck call that this thread makes; undefined: none. It makes no call of the host.
  static Napi::Object make(Napi::Env env, const Napi::Value& onStrike,
                           const std::function<std::shared_ptr<void>(Struck)>& inject);

 private:
  class Log;
  Napi::Value struck(const Napi::CallbackInfo& info);  // () => { what, here }[]
  Napi::Value dispose(const Napi::CallbackInfo& info);
  void end();

  std::shared_ptr<Log> log_;
  std::shared_ptr<void> fault_;
};

// The kind of a device fault by the name that lib/addon/native.ts has for it.
[[nodiscard]] DeviceFault::Kind deviceFaultKind(Napi::Env env, const std::string& name,
                                                const Napi::Value& given);

}  // namespace vfio::binding
