// An open file of a host, and the kernel calls on it: one method per call, all of one shape. The file's
// methods are spread over file.cc (what every file has), iommufd.cc, vfio_device.cc and vfio_region.cc.
//
// The descriptor is closed when the object is disposed or collected, but never while a call is running on it.
#pragma once

#include <napi.h>

#include <memory>

#include "../backend.h"
#include "arguments.h"
#include "environment.h"

namespace vfio::binding {

class OpenFile {
 public:
  OpenFile(std::shared_ptr<Backend> backend, int fd) : backend(std::move(backend)), fd(fd) {}
  ~OpenFile() { backend->close(fd); }
  OpenFile(const OpenFile&) = delete;
  OpenFile& operator=(const OpenFile&) = delete;
  const std::shared_ptr<Backend> backend;
  const int fd;
};

class File final : public Napi::ObjectWrap<File> {
 public:
  static Napi::Function define(Napi::Env env);
  explicit File(const Napi::CallbackInfo& info);
  ~File() override { slot_->file.reset(); }
  static Napi::Object make(Napi::Env env, std::shared_ptr<Backend> backend, int fd);
  static File* from(const Napi::Value& value);
  [[nodiscard]] const std::shared_ptr<OpenFile>& open() const { return slot_->file; }

  // What the object and its bound functions share, so that disposing ends both.
  struct Slot {
    std::shared_ptr<OpenFile> file;
  };

 private:
  Napi::Value fd(const Napi::CallbackInfo& info);
  Napi::Value dispose(const Napi::CallbackInfo& info);
  Napi::Value release(const Napi::CallbackInfo& info);

  // iommufd.cc
  Napi::Value destroy(const Napi::CallbackInfo& info);
  Napi::Value ioasAlloc(const Napi::CallbackInfo& info);
  Napi::Value ioasIovaRanges(const Napi::CallbackInfo& info);
  Napi::Value ioasAllowIovas(const Napi::CallbackInfo& info);
  Napi::Value ioasCalls(const Napi::CallbackInfo& info);
  Napi::Value ioasMapAsync(const Napi::CallbackInfo& info);
  Napi::Value ioasCopy(const Napi::CallbackInfo& info);
  Napi::Value getOption(const Napi::CallbackInfo& info);
  Napi::Value setOption(const Napi::CallbackInfo& info);

  // vfio_device.cc
  Napi::Value bindIommufd(const Napi::CallbackInfo& info);
  Napi::Value attach(const Napi::CallbackInfo& info);
  Napi::Value detach(const Napi::CallbackInfo& info);
  Napi::Value deviceInfo(const Napi::CallbackInfo& info);
  Napi::Value irqInfo(const Napi::CallbackInfo& info);
  Napi::Value setIrqs(const Napi::CallbackInfo& info);
  Napi::Value setIrqEventfds(const Napi::CallbackInfo& info);
  Napi::Value reset(const Napi::CallbackInfo& info);

  // vfio_region.cc
  Napi::Value regionInfo(const Napi::CallbackInfo& info);
  Napi::Value regionRead(const Napi::CallbackInfo& info);
  Napi::Value regionWrite(const Napi::CallbackInfo& info);
  Napi::Value readInto(const Napi::CallbackInfo& info);
  Napi::Value writeFrom(const Napi::CallbackInfo& info);
  Napi::Value mmap(const Napi::CallbackInfo& info);

  // The file, or ERR_VFIO_DISPOSED.
  [[nodiscard]] OpenFile& live(Napi::Env env) const {
    if (!slot_->file) throwDisposed(env, "handle");
    return *slot_->file;
  }

  // One ioctl: its result, or a VfioError.
  int ioctl(Napi::Env env, unsigned long request, const char* name, void* argument) const {
    OpenFile& file = live(env);
    const int result = file.backend->ioctl(file.fd, request, reinterpret_cast<uintptr_t>(argument));
    if (result < 0) throwErrno(env, result, "ioctl", name);
    return result;
  }

  const std::shared_ptr<Slot> slot_ = std::make_shared<Slot>();
};

}  // namespace vfio::binding
