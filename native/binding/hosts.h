// Which host a descriptor belongs to. Software hosts live in the process, shared by its worker threads, so a
// bare number that came from another thread must find its host again. Hosts register when made and are held
// weakly.
#pragma once

#include <memory>

#include "../backend.h"
#include "../soft/host/host.h"
#include "../soft/mm/memory.h"

namespace vfio::binding {

// The one kernel.
std::shared_ptr<Backend> kernel();

// A new software host. Throws std::invalid_argument, with words, for a machine that can't be built.
std::shared_ptr<soft::Host> makeSoftwareHost(soft::HostOptions options);

// This process's memory: one for all hosts, since a page may be mapped for devices of several.
const std::shared_ptr<soft::mm::Memory>& processMemory();

// The host that knows `fd`: a live software host, or else the kernel.
std::shared_ptr<Backend> hostOf(int fd);

}  // namespace vfio::binding
