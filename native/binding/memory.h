// Memory for DMA. `Pages` are the bytes; they live until the JavaScript Memory object, every ArrayBuffer made
// of it and every call that uses it are gone, and until no device can reach them: the kernel pins what it
// maps, and a software host delays the unmapping.
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
  // A file's pages: should the file shrink, a view of them finds zeroes and the process does not die of it.
  // False: there is no room for more.
  [[nodiscard]] bool watch(size_t pageSize);

 private:
  uint8_t* address_;
  size_t size_;
  bool owned_;
  guard::Watch* watch_ = nullptr;
};

// The pages that a copy of lib/ has, by numbers: hot calls name memory so, which costs less than unwrapping
// an object. A number is checked as everything else that JavaScript passes; one that was given back leads
// nowhere.
//
// Life: of the environment, and of each Memory in it.
class PagesTable {
 public:
  [[nodiscard]] uint64_t add(std::shared_ptr<Pages> pages);
  void remove(uint64_t number);
  // Null: there is none of that number.
  [[nodiscard]] const std::shared_ptr<Pages>* find(uint64_t number) const {
    const uint64_t at = number % kPlaces;
    return at < entries_.size() && entries_[at].number == number && entries_[at].pages ? &entries_[at].pages
                                                                                       : nullptr;
  }

 private:
  // A number is a place and how often it was given before, below 2^53 together.
  static constexpr uint64_t kPlaces = uint64_t{1} << 28;
  static constexpr uint64_t kNumbers = uint64_t{1} << 53;
  struct Entry {
    uint64_t number;
    std::shared_ptr<Pages> pages;
  };
  std::vector<Entry> entries_;
  std::vector<uint64_t> free_;  // numbers for places that are free
};

class Memory final : public Napi::ObjectWrap<Memory> {
 public:
  static Napi::Function define(Napi::Env env);
  explicit Memory(const Napi::CallbackInfo& info);
  ~Memory() override;
  static Napi::Object make(Napi::Env env, std::shared_ptr<Pages> pages);
  // The Memory that `value` is, or null if it is something else. Its pages may be null: disposed.
  static Memory* from(const Napi::Value& value);

  // (size, pageShift: 0 = ordinary, 21, 30; numaNode?) => Memory. Zeroed.
  static Napi::Value allocate(const Napi::CallbackInfo& info);
  // (fd, offset, length) => Memory: a shared mapping of a file (memfd, hugetlbfs).
  static Napi::Value ofDescriptor(const Napi::CallbackInfo& info);
  // (address, length) => Memory that the package does not own: the caller answers for its life.
  static Napi::Value ofAddress(const Napi::CallbackInfo& info);

  // The pages of the Memory with this number, which is not disposed.
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

// An ArrayBuffer over memory that is not V8's, which keeps `owner` until it is collected. Throws EOPNOTSUPP
// where the runtime has no external buffers (Electron). At the end of the environment, when another thread
// may have the bytes, `retire` puts zeroes in their place, and the addresses are never used again.
Napi::Value externalBuffer(Napi::Env env, uint8_t* address, size_t size, std::shared_ptr<const void> owner,
                           std::function<void()> retire);

}  // namespace vfio::binding
