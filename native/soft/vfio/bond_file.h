// The file of a bond of shared virtual addressing (native/uapi/sva.h): it keeps the bond, and holds what the
// bond was told until the program reads it.
//
// Life: VFIO_DEVICE_FEATURE_SVA_BIND makes it. The last close of its descriptor ends its share of the bond.
#pragma once

#include <deque>
#include <memory>

#include "../../uapi/sva.h"
#include "../core/file.h"
#include "../iommu/sva.h"

namespace vfio::soft {
class Services;
}

namespace vfio::soft::cdev {

class BondFile final : public File, public iommu::BondUser {
 public:
  BondFile(Services& host, std::shared_ptr<iommu::Bond> bond);
  ~BondFile() override;
  BondFile(const BondFile&) = delete;
  BondFile& operator=(const BondFile&) = delete;

  [[nodiscard]] FileKind kind() const override { return FileKind::bond; }
  [[nodiscard]] Calls calls() const override { return {.reads = true, .positions = false}; }
  [[nodiscard]] int ioctl(unsigned long request, UserAddress argument) override;
  // Whole records. 0: there are none. -EINVAL: less room than one takes.
  [[nodiscard]] int64_t read(UserAddress user, size_t size) override;

  // Both work without memory too: a fault that can't be kept is counted.
  void exited() override;
  void unserved(const iommu::PageRequest& request, mm::FaultIn why) override;

 private:
  static constexpr size_t kMostFaults = 1024;
  void showReadable();

  Services& host_;
  const std::shared_ptr<iommu::Bond> bond_;
  std::deque<uapi::vfio_sva_event> faults_;
  uint32_t lost_ = 0;
  bool exit_ = false;  // to be read, after the faults
};

}  // namespace vfio::soft::cdev
