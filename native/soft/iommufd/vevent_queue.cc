#include "vevent_queue.h"

#include <fcntl.h>

#include <cerrno>
#include <climits>
#include <utility>

#include "../../uapi/iommufd.h"
#include "../../uapi/iommufd_data.h"
#include "../core/services.h"
#include "../mm/memory.h"
#include "command.h"
#include "viommu.h"

namespace vfio::soft::iommufd {

// ---------------------------------------------------------------- the file

VeventFile::VeventFile(std::shared_ptr<Context> context, VeventQueue& queue)
    : context_(std::move(context)), queue_(&queue) {
  ++queue.users;
  queue.file_ = this;
}

VeventFile::~VeventFile() {
  if (queue_ == nullptr) return;
  queue_->file_ = nullptr;
  --queue_->users;
}

int64_t VeventFile::read(UserAddress user, size_t size) { return queue_->read(user, size); }

// ---------------------------------------------------------------- the queue

VeventQueue::VeventQueue(Viommu& itsViommu, uint32_t itsType, uint32_t itsDepth)
    : Object(kKind), viommu(itsViommu), type(itsType), depth_(itsDepth) {
  ++viommu.users;
  viommu.queues.push_back(this);
}

VeventQueue::~VeventQueue() {
  if (file_ != nullptr) file_->queue_ = nullptr;
  std::erase(viommu.queues, this);
  --viommu.users;
}

void VeventQueue::showReadable() {
  if (file_ != nullptr) viommu.context.host.setReadable(*file_, !events_.empty() || lost_.has_value());
}

void VeventQueue::report(const void* data, size_t size) {
  const uint32_t number = next_;
  next_ = (next_ + 1) & INT_MAX;
  if (events_.size() == depth_) {
    lost_ = number;
  } else {
    lost_.reset();
    const auto* const bytes = static_cast<const unsigned char*>(data);
    events_.push_back({number, {bytes, bytes + size}});
  }
  showReadable();
}

// Reads whole records only. Kernels without the fixes report no error for a buffer that is too small, and
// count a header whose event could not be copied.
int64_t VeventQueue::read(UserAddress user, size_t size) {
  constexpr size_t kHeader = sizeof(uapi::iommufd_vevent_header);
  const bool fixed = hasFixesOf2026(viommu.context.host.options().kernel);
  if (fixed && size < kHeader) return -EINVAL;
  size_t done = 0;
  int error = 0;
  while (error == 0 && (!events_.empty() || lost_)) {
    uapi::iommufd_vevent_header header = {};
    const bool lost = events_.empty();
    const size_t length = kHeader + (lost ? 0 : events_.front().data.size());
    if (length > size - done) {
      if (done == 0 && fixed) error = -EINVAL;
      break;
    }
    header.flags = lost ? uapi::IOMMU_VEVENTQ_FLAG_LOST_EVENTS : 0;
    header.sequence = lost ? *lost_ : events_.front().number;
    error = mm::Memory::copyOut(user + done, &header, kHeader);
    if (error == 0 && !lost) {
      error = mm::Memory::copyOut(user + done + kHeader, events_.front().data.data(), length - kHeader);
      if (error != 0 && !fixed) done += kHeader;
    }
    if (error != 0) break;
    done += length;
    if (lost) {
      lost_.reset();
    } else {
      events_.pop_front();
    }
  }
  showReadable();
  return done == 0 ? error : static_cast<int64_t>(done);
}

// ---------------------------------------------------------------- the command

int veventqAlloc(Command& command) {
  auto& arguments = command.as<uapi::iommu_veventq_alloc>();
  Context& context = command.context;
  if (arguments.flags != 0 || arguments.__reserved != 0 ||
      arguments.type == uapi::IOMMU_VEVENTQ_TYPE_DEFAULT) {
    return -EOPNOTSUPP;
  }
  constexpr uint32_t kMostEvents = 1U << 19;
  const bool bounded = hasFixesOf2026(context.host.options().kernel);
  if (arguments.veventq_depth == 0 || (bounded && arguments.veventq_depth > kMostEvents)) return -EINVAL;
  Viommu* const viommu = context.objects.find<Viommu>(arguments.viommu_id);
  if (viommu == nullptr) return -ENOENT;
  // The type is not checked: a queue of a type that the unit doesn't report stays empty.
  for (const VeventQueue* const queue : viommu->queues) {
    if (queue->type == arguments.type) return -EEXIST;
  }
  VeventQueue* const queue =
      context.objects.create<VeventQueue>(*viommu, arguments.type, arguments.veventq_depth);
  if (queue == nullptr) return -EBUSY;
  const int fd = context.host.install(std::make_shared<VeventFile>(context.shared_from_this(), *queue),
                                      FdKind::readable, O_RDWR | O_CLOEXEC);
  int error = fd < 0 ? fd : 0;
  if (error == 0) {
    arguments.out_veventq_id = queue->id;
    arguments.out_veventq_fd = static_cast<uint32_t>(fd);
    error = command.respond(sizeof(arguments));
    if (error != 0) context.host.uninstall(fd);
  }
  if (error != 0) {
    context.objects.abort(*queue);
    return error;
  }
  ObjectTable::publish(*queue);
  return 0;
}

}  // namespace vfio::soft::iommufd
