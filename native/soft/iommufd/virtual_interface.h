// The registers of a virtual IOMMU's command queues (Tegra241's CMDQV): a program maps them, so that its
// guest starts commands without a system call. HW_QUEUE_ALLOC puts queues behind them.
//
// A guest may invalidate by address and by address space, and devices' TLBs; any other command is an error,
// which stops the queue and is reported as an event. Allowed commands are run by the format of the guest's
// tables (iommu/guest_format.h), and so reach the units that may have cached something.
//
// Life: made with its virtual IOMMU and destroyed with it. A mapping of the registers is a user of the
// virtual IOMMU.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <memory>

#include "../core/file.h"
#include "../iommu/command_queues.h"
#include "../iommu/nested.h"

namespace vfio::soft::iommufd {

class Context;
class HwQueue;
class Viommu;

class VirtualInterface {
 public:
  static constexpr size_t kLength = 0x10000;
  static constexpr unsigned kQueues = 1U << iommu::kCommandQueuesLog2;

  // Gives `viommu` one and tells the caller, in its data, what to map: 0, -EINVAL (no such data), -EFAULT.
  [[nodiscard]] static int make(Viommu& viommu, const iommu::UserData& data);
  explicit VirtualInterface(Viommu& viommu);
  ~VirtualInterface();
  VirtualInterface(const VirtualInterface&) = delete;
  VirtualInterface& operator=(const VirtualInterface&) = delete;

  [[nodiscard]] int64_t map(std::shared_ptr<Context> context, void* hint, int flags);

  // Adds a queue, with its registers at their initial values; or removes it (null).
  void set(unsigned index, HwQueue* queue);
  [[nodiscard]] HwQueue* queue(unsigned index) const { return registers_[index].queue; }

 private:
  struct Registers {
    HwQueue* queue = nullptr;
    uint32_t consumer = 0;  // with the reason of an error in bits 30:24
    uint32_t producer = 0;
    bool enabled = false;
    uint32_t error = 0;  // a queue is in error while these two differ
    uint32_t acknowledged = 0;
  };
  [[nodiscard]] uint32_t read(uint64_t offset) const;
  void write(uint64_t offset, uint32_t value);
  void run(unsigned index);

  Viommu& viommu_;
  uint64_t offset_ = 0;
  std::array<Registers, kQueues> registers_;
};

}  // namespace vfio::soft::iommufd
