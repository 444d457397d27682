#include "event_fd.h"

#include <unistd.h>

#include <cerrno>
#include <utility>

#include "arguments.h"
#include "bound.h"
#include "environment.h"
#include "file.h"
#include "poll.h"

namespace vfio::binding {

Napi::Function EventFd::define(Napi::Env env) {
  return DefineClass(env, "EventFd",
                     {InstanceAccessor<&EventFd::fd>("fd"), InstanceMethod<&EventFd::take>("take"),
                      InstanceMethod<&EventFd::watch>("watch"), InstanceMethod<&EventFd::rest>("rest"),
                      InstanceMethod<&EventFd::dispose>("dispose")});
}

EventFd::EventFd(const Napi::CallbackInfo& info) : ObjectWrap(info) {
  const Napi::Env env = info.Env();
  const File* const file = File::from(info[0]);
  if (!file) refuse(env, "a File", "file", info[0]);
  if (!info[1].IsFunction()) refuse(env, "a function", "onReadable", info[1]);
  const int fd = file->live(env).backend->eventfd();
  if (fd < 0) throwErrno(env, fd, "eventfd");
  const std::shared_ptr<const void> keeper(nullptr, [fd](const void*) { ::close(fd); });
  poll_ = Poll::start(
      env, fd, keeper, info[1], "vfio.Interrupt",
      [fd](napi_env raw) -> std::optional<napi_value> {
        uint64_t count = 0;
        if (::read(fd, &count, sizeof count) < 0) return std::nullopt;
        return u64To(raw, count);
      },
      [this] { close(); });
  fd_ = fd;
}

EventFd::~EventFd() { close(); }

void EventFd::close() {
  fd_ = -1;
  if (Poll* const poll = std::exchange(poll_, nullptr)) poll->close();
}

Napi::Value EventFd::fd(const Napi::CallbackInfo& info) {
  if (fd_ < 0) throwDisposed(info.Env(), "Interrupt");
  return Napi::Number::New(info.Env(), fd_);
}

Napi::Value EventFd::take(const Napi::CallbackInfo& info) {
  if (fd_ < 0) throwDisposed(info.Env(), "Interrupt");
  uint64_t count = 0;
  if (::read(fd_, &count, sizeof count) < 0) {
    if (errno != EAGAIN) throwErrno(info.Env(), errno, "read");
    count = 0;
  }
  return Napi::BigInt::New(info.Env(), count);
}

Napi::Value EventFd::watch(const Napi::CallbackInfo& info) {
  const bool keepAlive = Arguments(info).boolean(0, "keepAlive");
  if (!poll_) throwDisposed(info.Env(), "Interrupt");
  poll_->watch(info.Env(), keepAlive);
  return info.Env().Undefined();
}

Napi::Value EventFd::rest(const Napi::CallbackInfo& info) {
  if (poll_) poll_->rest();
  return info.Env().Undefined();
}

Napi::Value EventFd::dispose(const Napi::CallbackInfo& info) {
  close();
  return info.Env().Undefined();
}

}  // namespace vfio::binding
