#include "keeper.h"

#include <pthread.h>
#include <signal.h>
#include <time.h>

#include "guard.h"

namespace vfio::guard {

std::atomic<Keeper> keeper{Keeper::none};

namespace {

constexpr long kPeriod = 20'000'000;  // nanoseconds
// The thread goes to sleep after this many periods without use. That is longer than any single guarded
// routine runs.
constexpr int kPatience = 250;

void* keep(void*) {
  for (int quiet = 0;;) {
    const timespec period{0, kPeriod};
    nanosleep(&period, nullptr);
    keepInFront();
    Keeper now = Keeper::busy;
    if (keeper.compare_exchange_strong(now, Keeper::idle)) {
      quiet = 0;
      continue;
    }
    if (++quiet < kPatience) continue;
    now = Keeper::idle;
    if (!keeper.compare_exchange_strong(now, Keeper::asleep)) continue;
    keeper.wait(Keeper::asleep);
    quiet = 0;
  }
}

// False: no thread can be created now. The next guarded routine tries again.
bool start() {
  // After fork the child does not have this thread.
  static const int registered = pthread_atfork(nullptr, nullptr, [] {
    Keeper now = keeper.load();
    if (now != Keeper::trusting) keeper.store(Keeper::none);
  });
  (void)registered;
  pthread_attr_t attributes;
  if (pthread_attr_init(&attributes) != 0) return false;
  pthread_attr_setdetachstate(&attributes, PTHREAD_CREATE_DETACHED);
  // The thread blocks all signals, so it runs none of the program's signal handlers.
  sigset_t all;
  sigset_t before;
  sigfillset(&all);
  pthread_sigmask(SIG_SETMASK, &all, &before);
  pthread_t thread;
  const bool started = pthread_create(&thread, &attributes, keep, nullptr) == 0;
  pthread_sigmask(SIG_SETMASK, &before, nullptr);
  pthread_attr_destroy(&attributes);
  return started;
}

}  // namespace

void wakeKeeper() {
  const Keeper was = keeper.exchange(Keeper::busy);
  if (was == Keeper::trusting) keeper.store(was);
  if (was == Keeper::asleep) keeper.notify_one();
  if (was == Keeper::none && !start()) keeper.store(Keeper::none);
}

void trustHandlers() { keeper.store(Keeper::trusting); }

}  // namespace vfio::guard
