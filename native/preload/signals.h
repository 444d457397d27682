// The signals of a program and those of the software host: a touch of registers arrives as SIGSEGV.
#pragma once

namespace vfio::preload {

// From here on, loads and stores to mapped registers reach the device's model.
void catchRegisterAccesses();

}  // namespace vfio::preload
