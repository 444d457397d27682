#include "write.h"

#include <utility>

#include "arguments.h"
#include "environment.h"
#include "poll.h"

namespace vfio::binding {

Napi::Function Write::define(Napi::Env env) {
  return DefineClass(env, "Write", {InstanceMethod<&Write::dispose>("dispose")});
}

Napi::Object Write::make(Napi::Env env, std::shared_ptr<LateCall> write, Napi::Value onOver) {
  if (!onOver.IsFunction()) refuse(env, "a function", "onOver", onOver);
  Napi::Object object = Environment::of(env).write.New({});
  Write* const self = Unwrap(object);
  self->write_ = std::move(write);
  self->poll_ = Poll::start(
      env, self->write_->fd(), self->write_, onOver, "vfio.Write",
      [write = self->write_](napi_env raw) -> std::optional<napi_value> {
        return Napi::Number::New(raw, static_cast<double>(write->result()));
      },
      [self] { self->close(); });
  // The code that waits for the write uses a timer, which keeps the loop alive.
  self->poll_->watch(env, false);
  return object;
}

Write::~Write() { close(); }

void Write::close() {
  if (Poll* const poll = std::exchange(poll_, nullptr)) poll->close();
  write_.reset();
}

Napi::Value Write::dispose(const Napi::CallbackInfo& info) {
  close();
  return info.Env().Undefined();
}

}  // namespace vfio::binding
