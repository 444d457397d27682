// VFIO_DEVICE_FEATURE: the optional features of devices. Each feature is described in a file of this folder
// and entered in the table of features.cc. `find` checks, for all features, which operations a feature has
// and how much data they take.
//
// Life: the table is constant.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

namespace vfio::soft::cdev {
class Session;
}

namespace vfio::soft::cdev::features {

// An operation of a feature. It works on the data of a request and returns 0 or -errno.
using Operation = int (*)(Session& session, std::span<uint8_t> data);

struct Feature {
  uint32_t number;                                   // VFIO_DEVICE_FEATURE_...
  size_t size;                                       // of its data
  Operation get;                                     // fills the data; null: it can't be read
  Operation set;                                     // null: it can't be set
  bool (*exists)(const Session& session) = nullptr;  // null: each device has it
  bool setAnswers = false;                           // what `set` leaves in the data goes back to the caller
};

// The call that a checked request asks for.
struct Call {
  Operation run;  // null: the request only asked whether it could be made
  size_t size;    // of the data it works on
  bool answers;   // the data goes back to the caller
};

// Looks up and checks a request with `flags` and room for `room` bytes of data: 0, -ENOTTY (the device has no
// such feature) or -EINVAL.
[[nodiscard]] int find(const Session& session, uint32_t flags, size_t room, Call& out);

// --- the features
extern const std::span<const Feature> vfToken;
extern const std::span<const Feature> lowPower;
extern const std::span<const Feature> sva;

}  // namespace vfio::soft::cdev::features
