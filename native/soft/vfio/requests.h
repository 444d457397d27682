// The system calls of an open device, on the caller's pointers: each copies its struct in, checks the
// struct's size, makes the plain call (session.h, device.h) and copies the answer out. The order of
// checks is the kernel's.
//
// Life: functions only. The caller keeps the session open.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>

#include "../core/file.h"

namespace vfio::soft::cdev {

class DeviceFile;
class Session;

// BIND, ATTACH and DETACH are calls of one file of the device (device.h): bind_requests.cc.
[[nodiscard]] int bindRequest(DeviceFile& file, UserAddress argument);
[[nodiscard]] int attachRequest(DeviceFile& file, UserAddress argument);
[[nodiscard]] int detachRequest(DeviceFile& file, UserAddress argument);

// Any other call is one of the session.
[[nodiscard]] int request(Session& session, unsigned long number, UserAddress argument);

// `offset` is an offset in the device's file. It says which region is meant, and the place in that region.
[[nodiscard]] int64_t readAt(Session& session, UserAddress user, size_t size, uint64_t offset);
[[nodiscard]] int64_t writeAt(Session& session, UserAddress user, size_t size, uint64_t offset);
// `keeper` is the open file; the mapping keeps it alive.
[[nodiscard]] int64_t mapAt(Session& session, std::shared_ptr<File> keeper, void* hint, size_t length,
                            int protection, int flags, uint64_t offset);

}  // namespace vfio::soft::cdev
