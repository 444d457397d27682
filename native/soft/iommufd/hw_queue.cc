#include "hw_queue.h"

#include <bit>
#include <cerrno>
#include <climits>
#include <vector>

#include "../../uapi/iommufd.h"
#include "../mm/memory.h"
#include "command.h"
#include "viommu.h"
#include "virtual_interface.h"

namespace vfio::soft::iommufd {
namespace {

// The pages that a range lies in.
struct Pages {
  uint64_t first;
  uint64_t length;
};

Pages pagesOf(uint64_t iova, uint64_t length) {
  const uint64_t page = mm::pageSize();
  const uint64_t first = iova / page * page;
  return {first, (iova - first + length + page - 1) / page * page};
}

}  // namespace

HwQueue::HwQueue(Viommu& itsViommu, uint32_t itsIndex, uint64_t itsIova, uint64_t itsLength)
    : Object(kKind), viommu(itsViommu), index(itsIndex), iova(itsIova), length(itsLength) {
  ++viommu.users;
}

HwQueue::~HwQueue() {
  if (joined_) viommu.interface->set(index, nullptr);
  if (before_ != nullptr) --before_->users;
  if (pinned_) {
    const auto [first, size] = pagesOf(iova, length);
    access_->unpinPages(first, size);
  }
  access_.reset();
  --viommu.users;
}

int HwQueue::start() {
  const int error = pin();
  return error != 0 ? error : join();
}

int HwQueue::pin() {
  const auto [first, size] = pagesOf(iova, length);
  if (size < length) return -ERANGE;
  // The kernel lists the pages in one allocation, which can't be larger than this.
  if (size / mm::pageSize() > INT_MAX / sizeof(void*)) return -ENOMEM;
  // The context owns this object, which must not keep it alive.
  const std::shared_ptr<Context> context(std::shared_ptr<void>(), &viommu.context);
  access_ = Access::make(context, true, [](uint64_t, uint64_t) {});
  if (access_ == nullptr) return -EBUSY;
  if (const int error = access_->attach(viommu.parent.ioas.id); error != 0) return error;
  std::vector<uint64_t> pages;
  if (const int error = access_->pinPages(first, size, false, pages); error != 0) return error;
  pinned_ = true;
  access_->lock(first, first + (size - 1));
  for (size_t at = 1; at < pages.size(); ++at) {
    if (pages[at] != pages[at - 1] + mm::pageSize()) return -EFAULT;
  }
  memory = pages.front() + (iova - first);
  return 0;
}

// Checks as the hardware requires: queues are added one after the other, with a size that is a power of two,
// at an aligned address.
int HwQueue::join() {
  VirtualInterface& interface = *viommu.interface;
  if (index >= VirtualInterface::kQueues) return -EINVAL;
  if (interface.queue(index) != nullptr) return -EEXIST;
  HwQueue* const before = index != 0 ? interface.queue(index - 1) : nullptr;
  if (index != 0 && before == nullptr) return -EIO;
  constexpr uint64_t kLeast = 32;
  constexpr uint64_t kMost = uint64_t{1} << (iommu::kMostCommandsLog2 + iommu::kCommandSizeLog2);
  if (!std::has_single_bit(length) || length < kLeast || length > kMost) return -EINVAL;
  if (memory % length != 0) return -EINVAL;
  before_ = before;
  if (before_ != nullptr) ++before_->users;
  interface.set(index, this);
  joined_ = true;
  return 0;
}

int hwQueueAlloc(Command& command) {
  auto& arguments = command.as<uapi::iommu_hw_queue_alloc>();
  Context& context = command.context;
  if (arguments.flags != 0 || arguments.type == uapi::IOMMU_HW_QUEUE_TYPE_DEFAULT) return -EOPNOTSUPP;
  if (arguments.length == 0) return -EINVAL;
  if (arguments.nesting_parent_iova + (arguments.length - 1) < arguments.nesting_parent_iova) {
    return -EOVERFLOW;
  }
  Viommu* const viommu = context.objects.find<Viommu>(arguments.viommu_id);
  if (viommu == nullptr) return -ENOENT;
  if (viommu->interface == nullptr || arguments.type != uapi::IOMMU_HW_QUEUE_TYPE_TEGRA241_CMDQV) {
    return -EOPNOTSUPP;
  }
  HwQueue* const queue = context.objects.create<HwQueue>(*viommu, arguments.index,
                                                         arguments.nesting_parent_iova, arguments.length);
  if (queue == nullptr) return -EBUSY;
  int error = queue->start();
  if (error == 0) {
    arguments.out_hw_queue_id = queue->id;
    error = command.respond(sizeof(arguments));
  }
  if (error != 0) {
    context.objects.abort(*queue);
    return error;
  }
  ObjectTable::publish(*queue);
  return 0;
}

}  // namespace vfio::soft::iommufd
