#include "fault_queue.h"

#include <fcntl.h>

#include <cerrno>
#include <utility>

#include "../../uapi/iommufd.h"
#include "../../uapi/iommufd_data.h"
#include "../core/services.h"
#include "../iommu/endpoint.h"
#include "../mm/memory.h"
#include "command.h"
#include "device.h"

namespace vfio::soft::iommufd {

// ---------------------------------------------------------------- the file

FaultFile::FaultFile(std::shared_ptr<Context> context, FaultQueue& queue)
    : context_(std::move(context)), queue_(&queue) {
  ++queue.users;
  queue.file_ = this;
}

FaultFile::~FaultFile() {
  if (queue_ == nullptr) return;
  queue_->file_ = nullptr;
  --queue_->users;
}

int64_t FaultFile::read(UserAddress user, size_t size) { return queue_->read(user, size); }

int64_t FaultFile::write(UserAddress user, size_t size) { return queue_->write(user, size); }

// ---------------------------------------------------------------- the queue

FaultQueue::~FaultQueue() {
  if (file_ != nullptr) file_->queue_ = nullptr;
  for (const Group& group : waiting_) answer(group, iommu::PageResponse::invalid);
  for (const auto& [cookie, group] : read_) answer(group, iommu::PageResponse::invalid);
}

void FaultQueue::answer(const Group& group, iommu::PageResponse response) {
  group.from->requests.respond(group.requests.back().group, response);
}

void FaultQueue::showReadable() {
  if (file_ != nullptr) host_.setReadable(*file_, !waiting_.empty());
}

void FaultQueue::report(const Attach& via, iommu::Endpoint& from, std::vector<iommu::PageRequest> requests) {
  waiting_.push_back({&via, &from, std::move(requests)});
  showReadable();
}

void FaultQueue::refuse(const Attach& via) {
  waiting_.remove_if([&via](const Group& group) {
    if (group.via != &via) return false;
    answer(group, iommu::PageResponse::invalid);
    return true;
  });
  std::erase_if(read_, [&via](const auto& entry) {
    if (entry.second.via != &via) return false;
    answer(entry.second, iommu::PageResponse::invalid);
    return true;
  });
  showReadable();
}

void FaultQueue::forget(const iommu::Endpoint& from) {
  std::erase_if(waiting_, [&from](const Group& group) { return group.from == &from; });
  std::erase_if(read_, [&from](const auto& entry) { return entry.second.from == &from; });
  showReadable();
}

// The lowest free cookie. Cookies begin at 1, but see `write`.
uint32_t FaultQueue::freeCookie() const {
  uint32_t cookie = zeroIsFree_ ? 0 : 1;
  for (const auto& [taken, group] : read_) {
    if (taken != cookie) break;
    ++cookie;
  }
  return cookie;
}

int64_t FaultQueue::read(UserAddress user, size_t size) {
  constexpr size_t kRecord = sizeof(uapi::iommu_hwpt_pgfault);
  if (size % kRecord != 0) return -ESPIPE;
  size_t done = 0;
  int error = 0;
  while (!waiting_.empty()) {
    const Group& group = waiting_.front();
    if (group.requests.size() * kRecord > size - done) {
      if (done == 0 && hasFixesOf2026(host_.options().kernel)) error = -EINVAL;
      break;
    }
    const uint32_t cookie = freeCookie();
    size_t at = done;
    for (const iommu::PageRequest& request : group.requests) {
      uapi::iommu_hwpt_pgfault record = {};
      if (request.pasid) record.flags |= uapi::IOMMU_PGFAULT_FLAGS_PASID_VALID;
      if (request.last) record.flags |= uapi::IOMMU_PGFAULT_FLAGS_LAST_PAGE;
      record.dev_id = group.via->reporter->id;
      record.pasid = request.pasid.value_or(0);
      record.grpid = request.group;
      record.perm = request.permissions;
      record.addr = request.address;
      record.cookie = cookie;
      error = mm::Memory::copyOut(user + at, &record, kRecord);
      if (error != 0) break;
      at += kRecord;
    }
    if (error != 0) break;
    done = at;
    read_.emplace(cookie, std::move(waiting_.front()));
    waiting_.pop_front();
  }
  showReadable();
  return done == 0 ? error : static_cast<int64_t>(done);
}

int64_t FaultQueue::write(UserAddress user, size_t size) {
  constexpr size_t kResponse = sizeof(uapi::iommu_hwpt_page_response);
  if (size % kResponse != 0) return -ESPIPE;
  size_t done = 0;
  int error = 0;
  for (; done < size; done += kResponse) {
    uapi::iommu_hwpt_page_response response = {};
    error = mm::Memory::copyIn(&response, user + done, kResponse);
    if (error != 0) break;
    const bool known =
        response.code == uapi::IOMMUFD_PAGE_RESP_SUCCESS || response.code == uapi::IOMMUFD_PAGE_RESP_INVALID;
    // In the kernel an entry in its table keeps cookie 0 from being given out. The entry exists while others
    // do, and an answer to 0 removes it for good.
    if (known && response.cookie == 0 && !read_.empty()) zeroIsFree_ = true;
    const auto found = known ? read_.find(response.cookie) : read_.end();
    if (found == read_.end()) {
      error = -EINVAL;
      break;
    }
    const Group group = std::move(found->second);
    read_.erase(found);
    answer(group, static_cast<iommu::PageResponse>(response.code));
  }
  return done == 0 ? error : static_cast<int64_t>(done);
}

// ---------------------------------------------------------------- the command

int faultQueueAlloc(Command& command) {
  auto& arguments = command.as<uapi::iommu_fault_alloc>();
  if (arguments.flags != 0) return -EOPNOTSUPP;
  Context& context = command.context;
  FaultQueue* const queue = context.objects.create<FaultQueue>(context.host);
  if (queue == nullptr) return -EBUSY;
  const int fd = context.host.install(std::make_shared<FaultFile>(context.shared_from_this(), *queue),
                                      FdKind::pollable, O_RDWR | O_CLOEXEC);
  int error = fd < 0 ? fd : 0;
  if (error == 0) {
    arguments.out_fault_id = queue->id;
    arguments.out_fault_fd = static_cast<uint32_t>(fd);
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
