#include "bond_file.h"

#include <cerrno>
#include <new>
#include <utility>

#include "../core/services.h"
#include "../mm/memory.h"

namespace vfio::soft::cdev {

using namespace uapi;

namespace {

uint32_t reasonOf(mm::FaultIn why) {
  switch (why) {
    case mm::FaultIn::noArea:
      return VFIO_SVA_FAULT_NO_AREA;
    case mm::FaultIn::notPermitted:
      return VFIO_SVA_FAULT_NOT_PERMITTED;
    case mm::FaultIn::ended:
      return VFIO_SVA_FAULT_EXITED;
    case mm::FaultIn::done:
    case mm::FaultIn::noMemory:
      break;
  }
  return VFIO_SVA_FAULT_NO_MEMORY;
}

}  // namespace

BondFile::BondFile(Services& host, std::shared_ptr<iommu::Bond> bond) : host_(host), bond_(std::move(bond)) {
  bond_->join(*this);
  if (bond_->hasExited()) exited();
}

BondFile::~BondFile() { bond_->leave(*this); }

int BondFile::ioctl(unsigned long request, UserAddress argument) {
  if (request != VFIO_SVA_BOND_INFO) return -ENOTTY;
  vfio_sva_bond_info info{};
  if (mm::Memory::copyIn(&info, argument, sizeof info.argsz) != 0) return -EFAULT;
  if (info.argsz < sizeof info) return -EINVAL;
  info.flags =
      (bond_->hasExited() ? VFIO_SVA_BOND_EXITED : 0) | (bond_->isDetached() ? VFIO_SVA_BOND_DETACHED : 0);
  info.pasid = bond_->pasid().value_or(VFIO_SVA_NO_PASID);
  return mm::Memory::copyOut(argument, &info, sizeof info);
}

int64_t BondFile::read(UserAddress user, size_t size) {
  if (size < sizeof(vfio_sva_event)) return -EINVAL;
  size_t done = 0;
  while ((!faults_.empty() || exit_) && size - done >= sizeof(vfio_sva_event)) {
    const vfio_sva_event event =
        !faults_.empty() ? faults_.front()
                         : vfio_sva_event{.type = VFIO_SVA_EVENT_EXIT, .pasid = VFIO_SVA_NO_PASID};
    if (mm::Memory::copyOut(user + done, &event, sizeof event) != 0) {
      if (done == 0) return -EFAULT;
      break;
    }
    done += sizeof event;
    if (!faults_.empty()) {
      faults_.pop_front();
    } else {
      exit_ = false;
    }
  }
  showReadable();
  return static_cast<int64_t>(done);
}

void BondFile::showReadable() { host_.setReadable(*this, !faults_.empty() || exit_); }

void BondFile::exited() {
  exit_ = true;
  showReadable();
}

void BondFile::unserved(const iommu::PageRequest& request, mm::FaultIn why) {
  const vfio_sva_event event{.type = VFIO_SVA_EVENT_FAULT,
                             .pasid = request.pasid.value_or(VFIO_SVA_NO_PASID),
                             .address = request.address,
                             .perm = request.permissions,
                             .group = request.group,
                             .reason = reasonOf(why),
                             .lost = lost_};
  bool kept = faults_.size() < kMostFaults;
  try {
    if (kept) faults_.push_back(event);
  } catch (const std::bad_alloc&) {
    kept = false;
  }
  lost_ = kept ? 0 : lost_ + 1;
  showReadable();
}

}  // namespace vfio::soft::cdev
