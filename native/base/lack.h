// What a call answers when memory, a descriptor or a thread can't be had.
//
// The models throw, as the C++ library does, and commit only what can't fail any more; so whoever catches has
// nothing to undo. It is caught in one place for each way into the host: a system call (host.cc), and the
// work of the devices' thread (engine.cc).
#pragma once

#include <cerrno>
#include <new>
#include <system_error>

namespace vfio {

// Within a handler: -errno of what is being handled. What is none of these goes on.
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
