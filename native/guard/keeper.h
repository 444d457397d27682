// Keeps the guard's handler in front of handlers that the program, or a library in it, installs later with
// sigaction. Such a handler may return to the instruction that faulted, which then faults again, without end:
// the guarded routine would never return. A check before each routine would cost more than most of the
// routines. So a thread checks while guarded routines are in use, and puts the guard's handler in front
// again. The next fault of the routine then reaches the guard's handler, and the routine fails with an error
// as usual.
//
// Life: the thread starts with the first guarded routine and does not end. While no routine is in use, it
// sleeps without waking up.
#pragma once

#include <atomic>

namespace vfio::guard {

enum class Keeper : int { none, asleep, idle, busy, trusting };
extern std::atomic<Keeper> keeper;
void wakeKeeper();

// Call this when a guarded routine is about to run.
inline void mark() {
  const Keeper now = keeper.load(std::memory_order_relaxed);
  if (now != Keeper::busy && now != Keeper::trusting) [[unlikely]]
    wakeKeeper();
}

// Call this if nobody can replace the handler: then no thread is needed.
void trustHandlers();

}  // namespace vfio::guard
