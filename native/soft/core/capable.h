// May the calling thread do what the kernel asks a capability for? (Linux's own numbers: CAP_IPC_LOCK ...)
#pragma once

namespace vfio::soft {

[[nodiscard]] bool capable(unsigned capability);

}  // namespace vfio::soft
