// The JavaScript handle that owns an object of an iommufd, other than an address space:
// native/ledger/object_handle.h.
#pragma once

#include <napi.h>

#include <memory>

#include "../ledger/object_handle.h"

namespace vfio::binding {

class KernelObject final : public Napi::ObjectWrap<KernelObject> {
 public:
  static Napi::Function define(Napi::Env env);
  explicit KernelObject(const Napi::CallbackInfo& info) : ObjectWrap(info) {}
  static Napi::Object make(Napi::Env env, std::shared_ptr<ledger::ObjectHandle> handle);

 private:
  Napi::Value id(const Napi::CallbackInfo& info);
  Napi::Value gone(const Napi::CallbackInfo& info);
  Napi::Value destroy(const Napi::CallbackInfo& info);
  Napi::Value dispose(const Napi::CallbackInfo& info);

  std::shared_ptr<ledger::ObjectHandle> handle_;
};

}  // namespace vfio::binding
