// The JavaScript handle of a host (the kernel or one software host), with the calls that need no open file.
#pragma once

#include <napi.h>

#include <memory>

#include "../backend.h"
#include "../controls.h"

namespace vfio::binding {

class HostHandle final : public Napi::ObjectWrap<HostHandle> {
 public:
  static Napi::Function define(Napi::Env env);
  // new Host('kernel' | 'software', kernel?, topology?, deterministic?, seed?); new Host(): a disposed one,
  // for share()
  explicit HostHandle(const Napi::CallbackInfo& info);

  // (fd, kind) => File: a duplicate of a descriptor of that kind, on the host it belongs to
  static Napi::Value adopt(const Napi::CallbackInfo& info);

 private:
  // Runs a call and keeps the host until it has returned: a device model in JavaScript, which the call may
  // reach, can dispose this handle.
  template <Napi::Value (HostHandle::*Run)(const Napi::CallbackInfo&)>
  Napi::Value held(const Napi::CallbackInfo& info) {
    const std::shared_ptr<Backend> host = backend_;
    return (this->*Run)(info);
  }

  Napi::Value open(const Napi::CallbackInfo& info);
  Napi::Value adoptOwn(const Napi::CallbackInfo& info);  // the same, but only for this host's descriptors
  Napi::Value release(const Napi::CallbackInfo& info);
  Napi::Value readText(const Napi::CallbackInfo& info);
  Napi::Value readTextWithin(const Napi::CallbackInfo& info);
  Napi::Value writeText(const Napi::CallbackInfo& info);
  Napi::Value write(const Napi::CallbackInfo& info);
  Napi::Value turn(const Napi::CallbackInfo& info);
  Napi::Value share(const Napi::CallbackInfo& info);
  Napi::Value has(const Napi::CallbackInfo& info);
  Napi::Value readlink(const Napi::CallbackInfo& info);
  Napi::Value list(const Napi::CallbackInfo& info);
  Napi::Value dmaOwner(const Napi::CallbackInfo& info);
  Napi::Value addDevice(const Napi::CallbackInfo& info);
  Napi::Value plugSimulated(const Napi::CallbackInfo& info);
  Napi::Value removeDevice(const Napi::CallbackInfo& info);
  Napi::Value life(const Napi::CallbackInfo& info);
  Napi::Value bindDriver(const Napi::CallbackInfo& info);
  Napi::Value ownership(const Napi::CallbackInfo& info);
  Napi::Value own(const Napi::CallbackInfo& info);
  Napi::Value user(const Napi::CallbackInfo& info);
  Napi::Value become(const Napi::CallbackInfo& info);
  Napi::Value openers(const Napi::CallbackInfo& info);
  Napi::Value descriptors(const Napi::CallbackInfo& info);
  Napi::Value claimed(const Napi::CallbackInfo& info);
  Napi::Value takeFaults(const Napi::CallbackInfo& info);
  Napi::Value watch(const Napi::CallbackInfo& info);
  Napi::Value takeIncidents(const Napi::CallbackInfo& info);
  Napi::Value forbidDma(const Napi::CallbackInfo& info);
  Napi::Value settle(const Napi::CallbackInfo& info);
  Napi::Value modelWork(const Napi::CallbackInfo& info);
  Napi::Value step(const Napi::CallbackInfo& info);
  Napi::Value advance(const Napi::CallbackInfo& info);
  Napi::Value takeTrace(const Napi::CallbackInfo& info);
  Napi::Value injectCallFault(const Napi::CallbackInfo& info);
  Napi::Value injectDeviceFault(const Napi::CallbackInfo& info);
  Napi::Value dispose(const Napi::CallbackInfo& info);
  [[nodiscard]] Backend& live(Napi::Env env) const;
  // Null: the kernel has none, or this handle was disposed.
  [[nodiscard]] Controls* controls() const { return backend_ ? backend_->controls() : nullptr; }

  std::shared_ptr<Backend> backend_;
};

}  // namespace vfio::binding
