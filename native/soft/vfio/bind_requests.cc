// See requests.h: BIND, ATTACH and DETACH, the calls of a file of the character device.
#include <fcntl.h>

#include <algorithm>
#include <cerrno>
#include <cstddef>
#include <optional>

#include "../../uapi/vfio.h"
#include "../core/services.h"
#include "../mm/memory.h"
#include "device.h"
#include "requests.h"

namespace vfio::soft::cdev {

using namespace uapi;

namespace {

// Copies the caller's struct, up to the size that this release knows. The bytes of a longer struct after that
// size must be zero. Kernels before 6.17 copied the smallest size and did not check the rest.
int copyBind(const Services& host, UserAddress argument, vfio_device_bind_iommufd& bind) {
  if (!host.since(6, 17)) {
    if (mm::Memory::copyIn(&bind, argument, vfio_device_bind_iommufd_min) != 0) return -EFAULT;
    return bind.argsz < vfio_device_bind_iommufd_min ? -EINVAL : 0;
  }
  uint32_t given = 0;
  if (mm::Memory::copyIn(&given, argument, sizeof given) != 0) return -EFAULT;
  if (given < vfio_device_bind_iommufd_min) return -EINVAL;
  // 6.17 and 6.18 took the old size for the whole struct, so a program could give no token.
  const size_t known = host.since(6, 19) ? sizeof bind : vfio_device_bind_iommufd_min;
  if (given > known) {
    const int zero = mm::Memory::allZero(argument + known, given - known);
    if (zero <= 0) return zero < 0 ? zero : -E2BIG;
  }
  return mm::Memory::copyIn(&bind, argument, std::min<size_t>(given, known));
}

// Kernels before 6.17 asked for no token here.
int checkToken(Device& device, const vfio_device_bind_iommufd& bind) {
  if (!device.host.since(6, 17)) return 0;
  if ((bind.flags & VFIO_DEVICE_BIND_FLAG_TOKEN) == 0) return device.checkToken(nullptr);
  Token token{};
  if (mm::Memory::copyIn(token.data(), bind.token_uuid_ptr, token.size()) != 0) return -EFAULT;
  return device.checkToken(&token);
}

// ATTACH and DETACH begin alike: flags with one bit for a PASID, which the kernel copies after the rest.
template <typename Request>
int copyPasidRequest(const DeviceFile& file, UserAddress argument, size_t least, uint32_t pasidFlag,
                     Request& request) {
  if (mm::Memory::copyIn(&request, argument, least) != 0) return -EFAULT;
  const uint32_t flags = file.device().host.since(6, 15) ? pasidFlag : 0;
  if (request.argsz < least || (request.flags & ~flags) != 0) return -EINVAL;
  if (request.flags == 0) return 0;
  if (request.argsz < sizeof request) return -EINVAL;
  if (file.device().function.isMediated()) return -EOPNOTSUPP;
  return mm::Memory::copyIn(&request.pasid, argument + least, sizeof request.pasid) != 0 ? -EFAULT : 0;
}

// ATTACH and DETACH know one flag only.
template <typename Request>
std::optional<uint32_t> pasidOf(const Request& request) {
  return request.flags == 0 ? std::nullopt : std::optional(request.pasid);
}

}  // namespace

int bindRequest(DeviceFile& file, UserAddress argument) {
  Services& host = file.device().host;
  vfio_device_bind_iommufd bind{};
  if (const int failed = copyBind(host, argument, bind)) return failed;
  const uint32_t flags = host.since(6, 17) ? VFIO_DEVICE_BIND_FLAG_TOKEN : 0;
  if ((bind.flags & ~flags) != 0 || bind.iommufd < 0) return -EINVAL;
  const int failed = file.bind({.checkToken = [&bind](Device& device) { return checkToken(device, bind); },
                                .findIommufd =
                                    [&host, &bind](std::shared_ptr<File>& found) {
                                      found = host.file(bind.iommufd);
                                      if (found) return 0;
                                      return fcntl(bind.iommufd, F_GETFD) < 0 ? -EBADF : -EBADFD;
                                    }},
                               bind.out_devid);
  if (failed != 0) return failed;
  if (mm::Memory::copyOut(argument + offsetof(vfio_device_bind_iommufd, out_devid), &bind.out_devid,
                          sizeof bind.out_devid) == 0)
    return 0;
  file.unbind();
  return -EFAULT;
}

int attachRequest(DeviceFile& file, UserAddress argument) {
  vfio_device_attach_iommufd_pt attach{};
  if (const int failed = copyPasidRequest(file, argument, vfio_device_attach_iommufd_pt_min,
                                          VFIO_DEVICE_ATTACH_PASID, attach))
    return failed;
  if (const int failed = file.attach(attach.pt_id, pasidOf(attach))) return failed;
  if (mm::Memory::copyOut(argument + offsetof(vfio_device_attach_iommufd_pt, pt_id), &attach.pt_id,
                          sizeof attach.pt_id) == 0)
    return 0;
  // Even when the call was for a PASID, the attachment without a PASID is the one that ends.
  file.detach(std::nullopt);
  return -EFAULT;
}

int detachRequest(DeviceFile& file, UserAddress argument) {
  vfio_device_detach_iommufd_pt detach{};
  if (const int failed = copyPasidRequest(file, argument, vfio_device_detach_iommufd_pt_min,
                                          VFIO_DEVICE_DETACH_PASID, detach))
    return failed;
  file.detach(pasidOf(detach));
  return 0;
}

}  // namespace vfio::soft::cdev
