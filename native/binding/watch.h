// Waits until a file is readable: a file of page faults or of virtual events. It calls back once for each
// watch(), because a file stays readable until somebody reads it.
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
  // (idle?) Calls onReadable once, when it is readable. `idle`: the process may end before that.
  Napi::Value watch(const Napi::CallbackInfo& info);
  Napi::Value rest(const Napi::CallbackInfo& info);  // nobody waits now
  Napi::Value dispose(const Napi::CallbackInfo& info);
  void close();

  Poll* poll_ = nullptr;
};

}  // namespace vfio::binding
