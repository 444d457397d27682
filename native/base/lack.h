// What a call answers when memory, a descriptor or a thread can't be had.
//
// The models throw, as the C++ library does, and commit only changes that can no longer fail. So code that
// catches an exception has nothing to undo. Each way into the host has one place that catches: a system call
// (host.cc), and the work of the devices' thread (engine.cc).
#pragma once

#include <cerrno>
#include <new>
#include <system_error>

namespace vfio {

// For use within a handler: returns -errno for the current exception. An exception of another kind is thrown
// on.
inline int lack() {
  try {
    throw;
  } catch (const std::bad_alloc&) {
    return -ENOMEM;
  } catch (const std::system_error& error) {
    return -error.code().value();
  }
}

}  // namespace vfio
