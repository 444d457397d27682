// Memory put aside, so that no call on a software host stops half way for lack of memory.
//
// A call changes many things in turn: names in sysfs, a group, a table of objects. If each of these had to
// undo the earlier changes when memory runs out, every model would be written twice. Instead a call begins
// only when the reserve is full. While the call runs, the reserve serves the allocations that the system
// refuses. A call that finds the reserve short, and no memory to fill it, is refused before it has changed
// anything. A call that closes or cleans up is never refused; it uses what is left in the reserve.
//
// Operations that can need more than the reserve (page tables, pin counts) undo their own changes.
//
// Life: one reserve for the process. The first host fills it, and it is filled again after each use.
#pragma once

#include <cstddef>

namespace vfio {

class Reserve {
 public:
  // Takes from the system what the reserve lacks. Returns whether the reserve now has all that a call may
  // need.
  [[nodiscard]] static bool fill();

  // While a Use exists, allocations of its thread fall back on the reserve.
  class Use {
   public:
    Use();
    ~Use();
    Use(const Use&) = delete;
    Use& operator=(const Use&) = delete;

   private:
    bool before_;
  };

  // Within a Use: while a Pause exists, allocations of its thread don't fall back on the reserve. For work
  // that is no part of the call.
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

// Returns `size` bytes, aligned for any alignment up to `alignment` (a power of two, at most 64 from the
// reserve). The caller frees them with std::free. Null means that there is no memory.
[[nodiscard]] void* allocate(size_t size, size_t alignment = alignof(std::max_align_t)) noexcept;

}  // namespace vfio
