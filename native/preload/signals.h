// The signals of a program and those of the software host: a touch of registers arrives as SIGSEGV.
#pragma once

namespace vfio::preload {

// From here on (or std::system_error, and nothing has changed), loads and stores to mapped registers reach
// the device's model.
void catchRegisterAccesses();

}  // namespace vfio::preload
