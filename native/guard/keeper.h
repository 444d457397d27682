// Keeps the guard's handler in front of the ones that a program, or a library in it, installs by sigaction
// later. Such a handler returns to the instruction that faulted, which faults again, without end: the guarded
// routine would never come back. To look before each of them costs more than what most of them do. So a
// thread looks while guarded routines are in use, and puts the guard's handler in front again: the next fault
// of the routine reaches it and is an error, as ever.
//
// Life: the thread starts with the first guarded routine and stays; it sleeps, without waking up, while none
// is in use.
#pragma once

#include <atomic>

namespace vfio::guard {

enum class Keeper : int { none, asleep, idle, busy, trusting };
extern std::atomic<Keeper> keeper;
void wakeKeeper();

// A guarded routine is about to run.
inline void mark() {
  const Keeper now = keeper.load(std::memory_order_relaxed);
  if (now != Keeper::busy && now != Keeper::trusting) [[unlikely]]
    wakeKeeper();
}

// Nobody can replace the handler: no thread is needed.
void trustHandlers();

}  // namespace vfio::guard
