// Memory for DMA. `Pages` are the bytes; they live until the JavaScript Memory object, every ArrayBuffer over
// it and every call that uses it have ended, and until no device can reach them: the kernel pins the pages
// that it maps, and a software host delays the unmapping.
#pragma once

#include <napi.h>

#include <functional>
#include <memory>
#include <span>
#include <vector>

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
  // For pages of a file: if the file shrinks, a view reads zeroes and the process does not crash. False: no
  // watch is free.
  [[nodiscard]] bool watch(size_t pageSize);

 private:
  uint8_t* address_;
  size_t size_;
  bool owned_;
  guard::Watch* watch_ = nullptr;
};

// The pages that a copy of lib/ uses, by number. Hot calls pass the number, which costs less than unwrapping
// an object. A number is checked like every other argument from JavaScript; a released number finds nothing.
//
// Life: the table lives as long as the environment; an entry lives as long as its Memory.
class PagesTable {
 public:
  [[nodiscard]] uint64_t add(std::shared_ptr<Pages> pages);
  void remove(uint64_t number);
  // Null: no pages have this number.
  [[nodiscard]] const std::shared_ptr<Pages>* find(uint64_t number) const {
    const uint64_t at = number % kPlaces;
    return at < entries_.size() && entries_[at].number == number && entries_[at].pages ? &entries_[at].pages
                                                                                       : nullptr;
  }

 private:
  // A number combines a place in the table and how many times the place was used before. It is below 2^53.
  static constexpr uint64_t kPlaces = uint64_t{1} << 28;
  static constexpr uint64_t kNumbers = uint64_t{1} << 53;
  struct Entry {
    uint64_t number;
    std::shared_ptr<Pages> pages;
  };
  std::vector<Entry> entries_;
  std::vector<uint64_t> free_;  // the next numbers of free places
};

class Memory final : public Napi::ObjectWrap<Memory> {
 public:
  static Napi::Function define(Napi::Env env);
  explicit Memory(const Napi::CallbackInfo& info);
  ~Memory() override;
  static Napi::Object make(Napi::Env env, std::shared_ptr<Pages> pages);
  // Returns `value` as a Memory, or null if it is not one. If it was disposed, its pages are null.
  static Memory* from(const Napi::Value& value);

  // (size, pageShift: 0 = ordinary, 21, 30; numaNode?) => Memory. Zeroed.
  static Napi::Value allocate(const Napi::CallbackInfo& info);
  // (address, size) => Memory at exactly this address, page aligned. Zeroed. Fails with EEXIST if anything is
  // mapped in the range: no mapping is ever replaced.
  static Napi::Value allocateAt(const Napi::CallbackInfo& info);
  // (fd, offset, length) => Memory: a shared mapping of a file (memfd, hugetlbfs).
  static Napi::Value ofDescriptor(const Napi::CallbackInfo& info);
  // (address, length) => Memory that the package does not own: the caller must keep it valid.
  static Napi::Value ofAddress(const Napi::CallbackInfo& info);
  static Napi::Value addressOf(const Napi::CallbackInfo& info);

  // The pages of the Memory with this number; it must not be disposed.
  static const std::shared_ptr<Pages>& pagesOf(Napi::Env env, const PagesTable& table, napi_value number);

 private:
  Napi::Value number(const Napi::CallbackInfo& info);
  Napi::Value address(const Napi::CallbackInfo& info);
  Napi::Value size(const Napi::CallbackInfo& info);
  Napi::Value buffer(const Napi::CallbackInfo& info);
  Napi::Value read(const Napi::CallbackInfo& info);
  Napi::Value write(const Napi::CallbackInfo& info);
  Napi::Value dispose(const Napi::CallbackInfo& info);
  std::span<uint8_t> window(const Napi::CallbackInfo& info, size_t offsetIndex, size_t length);

  void release();

  std::shared_ptr<Pages> pages_;
  std::shared_ptr<PagesTable> table_;
  uint64_t number_ = 0;
};

// An ArrayBuffer over memory that V8 does not own. The buffer keeps `owner` until it is collected. Fails with
// EOPNOTSUPP if the runtime supports no external buffers (Electron). When the environment ends, another
// thread may still use the bytes. So `retire` replaces them with zeroes, and the addresses are never used
// again.
Napi::Value externalBuffer(Napi::Env env, uint8_t* address, size_t size, std::shared_ptr<const void> owner,
                           std::function<void()> retire);

}  // namespace vfio::binding
