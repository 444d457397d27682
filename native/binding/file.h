// An open file of a host, and the kernel calls on it: one method per call, all of one shape. The file's
// methods are spread over file.cc (what every file has) and a file for each family of calls.
//
// The descriptor is closed when the object is disposed or collected, but never while a call is running on it.
#pragma once

#include <napi.h>

#include <atomic>
#include <memory>

#include "../ledger/kernel_file.h"
#include "../ledger/object_handle.h"
#include "../ledger/open_file.h"
#include "arguments.h"
#include "environment.h"

namespace vfio::binding {

using ledger::OpenFile;

class File final : public Napi::ObjectWrap<File> {
 public:
  static Napi::Function define(Napi::Env env);
  explicit File(const Napi::CallbackInfo& info);
  ~File() override { slot_->file.reset(); }
  // Takes over `fd`. `adopted`: see OpenFile.
  static Napi::Object make(Napi::Env env, std::shared_ptr<Backend> backend, int fd, bool adopted = false);
  static File* from(const Napi::Value& value);
  [[nodiscard]] const std::shared_ptr<OpenFile>& open() const { return slot_->file; }

  // What the object and its bound functions share, so that disposing ends both.
  struct Slot {
    std::shared_ptr<OpenFile> file;
    std::atomic<bool> disposed = false;  // for calls on other threads, which keep the file

    // The file, or ERR_VFIO_DISPOSED.
    [[nodiscard]] OpenFile& live(Napi::Env env, const char* what = "handle") const {
      if (!file) throwDisposed(env, what);
      return *file;
    }
    // One ioctl: its result, or a VfioError.
    int ioctl(Napi::Env env, unsigned long request, const char* name, void* argument) const {
      OpenFile& open = live(env, "Iommufd");
      const int result = open.ioctl(request, argument);
      if (result < 0) throwErrno(env, result, "ioctl", name);
      return result;
    }
  };

 private:
  Napi::Value fd(const Napi::CallbackInfo& info);
  Napi::Value dispose(const Napi::CallbackInfo& info);
  Napi::Value release(const Napi::CallbackInfo& info);
  Napi::Value pinned(const Napi::CallbackInfo& info);

  Napi::Value same(const Napi::CallbackInfo& info);

  // iommufd.cc: any object, address spaces, options
  Napi::Value destroy(const Napi::CallbackInfo& info);
  Napi::Value ioasAlloc(const Napi::CallbackInfo& info);
  Napi::Value ioasOf(const Napi::CallbackInfo& info);
  Napi::Value ioasIovaRanges(const Napi::CallbackInfo& info);
  Napi::Value ioasAllowIovas(const Napi::CallbackInfo& info);
  Napi::Value ioasPhysicalAddress(const Napi::CallbackInfo& info);
  Napi::Value changeProcess(const Napi::CallbackInfo& info);
  Napi::Value getVfioIoas(const Napi::CallbackInfo& info);
  Napi::Value setVfioIoas(const Napi::CallbackInfo& info);
  Napi::Value clearVfioIoas(const Napi::CallbackInfo& info);
  Napi::Value supports(const Napi::CallbackInfo& info);
  Napi::Value getOption(const Napi::CallbackInfo& info);
  Napi::Value setOption(const Napi::CallbackInfo& info);

  // hwpt.cc: page tables, and what an IOMMU is
  Napi::Value hwptAlloc(const Napi::CallbackInfo& info);
  Napi::Value hwptSetDirtyTracking(const Napi::CallbackInfo& info);
  Napi::Value hwptDirtyBitmap(const Napi::CallbackInfo& info);
  Napi::Value hwptInvalidate(const Napi::CallbackInfo& info);
  Napi::Value hwInfo(const Napi::CallbackInfo& info);

  // viommu.cc: fault queues, virtual IOMMUs, and the records of their files
  Napi::Value faultQueueAlloc(const Napi::CallbackInfo& info);
  Napi::Value readFaults(const Napi::CallbackInfo& info);
  Napi::Value respondFault(const Napi::CallbackInfo& info);
  Napi::Value viommuAlloc(const Napi::CallbackInfo& info);
  Napi::Value vdeviceAlloc(const Napi::CallbackInfo& info);
  Napi::Value veventqAlloc(const Napi::CallbackInfo& info);
  Napi::Value readEvents(const Napi::CallbackInfo& info);
  Napi::Value hwQueueAlloc(const Napi::CallbackInfo& info);

  // group.cc
  Napi::Value groupStatus(const Napi::CallbackInfo& info);
  Napi::Value groupSetContainer(const Napi::CallbackInfo& info);
  Napi::Value groupUnsetContainer(const Napi::CallbackInfo& info);
  Napi::Value groupDevice(const Napi::CallbackInfo& info);

  // container.cc: the requests of a VFIO container
  Napi::Value containerCalls(const Napi::CallbackInfo& info);
  Napi::Value containerApiVersion(const Napi::CallbackInfo& info);
  Napi::Value containerCheckExtension(const Napi::CallbackInfo& info);
  Napi::Value containerSetIommu(const Napi::CallbackInfo& info);
  Napi::Value containerInfo(const Napi::CallbackInfo& info);
  Napi::Value containerSpace(const Napi::CallbackInfo& info);
  Napi::Value containerLost(const Napi::CallbackInfo& info);
  Napi::Value containerMapAsync(const Napi::CallbackInfo& info);
  Napi::Value containerDirtyTracking(const Napi::CallbackInfo& info);
  Napi::Value containerDirtyBitmap(const Napi::CallbackInfo& info);
  Napi::Value containerUnmapDirty(const Napi::CallbackInfo& info);
  Napi::Value containerInvalidateVaddr(const Napi::CallbackInfo& info);
  Napi::Value containerUpdateVaddr(const Napi::CallbackInfo& info);

  // vfio_device.cc
  Napi::Value bindIommufd(const Napi::CallbackInfo& info);
  Napi::Value setVfToken(const Napi::CallbackInfo& info);
  Napi::Value attach(const Napi::CallbackInfo& info);
  Napi::Value detach(const Napi::CallbackInfo& info);
  Napi::Value deviceInfo(const Napi::CallbackInfo& info);
  Napi::Value irqInfo(const Napi::CallbackInfo& info);
  Napi::Value setIrqs(const Napi::CallbackInfo& info);
  Napi::Value setIrqEventfds(const Napi::CallbackInfo& info);
  Napi::Value reset(const Napi::CallbackInfo& info);
  Napi::Value hotResetInfo(const Napi::CallbackInfo& info);
  Napi::Value hotReset(const Napi::CallbackInfo& info);

  // vfio_region.cc
  Napi::Value regionInfo(const Napi::CallbackInfo& info);
  Napi::Value regionRead(const Napi::CallbackInfo& info);
  Napi::Value regionWrite(const Napi::CallbackInfo& info);
  Napi::Value readInto(const Napi::CallbackInfo& info);
  Napi::Value writeFrom(const Napi::CallbackInfo& info);
  Napi::Value mmap(const Napi::CallbackInfo& info);

  // Has the kernel make an object by this request: the handle that owns it. `id`: where it says the object's
  // id.
  std::shared_ptr<ledger::ObjectHandle> allocate(Napi::Env env, unsigned long request, const char* name,
                                                 void* command, const uint32_t& id) const;
  [[nodiscard]] OpenFile& live(Napi::Env env) const { return slot_->live(env); }
  int ioctl(Napi::Env env, unsigned long request, const char* name, void* argument) const {
    (void)live(env);
    return slot_->ioctl(env, request, name, argument);
  }

  const std::shared_ptr<Slot> slot_ = std::make_shared<Slot>();
};

}  // namespace vfio::binding
