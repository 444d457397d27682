// An eventfd that JavaScript can wait on: see poll.h. Polling begins with the first wait and ends with the
// object.
#pragma once

#include <napi.h>

namespace vfio::binding {

class Poll;

class EventFd final : public Napi::ObjectWrap<EventFd> {
 public:
  static Napi::Function define(Napi::Env env);
  // new EventFd(file, onReadable: (count) => void): made by the host of the file
  explicit EventFd(const Napi::CallbackInfo& info);
  ~EventFd() override;

 private:
  Napi::Value fd(const Napi::CallbackInfo& info);
  Napi::Value take(const Napi::CallbackInfo& info);   // the count since the last call: bigint, 0n if none
  Napi::Value watch(const Napi::CallbackInfo& info);  // (keepAlive: boolean): calls onReadable when it fires
  Napi::Value rest(const Napi::CallbackInfo& info);   // nobody waits now
  Napi::Value dispose(const Napi::CallbackInfo& info);
  void close();

  int fd_ = -1;
  Poll* poll_ = nullptr;
};

}  // namespace vfio::binding
