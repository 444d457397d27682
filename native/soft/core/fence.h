// A fence between accesses of a device to memory that a driver reads and writes meanwhile, on another thread.
//
// GCC refuses fences under ThreadSanitizer, which can't follow them. It does not see these accesses either:
// the guarded copies (native/guard) are assembly. So there is no fence under it.
#pragma once

#include <atomic>

#include "../../base/sanitizers.h"

namespace vfio::soft {

inline void fence([[maybe_unused]] std::memory_order order) {
#if !VFIO_TSAN
  std::atomic_thread_fence(order);
#endif
}

}  // namespace vfio::soft
