// A fence between accesses of a device to memory that a driver reads and writes meanwhile, on another thread.
//
// GCC refuses fences under ThreadSanitizer, which can't follow them. It does not see these accesses either:
// the guarded copies (native/guard) are assembly. So there is no fence under it.
#pragma once

#include <atomic>

namespace vfio::soft {

inline void fence([[maybe_unused]] std::memory_order order) {
#if !defined(__SANITIZE_THREAD__)
  std::atomic_thread_fence(order);
#endif
}

}  // namespace vfio::soft
