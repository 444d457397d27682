#include "file.h"

namespace vfio::binding {
namespace {

constexpr napi_type_tag kTag{0x76f1'0a11'3c5d'4b02, 0x1f7c'90d3'a2e4'5b77};

struct Table {
  FileKind kind;
  std::vector<File::Call> (*calls)();
};

// The calls that a file of each kind accepts. An iommufd also accepts a container's requests
// (CONFIG_IOMMUFD_VFIO_CONTAINER).
constexpr Table kTables[] = {
    {FileKind::iommufd, iommufdTable},       {FileKind::iommufd, hwptTable},
    {FileKind::iommufd, viommuTable},        {FileKind::iommufd, containerTable},
    {FileKind::container, containerTable},   {FileKind::group, groupTable},
    {FileKind::device, deviceTable},         {FileKind::device, regionTable},
    {FileKind::faultQueue, faultQueueTable}, {FileKind::eventQueue, eventQueueTable}};

const char* nameOf(FileKind kind) {
  switch (kind) {
    case FileKind::iommufd:
      return "IommufdFile";
    case FileKind::container:
      return "ContainerFile";
    case FileKind::group:
      return "GroupFile";
    case FileKind::device:
      return "DeviceFile";
    case FileKind::faultQueue:
      return "FaultQueueFile";
    case FileKind::eventQueue:
      return "EventQueueFile";
    case FileKind::unknown:
    case FileKind::other:
      break;
  }
  return "File";
}

}  // namespace

Napi::Function File::define(Napi::Env env, FileKind kind) {
  std::vector<Call> calls{InstanceAccessor<&File::fd>("fd"), InstanceMethod<&File::dispose>("dispose"),
                          InstanceMethod<&File::release>("release"), InstanceMethod<&File::pinned>("pinned"),
                          InstanceMethod<&File::same>("same")};
  for (const Table& table : kTables)
    if (table.kind == kind)
      for (const Call& call : table.calls()) calls.push_back(call);
  return DefineClass(env, nameOf(kind), calls);
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
