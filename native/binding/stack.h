// The JavaScript stack of a thread, to explain an error that another thread is told of.
//
// Life: lib/ gives each thread a function that returns the stack. The addon refers to it weakly, and until
// the thread's JavaScript ends.
#pragma once

#include <napi.h>

#include <string>

namespace vfio::binding {

void setStackFunction(const Napi::Function& stack);
// What the calling thread is doing in JavaScript. Empty: it runs none, or its function is gone. It may run
// code of the program (Error.prepareStackTrace), so the caller holds no lock.
[[nodiscard]] std::string stackHere();

}  // namespace vfio::binding
