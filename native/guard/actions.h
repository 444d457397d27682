// What the process does about SIGSEGV and SIGBUS where the fault is none of the guard's: the actions that
// stood there before the guard's handler, newest first.
//
// A handler that came after the guard's may send what it does not know to the action that it replaced, which
// is the guard's. Such a fault goes on to what was there before that handler, not in a circle.
//
// Life: an action is written once and stays, as a signal handler may be reading it.
#pragma once

#include <signal.h>

namespace vfio::guard {

// Puts `handler` in front of the action for `signal`, if it isn't there.
void stand(int signal, void (*handler)(int, siginfo_t*, void*));

// Does what the process would do without the guard. For a signal handler.
void passOn(int signal, siginfo_t* info, void* context);

}  // namespace vfio::guard
