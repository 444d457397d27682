// Around a fork: the child must not find the reserve locked by a thread that it does not have.
#pragma once

namespace vfio {

void lockReserve();
void unlockReserve();

}  // namespace vfio
