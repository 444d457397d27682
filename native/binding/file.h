// An open file of a host, and the kernel calls on it. JavaScript has one class for each kind of file, with
// the calls that such a file accepts. Each call is one function, and all have the same signature. Each family
// of calls is in its own source file, which ends with the table of its calls.
//
// Life: the descriptor is closed when the object is disposed or collected, but never while a call is running
// on it.
#pragma once

#include <napi.h>

#include <atomic>
#include <map>
#include <memory>
#include <vector>

#include "../ledger/kernel_file.h"
#include "../ledger/object_handle.h"
#include "../ledger/open_file.h"
#include "arguments.h"
#include "environment.h"

namespace vfio::binding {

using ledger::OpenFile;

class File final : public Napi::ObjectWrap<File> {
 public:
  // The class of files of each kind.
  static std::map<FileKind, Napi::FunctionReference> define(Napi::Env env);
  explicit File(const Napi::CallbackInfo& info);
  ~File() override { slot_->file.reset(); }
  // Takes over `fd`, which must refer to a file of this kind. `adopted`: see OpenFile.
  static Napi::Object make(Napi::Env env, std::shared_ptr<Backend> backend, int fd, FileKind kind,
                           bool adopted = false);
  // Returns `value` as a File; null: it is not a File.
  static File* from(const Napi::Value& value);
  [[nodiscard]] FileKind kind() const { return kind_; }
  [[nodiscard]] const std::shared_ptr<OpenFile>& open() const { return slot_->file; }

  // The state that the object and its bound functions share, so that disposing ends both.
  struct Slot {
    std::shared_ptr<OpenFile> file;
    std::atomic<bool> disposed = false;  // for calls on other threads, which keep the file

    // Returns the file, or throws ERR_VFIO_DISPOSED.
    [[nodiscard]] OpenFile& live(Napi::Env env, const char* what = "handle") const {
      if (!file) throwDisposed(env, what);
      return *file;
    }
    // Makes one ioctl: returns its result or throws a VfioError.
    int ioctl(Napi::Env env, unsigned long request, const char* name, void* argument) const {
      OpenFile& open = live(env, "Iommufd");
      const int result = open.ioctl(request, argument);
      if (result < 0) throwErrno(env, result, "ioctl", name);
      return result;
    }
  };

  // One call: `Run(info, file)`. The JavaScript engine refuses the call on an object of another class.
  using Call = Napi::ClassPropertyDescriptor<File>;
  template <Napi::Value (*Run)(const Napi::CallbackInfo&, File&)>
  static Call call(const char* name) {
    return InstanceMethod<&File::run<Run>>(name);
  }

  // Asks the kernel to create an object with this request, and returns the handle that owns it. `id`: the
  // field where the kernel stores the object's id.
  std::shared_ptr<ledger::ObjectHandle> allocate(Napi::Env env, unsigned long request, const char* name,
                                                 void* command, const uint32_t& id) const;
  [[nodiscard]] OpenFile& live(Napi::Env env) const { return slot_->live(env); }
  int ioctl(Napi::Env env, unsigned long request, const char* name, void* argument) const {
    (void)live(env);
    return slot_->ioctl(env, request, name, argument);
  }

  [[nodiscard]] const std::shared_ptr<Slot>& slot() const { return slot_; }

 private:
  template <Napi::Value (*Run)(const Napi::CallbackInfo&, File&)>
  Napi::Value run(const Napi::CallbackInfo& info) {
    // A device model in JavaScript, which the call may reach, can dispose this object.
    const std::shared_ptr<OpenFile> running = slot_->file;
    return Run(info, *this);
  }

  // Members of every file class.
  Napi::Value fd(const Napi::CallbackInfo& info);
  Napi::Value dispose(const Napi::CallbackInfo& info);
  Napi::Value release(const Napi::CallbackInfo& info);
  Napi::Value pinned(const Napi::CallbackInfo& info);
  Napi::Value same(const Napi::CallbackInfo& info);

  const std::shared_ptr<Slot> slot_ = std::make_shared<Slot>();
  FileKind kind_ = FileKind::unknown;
};

// The calls of each family: on an iommufd and its objects, on its queues, on devices, groups and containers.
std::vector<File::Call> iommufdTable();
std::vector<File::Call> hwptTable();
std::vector<File::Call> viommuTable();
std::vector<File::Call> faultQueueTable();
std::vector<File::Call> eventQueueTable();
std::vector<File::Call> bondTable();
std::vector<File::Call> svaTable();
std::vector<File::Call> deviceTable();
std::vector<File::Call> regionTable();
std::vector<File::Call> groupTable();
std::vector<File::Call> containerTable();

}  // namespace vfio::binding
