// The blocks of the reserve come from the system's allocator, so code that frees one need not know whether
// it came from the reserve. The operators new of this library fall back on these blocks. These operators
// serve the whole addon, which is linked so that it uses its own (binding.gyp).
#include "reserve.h"

#include <array>
#include <atomic>
#include <cstdlib>
#include <mutex>
#include <new>

#include "reserve_fork.h"
#include "sanitizers.h"

namespace vfio {
namespace {

constexpr size_t kAlignment = 64;

// Blocks of one size.
struct Shelf {
  size_t size;
  size_t most;
  void* first = nullptr;  // each free block begins with the address of the next
  size_t count = 0;
};

struct Store {
  std::mutex lock;
  // Unplugging and plugging in devices takes the most memory: some hundred names of sysfs. The blocks of 4
  // KiB and a little more are those of page tables.
  std::array<Shelf, 6> shelves{Shelf{64, 1024}, Shelf{256, 1024}, Shelf{1024, 128},
                               Shelf{4352, 32}, Shelf{16384, 4},  Shelf{65536, 2}};
  std::atomic<bool> full{false};
};

Store& store() {
  static Store made;
  return made;
}

// One flag per thread. Its own lookup must not allocate, hence the TLS model.
__attribute__((tls_model("initial-exec"))) thread_local bool mayUse = false;

void* take(size_t size, size_t alignment) {
  if (!mayUse || alignment > kAlignment) return nullptr;
  Store& all = store();
  const std::lock_guard hold(all.lock);
  for (Shelf& shelf : all.shelves) {
    if (shelf.size < size || shelf.first == nullptr) continue;
    void* const block = shelf.first;
    shelf.first = *static_cast<void**>(block);
    --shelf.count;
    all.full.store(false, std::memory_order_relaxed);
    return block;
  }
  return nullptr;
}

}  // namespace

bool Reserve::fill() {
  Store& all = store();
  if (all.full.load(std::memory_order_relaxed)) return true;
  const std::lock_guard hold(all.lock);
  for (Shelf& shelf : all.shelves) {
    for (; shelf.count < shelf.most; ++shelf.count) {
      void* const block = std::aligned_alloc(kAlignment, shelf.size);
      if (block == nullptr) return false;
      *static_cast<void**>(block) = shelf.first;
      shelf.first = block;
    }
  }
  all.full.store(true, std::memory_order_relaxed);
  return true;
}

void lockReserve() { store().lock.lock(); }
void unlockReserve() { store().lock.unlock(); }

Reserve::Use::Use() : before_(mayUse) { mayUse = true; }

Reserve::Use::~Use() { mayUse = before_; }

Reserve::Pause::Pause() : before_(mayUse) { mayUse = false; }

Reserve::Pause::~Pause() { mayUse = before_; }

void* allocate(size_t size, size_t alignment) noexcept {
  const size_t whole = (size + alignment - 1) / alignment * alignment;
  void* const room = alignment > alignof(std::max_align_t) ? std::aligned_alloc(alignment, whole)
                                                           : std::malloc(size == 0 ? 1 : size);
  return room != nullptr ? room : take(size, alignment);
}

}  // namespace vfio

// Every form is defined here: what one of them allocated, another may free. A sanitizer has its own.
#if !VFIO_ASAN && !VFIO_TSAN
namespace {

void* allocateOrThrow(size_t size, size_t alignment = alignof(std::max_align_t)) {
  void* const room = vfio::allocate(size, alignment);
  if (room == nullptr) throw std::bad_alloc();
  return room;
}

}  // namespace

void* operator new(size_t size) { return allocateOrThrow(size); }
void* operator new[](size_t size) { return allocateOrThrow(size); }
void* operator new(size_t size, std::align_val_t alignment) {
  return allocateOrThrow(size, static_cast<size_t>(alignment));
}
void* operator new[](size_t size, std::align_val_t alignment) {
  return allocateOrThrow(size, static_cast<size_t>(alignment));
}
void* operator new(size_t size, const std::nothrow_t&) noexcept { return vfio::allocate(size); }
void* operator new[](size_t size, const std::nothrow_t&) noexcept { return vfio::allocate(size); }
void* operator new(size_t size, std::align_val_t alignment, const std::nothrow_t&) noexcept {
  return vfio::allocate(size, static_cast<size_t>(alignment));
}
void* operator new[](size_t size, std::align_val_t alignment, const std::nothrow_t&) noexcept {
  return vfio::allocate(size, static_cast<size_t>(alignment));
}
void operator delete(void* room) noexcept { std::free(room); }
void operator delete[](void* room) noexcept { std::free(room); }
void operator delete(void* room, size_t) noexcept { std::free(room); }
void operator delete[](void* room, size_t) noexcept { std::free(room); }
void operator delete(void* room, std::align_val_t) noexcept { std::free(room); }
void operator delete[](void* room, std::align_val_t) noexcept { std::free(room); }
void operator delete(void* room, size_t, std::align_val_t) noexcept { std::free(room); }
void operator delete[](void* room, size_t, std::align_val_t) noexcept { std::free(room); }
void operator delete(void* room, const std::nothrow_t&) noexcept { std::free(room); }
void operator delete[](void* room, const std::nothrow_t&) noexcept { std::free(room); }
void operator delete(void* room, std::align_val_t, const std::nothrow_t&) noexcept { std::free(room); }
void operator delete[](void* room, std::align_val_t, const std::nothrow_t&) noexcept { std::free(room); }
#endif
