// The token that whoever opens a virtual function of this device must show (device.h).
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

// It can't be read: it would tell the last user's.
constexpr Feature feature{.number = uapi::VFIO_DEVICE_FEATURE_PCI_VF_TOKEN,
                          .size = sizeof(Token),
                          .get = nullptr,
                          .set = set,
                          .exists = exists};

}  // namespace

const std::span<const Feature> vfToken{&feature, 1};

}  // namespace vfio::soft::cdev::features
