// Memory put aside, so that no call on a software host stops half way for lack of it.
//
// A call changes many things in turn: names in sysfs, a group, a table of objects. Were each of them to undo
// what came before when memory runs out, every model would be written twice. Instead a call begins only when
// the reserve is full, and while it runs, allocations that the system refuses are served from here. A call
// that finds the reserve short, and no memory to fill it, is refused before it has changed anything. What
// closes and cleans up is never refused; it uses what is there.
//
// What can need more than the reserve has (page tables, pin counts) takes back what it did itself.
//
// Life: one for the process, filled with its first host, and again after each use.
#pragma once

#include <cstddef>

namespace vfio::soft {

class Reserve {
 public:
  // Is there all that a call may need? Takes from the system what is missing.
  [[nodiscard]] static bool fill();

  // While one lives, its thread's allocations fall back on the reserve.
  class Use {
   public:
    Use();
    ~Use();
    Use(const Use&) = delete;
    Use& operator=(const Use&) = delete;

   private:
    bool before_;
  };

  // Within a Use: while one lives, its thread's allocations don't fall back on the reserve. For work that is
  // no part of the call.
  class Pause {
   public:
    Pause();
    ~Pause();
    Pause(const Pause&) = delete;
    Pause& operator=(const Pause&) = delete;

   private:
    bool before_;
  };
};

// `size` bytes, aligned for anything up to `alignment` (a power of two, 64 at most from the reserve), for
// std::free; null: there is no memory.
[[nodiscard]] void* allocate(size_t size, size_t alignment = alignof(std::max_align_t)) noexcept;

}  // namespace vfio::soft
