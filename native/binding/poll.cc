#include "poll.h"

#include "environment.h"

namespace vfio::binding {

Poll* Poll::start(Napi::Env env, int fd, std::shared_ptr<const void> keeper, Napi::Value function,
                  const char* name, Take take, std::function<void()> closed) {
  uv_loop_t* loop = nullptr;
  napi_get_uv_event_loop(env, &loop);
  std::unique_ptr<Poll> poll(new Poll);
  // All steps that can fail come before libuv gets the handle, because libuv returns the handle only in a
  // later turn of the loop.
  const Napi::String described = Napi::String::New(env, name);
  poll->env_ = env;
  poll->keeper_ = std::move(keeper);
  poll->take_ = std::move(take);
  poll->closed_ = std::move(closed);
  // The reference is weak while nobody waits: the JavaScript object that owns this Poll also owns the
  // function.
  napi_create_reference(env, function, 0, &poll->function_);
  napi_async_init(env, nullptr, described, &poll->context_);
  if (const int status = uv_poll_init(loop, &poll->poll_, fd); status < 0) {
    napi_delete_reference(env, poll->function_);
    napi_async_destroy(env, poll->context_);
    throwErrno(env, status, "epoll_ctl");
  }
  poll->poll_.data = poll.get();
  uv_unref(reinterpret_cast<uv_handle_t*>(&poll->poll_));
  napi_add_async_cleanup_hook(
      env,
      [](napi_async_cleanup_hook_handle, void* data) {
        auto* self = static_cast<Poll*>(data);
        // The hook makes Node wait for the turn of the loop that closing needs. Closing may already be
        // running.
        if (!self->closing_) self->closed_();
      },
      poll.get(), &poll->hook_);
  return poll.release();
}

void Poll::close() {
  closing_ = true;
  napi_delete_reference(env_, function_);
  napi_async_destroy(env_, context_);
  uv_close(reinterpret_cast<uv_handle_t*>(&poll_), [](uv_handle_t* handle) {
    auto* self = static_cast<Poll*>(handle->data);
    napi_remove_async_cleanup_hook(self->hook_);
    delete self;
  });
  // libuv no longer polls the descriptor, so the keeper can be released.
  keeper_.reset();
  take_ = nullptr;
}

void Poll::onReadable(uv_poll_t* poll, int, int) {
  auto* self = static_cast<Poll*>(poll->data);
  if (self->closing_) return;
  const Napi::Env env(self->env_);
  const Napi::HandleScope scope(env);
  napi_value function = nullptr;
  napi_get_reference_value(self->env_, self->function_, &function);
  if (!function) {
    self->pause();  // the JavaScript object was collected
    return;
  }
  const std::optional<napi_value> argument = self->take_(self->env_);
  if (!argument) return;
  napi_value receiver = nullptr;
  napi_value ignored = nullptr;
  napi_get_global(self->env_, &receiver);
  if (napi_make_callback(self->env_, self->context_, receiver, function, 1, &*argument, &ignored) ==
      napi_pending_exception) {
    napi_value error = nullptr;
    napi_get_and_clear_last_exception(env, &error);
    napi_fatal_exception(env, error);  // 'uncaughtException', as for any callback
  }
}

void Poll::watch(Napi::Env env, bool keepAlive) {
  auto* handle = reinterpret_cast<uv_handle_t*>(&poll_);
  keepAlive ? uv_ref(handle) : uv_unref(handle);
  if (!uv_is_active(handle))
    if (const int status = uv_poll_start(&poll_, UV_READABLE, onReadable); status < 0)
      throwErrno(env, status, "epoll_ctl");
  hold(true);
}

void Poll::rest() {
  uv_unref(reinterpret_cast<uv_handle_t*>(&poll_));
  hold(false);
}

// While somebody waits, the function must not be collected; otherwise it may be.
void Poll::hold(bool on) {
  if (held_ == on) return;
  held_ = on;
  on ? napi_reference_ref(env_, function_, nullptr) : napi_reference_unref(env_, function_, nullptr);
}

}  // namespace vfio::binding
