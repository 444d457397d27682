// A call on the host, from its first access to the machine to its last. It holds the lock, may use the
// reserve of memory, and at its end does the work that was left for it (Services::afterCall).
//
// Life: on the stack of the call.
#pragma once

#include <mutex>
#include <new>

#include "../../base/reserve.h"
#include "host.h"

namespace vfio::soft {

// If the reserve is short, a call that may be refused is refused; any other call continues.
enum class Refusable : bool { no, yes };

class Host::Inside {
 public:
  explicit Inside(Host& host, Refusable refusable = Refusable::yes) : host_(host), hold_(host.mutex_) {
    if (!Reserve::fill() && refusable == Refusable::yes) throw std::bad_alloc();
  }
  ~Inside() {
    if (!host_.after_.empty()) host_.finish();
  }
  Inside(const Inside&) = delete;
  Inside& operator=(const Inside&) = delete;

 private:
  Host& host_;
  const std::lock_guard<std::mutex> hold_;
  const Reserve::Use use_;
};

}  // namespace vfio::soft
