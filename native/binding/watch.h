// Waiting until a file can be read: of page faults, of virtual events. It is told once for each watch(),
// since a file that nobody reads stays readable.
#pragma once

#include <napi.h>

namespace vfio::binding {

class Poll;

class Watch final : public Napi::ObjectWrap<Watch> {
 public:
  static Napi::Function define(Napi::Env env);
  explicit Watch(const Napi::CallbackInfo& info);  // new Watch(file: File, onReadable: () => void)
  ~Watch() override;

 private:
  Napi::Value watch(const Napi::CallbackInfo& info);  // calls onReadable once, when it is readable
  Napi::Value rest(const Napi::CallbackInfo& info);   // nobody waits now
  Napi::Value dispose(const Napi::CallbackInfo& info);
  void close();

  Poll* poll_ = nullptr;
};

}  // namespace vfio::binding
