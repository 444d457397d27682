// Finds the host that a descriptor belongs to. Software hosts live in the process, and its worker threads
// share them. So a descriptor number that comes from another thread must lead to its host again. A host
// registers when it is created, and the list holds it weakly.
#pragma once

#include <memory>

#include "../backend.h"
#include "../soft/host/host.h"
#include "../soft/mm/memory.h"

namespace vfio::binding {

// The one kernel.
std::shared_ptr<Backend> kernel();

// A new software host. Throws std::invalid_argument, with a message, for a machine that cannot be built.
std::shared_ptr<soft::Host> makeSoftwareHost(soft::HostOptions options);

// The memory of this process. All hosts share it, because a page may be mapped for devices of several hosts.
const std::shared_ptr<soft::mm::Memory>& processMemory();

// The host that knows `fd`: a live software host, or else the kernel.
std::shared_ptr<Backend> hostOf(int fd);

}  // namespace vfio::binding
