#include "kernel_object.h"

#include <cerrno>
#include <utility>

#include "environment.h"
#include "values.h"

namespace vfio::binding {

Napi::Function KernelObject::define(Napi::Env env) {
  return DefineClass(
      env, "KernelObject",
      {InstanceMethod<&KernelObject::id>("id"), InstanceMethod<&KernelObject::gone>("gone"),
       InstanceMethod<&KernelObject::destroy>("destroy"), InstanceMethod<&KernelObject::dispose>("dispose")});
}

Napi::Object KernelObject::make(Napi::Env env, std::shared_ptr<ledger::ObjectHandle> handle) {
  Napi::Object object = Environment::of(env).object.New({});
  Unwrap(object)->handle_ = std::move(handle);
  return object;
}

// () => its id in the iommufd
Napi::Value KernelObject::id(const Napi::CallbackInfo& info) {
  if (!handle_) throwDisposed(info.Env(), "handle");
  return number(info.Env(), handle_->id());
}

// () => whether the kernel has destroyed it
Napi::Value KernelObject::gone(const Napi::CallbackInfo& info) {
  return Napi::Boolean::New(info.Env(), !handle_ || handle_->gone());
}

// Destroys it. If it is already destroyed, does nothing.
Napi::Value KernelObject::destroy(const Napi::CallbackInfo& info) {
  if (!handle_) return info.Env().Undefined();
  const int result = handle_->destroy();
  if (result < 0 && result != -ENOENT) throwErrno(info.Env(), result, "ioctl", "IOMMU_DESTROY");
  return info.Env().Undefined();
}

// The same, but ignores the result: the kernel destroys an object in use with the iommufd.
Napi::Value KernelObject::dispose(const Napi::CallbackInfo& info) {
  handle_.reset();
  return info.Env().Undefined();
}

}  // namespace vfio::binding
