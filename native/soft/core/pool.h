// Room for many objects of one kind that one holder owns: the nodes of a tree, the tables of a page table.
//
// With a million mappings most of the time is spent waiting for memory. With many small allocations most of
// it is spent finding where their pages are. So the pool takes room from the system in chunks. Each chunk is
// as large as all chunks before it together, up to 2 MiB. A chunk of 2 MiB asks for a large page.
//
// If the system refuses a chunk, the pool takes the smallest possible chunk instead, which the reserve can
// provide (reserve.h).
//
// Life: the pool uses again the room of destroyed objects, the last destroyed first. When the last object is
// destroyed, the pool returns all chunks but the first to the system. It returns the first when the pool
// itself is destroyed.
#pragma once

#include <sys/mman.h>

#include <algorithm>
#include <cstddef>
#include <cstdlib>
#include <new>
#include <type_traits>
#include <utility>
#include <vector>

#include "../../base/reserve.h"
#include "sanitizer.h"

namespace vfio::soft {

template <class T>
class Pool {
  // The room of a destroyed object holds the pointer to the next such room.
  static_assert(std::is_trivially_destructible_v<T> && alignof(T) >= alignof(void*));

 public:
  Pool() = default;
  ~Pool() {
    for (const Chunk& chunk : chunks_) release(chunk);
  }
  Pool(const Pool&) = delete;
  Pool& operator=(const Pool&) = delete;

  // Makes a new T.
  template <class... Arguments>
  [[nodiscard]] T* make(Arguments&&... arguments) {
    void* room = free_;
    if (room != nullptr) {
      sanitizer::unpoison(room, sizeof(T));
      free_ = free_->next;
    } else {
      if (next_ == end_) grow();
      room = next_;
      next_ += kRoom;
      sanitizer::unpoison(room, sizeof(T));
    }
    ++live_;
    return new (room) T(std::forward<Arguments>(arguments)...);
  }

  void destroy(T* object) {
    free_ = new (object) Free{free_};
    sanitizer::poison(object, sizeof(T));
    if (--live_ == 0) shrink();
  }

  // The next `count` calls of make() need no memory.
  void reserve(size_t count) {
    while (room_ - live_ < count) {
      // The part of this chunk that was never used is kept for later objects too.
      for (; next_ != end_; next_ += kRoom) {
        sanitizer::unpoison(next_, sizeof(Free));
        free_ = new (next_) Free{free_};
        sanitizer::poison(next_, kRoom);
      }
      grow();
    }
  }

  // Ends the lives of all objects.
  void clear() {
    live_ = 0;
    if (!chunks_.empty()) shrink();
  }

  void swap(Pool& other) noexcept {
    std::swap(chunks_, other.chunks_);
    std::swap(free_, other.free_);
    std::swap(next_, other.next_);
    std::swap(end_, other.end_);
    std::swap(live_, other.live_);
    std::swap(room_, other.room_);
  }

 private:
  static constexpr size_t kLargest = size_t{2} << 20;

  struct Free {
    Free* next;
  };
  // The room of one object. Once the object is destroyed, the room holds a Free, so it is aligned for one.
  static constexpr size_t kRoom = (sizeof(T) + alignof(Free) - 1) / alignof(Free) * alignof(Free);
  struct Chunk {
    char* start;
    size_t size;
  };

  // Takes another chunk, which has room for at least one object.
  void grow() {
    static constexpr size_t kLine = 64;
    const size_t wanted = chunks_.empty() ? kRoom : chunks_.back().size * 2;
    const bool large = wanted >= kLargest;
    const size_t size = large ? kLargest : (wanted + kLine - 1) / kLine * kLine;
    if (chunks_.size() == chunks_.capacity()) chunks_.reserve(chunks_.size() * 2 + 4);
    auto* start = static_cast<char*>(std::aligned_alloc(large ? kLargest : kLine, size));
    if (start == nullptr) {
      // There may still be room for one object.
      const size_t least = (kRoom + kLine - 1) / kLine * kLine;
      start = static_cast<char*>(allocate(least, kLine));
      if (start == nullptr) throw std::bad_alloc();
      chunks_.push_back({start, least});
    } else {
      // If the system has no large pages, small ones serve as well.
      if (large) madvise(start, size, MADV_HUGEPAGE);
      chunks_.push_back({start, size});
    }
    room_ += chunks_.back().size / kRoom;
    use(chunks_.back());
  }

  void use(const Chunk& chunk) {
    sanitizer::poison(chunk.start, chunk.size);
    next_ = chunk.start;
    end_ = chunk.start + chunk.size / kRoom * kRoom;
  }

  void shrink() {
    free_ = nullptr;
    for (size_t at = 1; at < chunks_.size(); ++at) release(chunks_[at]);
    chunks_.resize(1);
    room_ = chunks_.front().size / kRoom;
    use(chunks_.front());
  }

  static void release(const Chunk& chunk) {
    sanitizer::unpoison(chunk.start, chunk.size);
    std::free(chunk.start);
  }

  std::vector<Chunk> chunks_;
  Free* free_ = nullptr;
  char* next_ = nullptr;  // start of the part of the last chunk that was never used
  char* end_ = nullptr;
  size_t live_ = 0;
  size_t room_ = 0;  // the number of objects that fit into all chunks
};

}  // namespace vfio::soft
