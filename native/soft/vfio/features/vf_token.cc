// The feature "VF token": sets the token that a program must show to open a virtual function of this device
// (device.h).
#include <algorithm>

#include "../../../uapi/vfio.h"
#include "../device.h"
#include "../session.h"
#include "features.h"

namespace vfio::soft::cdev::features {

namespace {

bool exists(const Session& session) { return session.device().token.has_value(); }

int set(Session& session, std::span<uint8_t> data) {
  std::ranges::copy(data, session.device().token->begin());
  return 0;
}

// The token can't be read: a read would disclose the last user's token.
constexpr Feature feature{.number = uapi::VFIO_DEVICE_FEATURE_PCI_VF_TOKEN,
                          .size = sizeof(Token),
                          .get = nullptr,
                          .set = set,
                          .exists = exists};

}  // namespace

const std::span<const Feature> vfToken{&feature, 1};

}  // namespace vfio::soft::cdev::features
