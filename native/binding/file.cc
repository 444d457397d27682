#include "file.h"

namespace vfio::binding {
namespace {

constexpr napi_type_tag kTag{0x76f1'0a11'3c5d'4b02, 0x1f7c'90d3'a2e4'5b77};

}  // namespace

Napi::Function File::define(Napi::Env env) {
  return DefineClass(env, "File",
                     {InstanceAccessor<&File::fd>("fd"),
                      InstanceMethod<&File::dispose>("dispose"),
                      InstanceMethod<&File::release>("release"),
                      InstanceMethod<&File::pinned>("pinned"),
                      InstanceMethod<&File::same>("same"),
                      InstanceMethod<&File::destroy>("destroy"),
                      InstanceMethod<&File::ioasAlloc>("ioasAlloc"),
                      InstanceMethod<&File::ioasOf>("ioasOf"),
                      InstanceMethod<&File::ioasIovaRanges>("ioasIovaRanges"),
                      InstanceMethod<&File::ioasAllowIovas>("ioasAllowIovas"),
                      InstanceMethod<&File::getOption>("getOption"),
                      InstanceMethod<&File::setOption>("setOption"),
                      InstanceMethod<&File::ioasPhysicalAddress>("ioasPhysicalAddress"),
                      InstanceMethod<&File::changeProcess>("changeProcess"),
                      InstanceMethod<&File::getVfioIoas>("getVfioIoas"),
                      InstanceMethod<&File::setVfioIoas>("setVfioIoas"),
                      InstanceMethod<&File::clearVfioIoas>("clearVfioIoas"),
                      InstanceMethod<&File::supports>("supports"),
                      InstanceMethod<&File::hwptAlloc>("hwptAlloc"),
                      InstanceMethod<&File::hwptSetDirtyTracking>("hwptSetDirtyTracking"),
                      InstanceMethod<&File::hwptDirtyBitmap>("hwptDirtyBitmap"),
                      InstanceMethod<&File::hwptInvalidate>("hwptInvalidate"),
                      InstanceMethod<&File::hwInfo>("hwInfo"),
                      InstanceMethod<&File::faultQueueAlloc>("faultQueueAlloc"),
                      InstanceMethod<&File::readFaults>("readFaults"),
                      InstanceMethod<&File::respondFault>("respondFault"),
                      InstanceMethod<&File::viommuAlloc>("viommuAlloc"),
                      InstanceMethod<&File::vdeviceAlloc>("vdeviceAlloc"),
                      InstanceMethod<&File::veventqAlloc>("veventqAlloc"),
                      InstanceMethod<&File::readEvents>("readEvents"),
                      InstanceMethod<&File::hwQueueAlloc>("hwQueueAlloc"),
                      InstanceMethod<&File::groupStatus>("groupStatus"),
                      InstanceMethod<&File::groupSetContainer>("groupSetContainer"),
                      InstanceMethod<&File::groupUnsetContainer>("groupUnsetContainer"),
                      InstanceMethod<&File::groupDevice>("groupDevice"),
                      InstanceMethod<&File::containerCalls>("containerCalls"),
                      InstanceMethod<&File::containerApiVersion>("containerApiVersion"),
                      InstanceMethod<&File::containerCheckExtension>("containerCheckExtension"),
                      InstanceMethod<&File::containerSetIommu>("containerSetIommu"),
                      InstanceMethod<&File::containerInfo>("containerInfo"),
                      InstanceMethod<&File::containerSpace>("containerSpace"),
                      InstanceMethod<&File::containerLost>("containerLost"),
                      InstanceMethod<&File::containerMapAsync>("containerMapAsync"),
                      InstanceMethod<&File::containerDirtyTracking>("containerDirtyTracking"),
                      InstanceMethod<&File::containerDirtyBitmap>("containerDirtyBitmap"),
                      InstanceMethod<&File::containerUnmapDirty>("containerUnmapDirty"),
                      InstanceMethod<&File::containerInvalidateVaddr>("containerInvalidateVaddr"),
                      InstanceMethod<&File::containerUpdateVaddr>("containerUpdateVaddr"),
                      InstanceMethod<&File::bindIommufd>("bindIommufd"),
                      InstanceMethod<&File::setVfToken>("setVfToken"),
                      InstanceMethod<&File::attach>("attach"),
                      InstanceMethod<&File::detach>("detach"),
                      InstanceMethod<&File::deviceInfo>("deviceInfo"),
                      InstanceMethod<&File::irqInfo>("irqInfo"),
                      InstanceMethod<&File::setIrqs>("setIrqs"),
                      InstanceMethod<&File::setIrqEventfds>("setIrqEventfds"),
                      InstanceMethod<&File::reset>("reset"),
                      InstanceMethod<&File::hotResetInfo>("hotResetInfo"),
                      InstanceMethod<&File::hotReset>("hotReset"),
                      InstanceMethod<&File::regionInfo>("regionInfo"),
                      InstanceMethod<&File::regionRead>("regionRead"),
                      InstanceMethod<&File::regionWrite>("regionWrite"),
                      InstanceMethod<&File::readInto>("readInto"),
                      InstanceMethod<&File::writeFrom>("writeFrom"),
                      InstanceMethod<&File::mmap>("mmap")});
}

File::File(const Napi::CallbackInfo& info) : ObjectWrap(info) {
  napi_type_tag_object(info.Env(), info.This(), &kTag);
}

Napi::Object File::make(Napi::Env env, std::shared_ptr<Backend> backend, int fd, bool adopted) {
  std::shared_ptr<OpenFile> file;
  try {
    file = std::make_shared<OpenFile>(backend, fd, adopted);
  } catch (...) {
    backend->close(fd);
    throw;
  }
  Napi::Object object = Environment::of(env).file.New({});
  Unwrap(object)->slot_->file = std::move(file);
  return object;
}

File* File::from(const Napi::Value& value) {
  bool ours = false;
  if (!value.IsObject() || napi_check_object_type_tag(value.Env(), value, &kTag, &ours) != napi_ok || !ours)
    return nullptr;
  return Unwrap(value.As<Napi::Object>());
}

Napi::Value File::fd(const Napi::CallbackInfo& info) {
  // Unlike a method, an accessor is called on whatever object someone borrows it for.
  if (from(info.This()) != this) refuse(info.Env(), "a File", "this", info.This());
  const int told = live(info.Env()).tell();
  if (told < 0) throwErrno(info.Env(), told, "fcntl");
  return Napi::Number::New(info.Env(), told);
}

Napi::Value File::dispose(const Napi::CallbackInfo& info) {
  slot_->disposed = true;
  slot_->file.reset();
  return info.Env().Undefined();
}

// () => the release of the kernel that it is a file of
Napi::Value File::release(const Napi::CallbackInfo& info) {
  return Napi::String::New(info.Env(), live(info.Env()).backend->release());
}

// () => bytes of this process that are pinned for devices
Napi::Value File::pinned(const Napi::CallbackInfo& info) {
  return Napi::Number::New(info.Env(), static_cast<double>(live(info.Env()).backend->pinned()));
}

// (other: File) => do both lead to the same open file of the kernel's?
Napi::Value File::same(const Napi::CallbackInfo& info) {
  const File* other = from(info[0]);
  if (!other) refuse(info.Env(), "a File", "other", info[0]);
  return Napi::Boolean::New(info.Env(), live(info.Env()).kernel == other->live(info.Env()).kernel);
}

std::shared_ptr<ledger::ObjectHandle> File::allocate(Napi::Env env, unsigned long request, const char* name,
                                                     void* command, const uint32_t& id) const {
  OpenFile& file = live(env);
  std::shared_ptr<ledger::Object> made;
  const int result = file.kernel->make(false, made, [&](uint32_t& out) {
    const int asked = file.ioctl(request, command);
    out = id;
    return asked;
  });
  if (result < 0) throwErrno(env, result, "ioctl", name);
  try {
    return std::make_shared<ledger::ObjectHandle>(open(), made);
  } catch (...) {
    (void)file.kernel->destroy(file, *made);
    throw;
  }
}

}  // namespace vfio::binding
