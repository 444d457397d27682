// The host's lock, as models that live elsewhere use it. docs/architecture.md says who holds it when.
#include <iterator>
#include <utility>

#include "host_lock.h"

namespace vfio::soft {

void Host::unlocked(const std::function<void()>& work) {
  // Another call must not do the work that is left for the end of this one.
  struct Away {
    explicit Away(Host& itsHost) : host(itsHost), after(std::exchange(host.after_, {})) {
      host.mutex_.unlock();
    }
    ~Away() {
      host.mutex_.lock();
      // Fills the reserve as far as possible: the call has begun, and continues in any case.
      (void)Reserve::fill();
      after.insert(after.end(), std::make_move_iterator(host.after_.begin()),
                   std::make_move_iterator(host.after_.end()));
      host.after_ = std::move(after);
    }
    Host& host;
    std::vector<std::function<void()>> after;
  };
  const Away away(*this);
  const Reserve::Pause pause;
  work();
}

void Host::locked(const std::function<void()>& work) {
  const Inside hold(*this, Refusable::no);
  work();
}

void Host::afterCall(std::function<void()> work) { after_.push_back(std::move(work)); }

void Host::finish() {
  while (!after_.empty()) {
    const auto works = std::exchange(after_, {});
    for (const auto& work : works) work();
  }
}

}  // namespace vfio::soft
