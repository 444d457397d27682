// The software host of this process: made when a path or call first concerns it, from the environment:
// VFIO_SOFT_TOPOLOGY (a file), VFIO_SOFT_KERNEL, VFIO_SOFT_SELFTEST.
//
// Life: until the process ends; it is never destroyed. The child of a fork has a copy. A program that is
// started by exec has none, and makes its own.
#pragma once

#include <cerrno>
#include <cstdint>
#include <mutex>
#include <type_traits>

#include "../base/lack.h"
#include "../base/reserve.h"
#include "../soft/host/host.h"

namespace vfio::preload {

// Ends the process with a message if the environment asks for what can't be made. Throws, as the models do
// (lack.h), where the process lacks what a host takes: the next call tries again.
[[nodiscard]] soft::Host& host();
[[nodiscard]] soft::Host* existingHost();  // null: not made yet
// Is this the process that the host is in, and not a child of vfork?
[[nodiscard]] bool atHome();

// Locks that a fork must hold, so that the child does not find one taken by a thread that it does not have.
[[nodiscard]] std::mutex& statusesLock();  // files.cc
[[nodiscard]] std::mutex& streamsLock();   // streams.cc
[[nodiscard]] std::mutex& slotsLock();     // signals.cc

// -errno as the C library reports it.
int64_t result(int64_t value);

// A call of the program's. What this library lacks to answer it is `failed` with its errno, and never an
// exception; what little memory it needs for names, the reserve has.
template <typename Call>
std::invoke_result_t<Call> guarded(std::type_identity_t<std::invoke_result_t<Call>> failed,
                                   const Call& call) noexcept {
  try {
    (void)Reserve::fill();
    const Reserve::Use use;
    return call();
  } catch (...) {
    errno = -lack();
    return failed;
  }
}

}  // namespace vfio::preload
