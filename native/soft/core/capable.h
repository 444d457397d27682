// Does the calling thread have the capability that the kernel asks for? The numbers are Linux's own
// (CAP_IPC_LOCK ...).
#pragma once

namespace vfio::soft {

[[nodiscard]] bool capable(unsigned capability);

}  // namespace vfio::soft
