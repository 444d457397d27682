// The process's actions for SIGSEGV and SIGBUS if the fault is not in a guarded routine: the actions that
// were installed before the guard's handler, newest first.
//
// A handler that was installed after the guard's may pass unknown faults to the action that it replaced,
// which is the guard's. The guard then passes the fault to the action before that handler, so the fault does
// not go round in a circle.
//
// Life: an action is written once and is not destroyed, because a signal handler may be reading it.
#pragma once

#include <signal.h>

namespace vfio::guard {

// Installs `handler` in front of the current action for `signal`, if it is not yet in front.
void stand(int signal, void (*handler)(int, siginfo_t*, void*));

// Does what the process would do without the guard. Call this from a signal handler.
void passOn(int signal, siginfo_t* info, void* context);

}  // namespace vfio::guard
