#include "event_fd.h"

#include <sys/eventfd.h>
#include <unistd.h>

#include <cerrno>

#include "arguments.h"
#include "bound.h"
#include "environment.h"

namespace vfio::binding {

// The libuv handle and what it calls. Closing a handle ends in a later turn of the loop, also when the
// environment goes (a worker that stops): the asynchronous clean-up hook makes Node wait for that turn.
struct EventFd::Watch {
  uv_poll_t poll;
  napi_env env;
  napi_ref callback;
  napi_async_context context;
  napi_async_cleanup_hook_handle hook;
  EventFd* owner;
  bool closing = false;
  int fd;

  void close() {
    closing = true;
    uv_close(reinterpret_cast<uv_handle_t*>(&poll), [](uv_handle_t* handle) {
      auto* self = static_cast<Watch*>(handle->data);
      ::close(self->fd);
      napi_remove_async_cleanup_hook(self->hook);
      delete self;
    });
  }

  static void onReadable(uv_poll_t* poll, int status, int) {
    auto* self = static_cast<Watch*>(poll->data);
    uint64_t count = 0;
    if (self->closing || status < 0 || ::read(self->fd, &count, sizeof count) < 0) return;
    const Napi::Env env(self->env);
    const Napi::HandleScope scope(env);
    napi_value callback = nullptr;
    napi_value receiver = nullptr;
    napi_value ignored = nullptr;
    napi_get_reference_value(self->env, self->callback, &callback);
    if (!callback) {
      uv_poll_stop(poll);  // its object was collected
      return;
    }
    napi_get_global(self->env, &receiver);
    const napi_value argument = u64To(env, count);
    if (napi_make_callback(self->env, self->context, receiver, callback, 1, &argument, &ignored) ==
        napi_pending_exception) {
      napi_value error = nullptr;
      napi_get_and_clear_last_exception(self->env, &error);
      napi_fatal_exception(self->env, error);  // 'uncaughtException', as for any callback
    }
  }
};

Napi::Function EventFd::define(Napi::Env env) {
  return DefineClass(env, "EventFd",
                     {InstanceAccessor<&EventFd::fd>("fd"), InstanceMethod<&EventFd::take>("take"),
                      InstanceMethod<&EventFd::watch>("watch"), InstanceMethod<&EventFd::rest>("rest"),
                      InstanceMethod<&EventFd::dispose>("dispose")});
}

EventFd::EventFd(const Napi::CallbackInfo& info) : ObjectWrap(info) {
  const Napi::Env env = info.Env();
  if (!info[0].IsFunction()) refuse(env, "a function", "onReadable", info[0]);
  const int fd = ::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
  if (fd < 0) throwErrno(env, errno, "eventfd");
  uv_loop_t* loop = nullptr;
  napi_get_uv_event_loop(env, &loop);
  auto* watch = new Watch{};
  watch->env = env;
  watch->fd = fd;
  watch->owner = this;
  if (const int status = uv_poll_init(loop, &watch->poll, fd); status < 0) {
    delete watch;
    ::close(fd);
    throwErrno(env, status, "epoll_ctl");
  }
  watch->poll.data = watch;
  uv_unref(reinterpret_cast<uv_handle_t*>(&watch->poll));
  // Weak while nobody waits: the callback belongs to the JavaScript object that owns this one.
  napi_create_reference(env, info[0], 0, &watch->callback);
  napi_async_init(env, nullptr, Napi::String::New(env, "vfio.Interrupt"), &watch->context);
  napi_add_async_cleanup_hook(
      env,
      [](napi_async_cleanup_hook_handle, void* data) {
        if (EventFd* owner = static_cast<Watch*>(data)->owner) owner->close();
      },
      watch, &watch->hook);
  fd_ = fd;
  watch_ = watch;
}

EventFd::~EventFd() { close(); }

void EventFd::close() {
  if (!watch_) return;
  Watch* watch = watch_;
  watch_ = nullptr;
  fd_ = -1;
  watch->owner = nullptr;
  napi_delete_reference(watch->env, watch->callback);
  napi_async_destroy(watch->env, watch->context);
  watch->close();
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
  if (fd_ < 0) throwDisposed(info.Env(), "Interrupt");
  auto* handle = reinterpret_cast<uv_handle_t*>(&watch_->poll);
  keepAlive ? uv_ref(handle) : uv_unref(handle);
  if (!uv_is_active(handle))
    if (const int status = uv_poll_start(&watch_->poll, UV_READABLE, Watch::onReadable); status < 0)
      throwErrno(info.Env(), status, "epoll_ctl");
  hold(info.Env(), true);
  return info.Env().Undefined();
}

// Polling goes on: starting and stopping it would cost each wait two system calls.
Napi::Value EventFd::rest(const Napi::CallbackInfo& info) {
  if (!watch_) return info.Env().Undefined();
  uv_unref(reinterpret_cast<uv_handle_t*>(&watch_->poll));
  hold(info.Env(), false);
  return info.Env().Undefined();
}

// Who waits must not be collected; who doesn't, may be.
void EventFd::hold(Napi::Env env, bool on) {
  if (held_ == on) return;
  held_ = on;
  on ? napi_reference_ref(env, watch_->callback, nullptr)
     : napi_reference_unref(env, watch_->callback, nullptr);
}

Napi::Value EventFd::dispose(const Napi::CallbackInfo& info) {
  close();
  return info.Env().Undefined();
}

}  // namespace vfio::binding
