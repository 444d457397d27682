// Facts that AddressSanitizer can't know by itself: which room of a pool is free, and which bytes of the
// host's own memory the guarded copies read and write, since those are assembly. Without the sanitizer these
// functions do nothing.
#pragma once

#include <cstddef>

#include "../../base/sanitizers.h"

#if VFIO_ASAN
#include <sanitizer/asan_interface.h>

namespace vfio::soft::sanitizer {

inline void poison(void* start, size_t size) { __asan_poison_memory_region(start, size); }
inline void unpoison(void* start, size_t size) { __asan_unpoison_memory_region(start, size); }
// Reports an error unless all of these bytes may be accessed.
inline void check(const void* start, size_t size) {
  const void* const bad = __asan_region_is_poisoned(const_cast<void*>(start), size);
  if (bad != nullptr) (void)*static_cast<const volatile char*>(bad);
}

}  // namespace vfio::soft::sanitizer
#else
namespace vfio::soft::sanitizer {

inline void poison(void*, size_t) {}
inline void unpoison(void*, size_t) {}
inline void check(const void*, size_t) {}

}  // namespace vfio::soft::sanitizer
#endif
