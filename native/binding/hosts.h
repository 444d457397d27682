// Makes hosts, and finds the host that a descriptor belongs to. Software hosts live in the process, and its
// worker threads share them. So a descriptor number that comes from another thread must lead to its host
// again. A software host is registered when it is created, and the list holds it weakly.
#pragma once

#include <memory>
#include <stdexcept>

#include "../backend.h"
#include "arguments.h"

namespace vfio::binding {

// The one kernel.
std::shared_ptr<Backend> kernel();

// (kernel?, topology?, deterministic?, seed?) => a new software host, which has controls. Throws a TypeError
// for a release that it cannot imitate, and for a machine that cannot be built.
std::shared_ptr<Backend> makeSoftwareHost(const Arguments& arguments, size_t index);

// Throws `error`, about the description of a machine or of a device, as a TypeError.
[[noreturn]] void refuseDescription(Napi::Env env, const std::invalid_argument& error);

// Unmaps memory of this process. Pages that devices of a software host can still reach stay until they no
// longer can.
void unmapMemory(void* address, size_t size);

// The host that knows `fd`: a live software host, or else the kernel.
std::shared_ptr<Backend> hostOf(int fd);

}  // namespace vfio::binding
