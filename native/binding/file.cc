#include "file.h"

namespace vfio::binding {
namespace {

constexpr napi_type_tag kTag{0x76f1'0a11'3c5d'4b02, 0x1f7c'90d3'a2e4'5b77};

struct Kind {
  FileKind kind;
  const char* name;  // of its class in JavaScript
  std::vector<std::vector<File::Call> (*)()> families;
};

// Every kind of file, and the families of calls that it takes. An iommufd answers a container's requests too
// (CONFIG_IOMMUFD_VFIO_CONTAINER).
const Kind kKinds[] = {
    {FileKind::iommufd, "IommufdFile", {iommufdTable, hwptTable, viommuTable, containerTable}},
    {FileKind::container, "ContainerFile", {containerTable}},
    {FileKind::group, "GroupFile", {groupTable}},
    {FileKind::device, "DeviceFile", {deviceTable, regionTable, svaTable}},
    {FileKind::faultQueue, "FaultQueueFile", {faultQueueTable}},
    {FileKind::eventQueue, "EventQueueFile", {eventQueueTable}},
    {FileKind::bond, "BondFile", {bondTable}},
    {FileKind::other, "OtherFile", {}}};

}  // namespace

std::map<FileKind, Napi::FunctionReference> File::define(Napi::Env env) {
  std::map<FileKind, Napi::FunctionReference> classes;
  for (const Kind& kind : kKinds) {
    std::vector<Call> calls{InstanceAccessor<&File::fd>("fd"), InstanceMethod<&File::dispose>("dispose"),
                            InstanceMethod<&File::release>("release"),
                            InstanceMethod<&File::pinned>("pinned"), InstanceMethod<&File::same>("same")};
    for (const auto family : kind.families)
      for (const Call& call : family()) calls.push_back(call);
    classes[kind.kind] = Napi::Persistent(DefineClass(env, kind.name, calls));
  }
  return classes;
}

File::File(const Napi::CallbackInfo& info) : ObjectWrap(info) {
  napi_type_tag_object(info.Env(), info.This(), &kTag);
}

Napi::Object File::make(Napi::Env env, std::shared_ptr<Backend> backend, int fd, FileKind kind,
                        bool adopted) {
  std::shared_ptr<OpenFile> file;
  try {
    file = std::make_shared<OpenFile>(backend, fd, adopted);
  } catch (...) {
    backend->close(fd);
    throw;
  }
  Napi::Object object = Environment::of(env).files.at(kind).New({});
  File* const made = Unwrap(object);
  made->slot_->file = std::move(file);
  made->kind_ = kind;
  return object;
}

File* File::from(const Napi::Value& value) {
  bool ours = false;
  if (!value.IsObject() || napi_check_object_type_tag(value.Env(), value, &kTag, &ours) != napi_ok || !ours)
    return nullptr;
  return Unwrap(value.As<Napi::Object>());
}

Napi::Value File::fd(const Napi::CallbackInfo& info) {
  // Unlike a method, JavaScript can call an accessor on any object, so the class is checked here.
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

// () => the release of the kernel that the file belongs to
Napi::Value File::release(const Napi::CallbackInfo& info) {
  return Napi::String::New(info.Env(), live(info.Env()).backend->release());
}

// () => bytes of this process that are pinned for devices
Napi::Value File::pinned(const Napi::CallbackInfo& info) {
  return Napi::Number::New(info.Env(), static_cast<double>(live(info.Env()).backend->pinned()));
}

// (other: File) => do both refer to the same open file of the kernel?
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
