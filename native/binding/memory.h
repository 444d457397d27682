// Memory for DMA. `Pages` are the bytes; they live until the JavaScript Memory object, every ArrayBuffer made
// of it and every call that uses it are gone, and until no device can reach them: the kernel pins what it
// maps, and a software host delays the unmapping.
#pragma once

#include <napi.h>

#include <functional>
#include <memory>
#include <span>

namespace vfio::guard {
class Watch;
}

namespace vfio::binding {

size_t pageSize();

class Pages {
 public:
  Pages(uint8_t* address, size_t size, bool owned) : address_(address), size_(size), owned_(owned) {}
  ~Pages();
  Pages(const Pages&) = delete;
  Pages& operator=(const Pages&) = delete;
  [[nodiscard]] uint8_t* address() const { return address_; }
  [[nodiscard]] size_t size() const { return size_; }
  [[nodiscard]] bool owned() const { return owned_; }
  // A file's pages: should the file shrink, a view of them finds zeroes and the process does not die of it.
  // False: there is no room for more.
  [[nodiscard]] bool watch(size_t pageSize);

 private:
  uint8_t* address_;
  size_t size_;
  bool owned_;
  guard::Watch* watch_ = nullptr;
};

class Memory final : public Napi::ObjectWrap<Memory> {
 public:
  static Napi::Function define(Napi::Env env);
  explicit Memory(const Napi::CallbackInfo& info);
  static Napi::Object make(Napi::Env env, std::shared_ptr<Pages> pages);
  // The Memory that `value` is, or null if it is something else. Its pages may be null: disposed.
  static Memory* from(const Napi::Value& value);

  // (size, pageShift: 0 = ordinary, 21, 30; numaNode?) => Memory. Zeroed.
  static Napi::Value allocate(const Napi::CallbackInfo& info);
  // (fd, offset, length) => Memory: a shared mapping of a file (memfd, hugetlbfs).
  static Napi::Value ofDescriptor(const Napi::CallbackInfo& info);
  // (address, length) => Memory that the package does not own: the caller answers for its life.
  static Napi::Value ofAddress(const Napi::CallbackInfo& info);

  // The pages of what has to be a Memory that is not disposed.
  static const std::shared_ptr<Pages>& pagesOf(Napi::Env env, napi_value value);

 private:
  Napi::Value address(const Napi::CallbackInfo& info);
  Napi::Value size(const Napi::CallbackInfo& info);
  Napi::Value buffer(const Napi::CallbackInfo& info);
  Napi::Value read(const Napi::CallbackInfo& info);
  Napi::Value write(const Napi::CallbackInfo& info);
  Napi::Value dispose(const Napi::CallbackInfo& info);
  std::span<uint8_t> window(const Napi::CallbackInfo& info, size_t offsetIndex, size_t length);

  std::shared_ptr<Pages> pages_;
};

// An ArrayBuffer over memory that is not V8's, which keeps `owner` until it is collected. Throws EOPNOTSUPP
// where the runtime has no external buffers (Electron). At the end of the environment, when another thread
// may have the bytes, `retire` puts zeroes in their place, and the addresses are never used again.
Napi::Value externalBuffer(Napi::Env env, uint8_t* address, size_t size, std::shared_ptr<const void> owner,
                           std::function<void()> retire);

}  // namespace vfio::binding
