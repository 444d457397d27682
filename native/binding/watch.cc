#include "watch.h"

#include <utility>

#include "arguments.h"
#include "environment.h"
#include "file.h"
#include "poll.h"

namespace vfio::binding {

Napi::Function Watch::define(Napi::Env env) {
  return DefineClass(env, "Watch",
                     {InstanceMethod<&Watch::watch>("watch"), InstanceMethod<&Watch::rest>("rest"),
                      InstanceMethod<&Watch::dispose>("dispose")});
}

Watch::Watch(const Napi::CallbackInfo& info) : ObjectWrap(info) {
  const Napi::Env env = info.Env();
  const File* file = File::from(info[0]);
  if (!file) refuse(env, "a File", "file", info[0]);
  if (!info[1].IsFunction()) refuse(env, "a function", "onReadable", info[1]);
  const std::shared_ptr<OpenFile> open = file->open();
  if (!open) throwDisposed(env, "file");
  // The polled descriptor number must be one that the program does not know.
  if (const int told = open->tell(); told < 0) throwErrno(env, told, "fcntl");
  poll_ = Poll::start(
      env, open->fd, open, info[1], "vfio.Queue",
      [this](napi_env raw) -> std::optional<napi_value> {
        poll_->pause();
        poll_->rest();
        return Napi::Env(raw).Undefined();
      },
      [this] { close(); });
}

Watch::~Watch() { close(); }

void Watch::close() {
  if (Poll* const poll = std::exchange(poll_, nullptr)) poll->close();
}

Napi::Value Watch::watch(const Napi::CallbackInfo& info) {
  if (!poll_) throwDisposed(info.Env(), "queue");
  poll_->watch(info.Env(), !info[0].ToBoolean().Value());
  return info.Env().Undefined();
}

Napi::Value Watch::rest(const Napi::CallbackInfo& info) {
  if (poll_) {
    poll_->pause();
    poll_->rest();
  }
  return info.Env().Undefined();
}

Napi::Value Watch::dispose(const Napi::CallbackInfo& info) {
  close();
  return info.Env().Undefined();
}

}  // namespace vfio::binding
