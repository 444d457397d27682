// A guest's queue that hardware reads by itself: its memory is pinned in the nest parent's address space, and
// can't be unmapped there.
//
// Hardware uses physical addresses, so the memory has to be contiguous. A software host's physical addresses
// are those of the process.
//
// Life: made by HW_QUEUE_ALLOC, stays until DESTROY. It is a user of its virtual IOMMU, and of the queue
// before it, so queues are destroyed in the reverse order.
#pragma once

#include <cstdint>

#include "access.h"
#include "object.h"

namespace vfio::soft::iommufd {

class Viommu;

class HwQueue final : public Object {
 public:
  static constexpr ObjectKind kKind = ObjectKind::hwQueue;
  HwQueue(Viommu& itsViommu, uint32_t itsIndex, uint64_t itsIova, uint64_t itsLength);
  ~HwQueue() override;

  // Pins the memory and puts the queue into the interface: 0 or -errno.
  [[nodiscard]] int start();

  Viommu& viommu;
  const uint32_t index;
  const uint64_t iova;
  const uint64_t length;
  uint64_t memory = 0;

 private:
  [[nodiscard]] int pin();
  [[nodiscard]] int join();

  Access::Handle access_;
  bool pinned_ = false;
  bool joined_ = false;
  HwQueue* before_ = nullptr;
};

}  // namespace vfio::soft::iommufd
