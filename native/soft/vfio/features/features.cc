// See features.h. The checks and their order are the kernel's (vfio_ioctl_device_feature,
// vfio_check_feature).
#include "features.h"

#include <array>
#include <cerrno>

#include "../../../uapi/vfio.h"

namespace vfio::soft::cdev::features {

using namespace uapi;

namespace {

constexpr std::array table = {&vfToken, &lowPower, &sva};

const Feature* lookUp(const Session& session, uint32_t number) {
  for (const auto* family : table) {
    for (const Feature& feature : *family) {
      if (feature.number == number) return !feature.exists || feature.exists(session) ? &feature : nullptr;
    }
  }
  return nullptr;
}

}  // namespace

int find(const Session& session, uint32_t flags, size_t room, Call& out) {
  constexpr uint32_t operations = VFIO_DEVICE_FEATURE_GET | VFIO_DEVICE_FEATURE_SET;
  const uint32_t wanted = flags & operations;
  const bool probes = (flags & VFIO_DEVICE_FEATURE_PROBE) != 0;
  if ((flags & ~(VFIO_DEVICE_FEATURE_MASK | operations | VFIO_DEVICE_FEATURE_PROBE)) != 0) return -EINVAL;
  if (!probes && wanted == operations) return -EINVAL;
  const Feature* feature = lookUp(session, flags & VFIO_DEVICE_FEATURE_MASK);
  if (!feature) return -ENOTTY;
  if ((wanted & VFIO_DEVICE_FEATURE_GET) != 0 && !feature->get) return -EINVAL;
  if ((wanted & VFIO_DEVICE_FEATURE_SET) != 0 && !feature->set) return -EINVAL;
  out = {.run = nullptr,
         .size = feature->size,
         .answers = wanted == VFIO_DEVICE_FEATURE_GET || feature->setAnswers};
  if (probes) return 0;
  if (wanted == 0 || room < feature->size) return -EINVAL;
  out.run = wanted == VFIO_DEVICE_FEATURE_GET ? feature->get : feature->set;
  return 0;
}

}  // namespace vfio::soft::cdev::features
