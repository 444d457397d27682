// An eventfd that JavaScript can wait on. The wait is the event loop's own polling: no thread, no timer.
// Polling begins with the first wait and ends with the object; it keeps the loop alive, and the object, only
// while someone waits.
#pragma once

#include <napi.h>
#include <uv.h>

namespace vfio::binding {

class EventFd final : public Napi::ObjectWrap<EventFd> {
 public:
  static Napi::Function define(Napi::Env env);
  explicit EventFd(const Napi::CallbackInfo& info);  // new EventFd(onReadable: (count) => void)
  ~EventFd() override;

 private:
  struct Watch;  // outlives this object by the turn of the loop that closing takes

  Napi::Value fd(const Napi::CallbackInfo& info);
  Napi::Value take(const Napi::CallbackInfo& info);   // the count since last asked: bigint, 0n if none
  Napi::Value watch(const Napi::CallbackInfo& info);  // (keepAlive: boolean): calls onReadable when it fires
  Napi::Value rest(const Napi::CallbackInfo& info);   // nobody waits now
  Napi::Value dispose(const Napi::CallbackInfo& info);
  void close();
  void hold(Napi::Env env, bool on);

  int fd_ = -1;
  bool held_ = false;
  Watch* watch_ = nullptr;
};

}  // namespace vfio::binding
