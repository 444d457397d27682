// The two features of shared virtual addressing, which only a software host has: native/uapi/sva.h.
#include <fcntl.h>

#include <array>
#include <cerrno>
#include <cstring>
#include <memory>
#include <utility>

#include "../../../uapi/sva.h"
#include "../../core/services.h"
#include "../../iommu/endpoint.h"
#include "../../iommu/sva.h"
#include "../bond_file.h"
#include "../session.h"
#include "features.h"

namespace vfio::soft::cdev::features {

using namespace uapi;

namespace {

bool exists(const Session& session) { return iommu::Sva::has(session.endpoint()); }

int getState(Session& session, std::span<uint8_t> data) {
  const iommu::Endpoint& endpoint = session.endpoint();
  const vfio_device_feature_sva state{endpoint.host.sva().enabled(endpoint) ? VFIO_SVA_ENABLED : 0,
                                      endpoint.usablePasidBits()};
  std::memcpy(data.data(), &state, sizeof state);
  return 0;
}

int setState(Session& session, std::span<uint8_t> data) {
  vfio_device_feature_sva state{};
  std::memcpy(&state, data.data(), sizeof state);
  if ((state.flags & ~VFIO_SVA_ENABLED) != 0) return -EINVAL;
  iommu::Endpoint& endpoint = session.endpoint();
  iommu::Sva& sva = endpoint.host.sva();
  return state.flags != 0 ? sva.enable(endpoint) : sva.disable(endpoint);
}

int bind(Session& session, std::span<uint8_t> data) {
  constexpr uint32_t known = VFIO_SVA_BIND_PID | VFIO_SVA_BIND_EXCLUSIVE;
  vfio_device_feature_sva_bind request{};
  std::memcpy(&request, data.data(), sizeof request);
  const bool byPid = (request.flags & VFIO_SVA_BIND_PID) != 0;
  if ((request.flags & ~known) != 0) return -EINVAL;
  if (byPid && request.pid <= 0) return -ESRCH;
  iommu::Endpoint& endpoint = session.endpoint();
  std::shared_ptr<iommu::Bond> bond;
  const bool exclusive = (request.flags & VFIO_SVA_BIND_EXCLUSIVE) != 0;
  if (const int failed = endpoint.host.sva().bind(endpoint, byPid ? request.pid : 0, exclusive, bond))
    return failed;
  request.pasid = bond->pasid().value_or(VFIO_SVA_NO_PASID);
  request.bond_fd = endpoint.host.install(std::make_shared<BondFile>(endpoint.host, std::move(bond)),
                                          FdKind::readable, O_RDWR | O_CLOEXEC);
  if (request.bond_fd < 0) return request.bond_fd;
  std::memcpy(data.data(), &request, sizeof request);
  return 0;
}

constexpr std::array all = {Feature{.number = VFIO_DEVICE_FEATURE_SVA,
                                    .size = sizeof(vfio_device_feature_sva),
                                    .get = getState,
                                    .set = setState,
                                    .exists = exists},
                            Feature{.number = VFIO_DEVICE_FEATURE_SVA_BIND,
                                    .size = sizeof(vfio_device_feature_sva_bind),
                                    .get = nullptr,
                                    .set = bind,
                                    .setAnswers = true}};

}  // namespace

const std::span<const Feature> sva{all};

}  // namespace vfio::soft::cdev::features
