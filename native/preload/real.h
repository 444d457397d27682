// The C library's own functions, under the ones of the same name that this library puts in front of them.
#pragma once

#include <dlfcn.h>

#include <atomic>

// The function pointer: REAL(close)(fd). Found at the first use, which may be before any constructor ran.
#define REAL(name)                                       \
  ([] {                                                  \
    static std::atomic<void*> known{nullptr};            \
    void* found = known.load(std::memory_order_relaxed); \
    if (!found) {                                        \
      found = dlsym(RTLD_NEXT, #name);                   \
      known.store(found, std::memory_order_relaxed);     \
    }                                                    \
    return reinterpret_cast<decltype(&::name)>(found);   \
  }())

// What programs see of this library; everything else is hidden.
#define EXPORTED extern "C" __attribute__((visibility("default")))
