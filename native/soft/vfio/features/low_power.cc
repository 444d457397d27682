// The feature "low power": an idle program lets its device sleep, until the program or another user needs the
// device. See features.h and Session::sleep.
#include <array>
#include <cerrno>
#include <cstring>
#include <memory>
#include <utility>

#include "../../../uapi/vfio.h"
#include "../eventfd.h"
#include "../session.h"
#include "features.h"

namespace vfio::soft::cdev::features {

using namespace uapi;

namespace {

int enter(Session& session, std::span<uint8_t>) { return session.sleep(nullptr); }

int enterWithWakeup(Session& session, std::span<uint8_t> data) {
  vfio_device_low_power_entry_with_wakeup entry{};
  std::memcpy(&entry, data.data(), sizeof entry);
  if (entry.wakeup_eventfd < 0) return -EINVAL;
  std::shared_ptr<EventFd> wakeup;
  if (const int failed = EventFd::get(entry.wakeup_eventfd, wakeup)) return failed;
  return session.sleep(std::move(wakeup));
}

int leave(Session& session, std::span<uint8_t>) {
  session.leaveSleep();
  return 0;
}

constexpr std::array all = {
    Feature{.number = VFIO_DEVICE_FEATURE_LOW_POWER_ENTRY, .size = 0, .get = nullptr, .set = enter},
    Feature{.number = VFIO_DEVICE_FEATURE_LOW_POWER_ENTRY_WITH_WAKEUP,
            .size = sizeof(vfio_device_low_power_entry_with_wakeup),
            .get = nullptr,
            .set = enterWithWakeup},
    Feature{.number = VFIO_DEVICE_FEATURE_LOW_POWER_EXIT, .size = 0, .get = nullptr, .set = leave},
};

}  // namespace

const std::span<const Feature> lowPower{all};

}  // namespace vfio::soft::cdev::features
