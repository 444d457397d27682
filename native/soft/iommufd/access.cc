#include "access.h"

#include <utility>

#include "../mm/memory.h"
#include "context.h"
#include "ioas.h"

namespace vfio::soft::iommufd {

Access::Access(Context& context, bool pins, Unmapped unmapped)
    : Object(kKind), context_(context), pins_(pins), unmapped_(std::move(unmapped)) {}

Access::~Access() { (void)change(nullptr); }

Access::Handle Access::make(std::shared_ptr<Context> context, bool pins, Unmapped unmapped) {
  Access* const access = context->objects.create<Access>(*context, pins, std::move(unmapped));
  if (access == nullptr) return {};
  ++access->users;  // the driver
  ObjectTable::publish(*access);
  return Handle(access, Release{std::move(context)});
}

void Access::Release::operator()(Access* access) const {
  --access->users;
  (void)context->remove(access->id);
}

uint64_t Access::alignment() const { return pins_ ? mm::pageSize() : 1; }

int Access::change(Ioas* fresh) {
  Ioas* const old = ioas_;
  if (old != pinned_) return -EBUSY;  // called from `unmapped`, while the access leaves
  if (old == fresh) return 0;
  ioas_ = nullptr;
  if (fresh != nullptr) {
    if (const int error = fresh->table.addAccess(*this); error != 0) {
      ioas_ = old;
      return error;
    }
    ++fresh->users;
  }
  if (old != nullptr) {
    unmapped_(0, UINT64_MAX);
    old->table.removeAccess(*this);
    --old->users;
  }
  ioas_ = fresh;
  pinned_ = fresh;
  return 0;
}

int Access::change(uint32_t ioasId) {
  Ioas* const ioas = context_.objects.find<Ioas>(ioasId);
  return ioas == nullptr ? -ENOENT : change(ioas);
}

int Access::attach(uint32_t ioasId) { return ioas_ != nullptr ? -EINVAL : change(ioasId); }

int Access::replace(uint32_t ioasId) { return ioas_ == nullptr ? -ENOENT : change(ioasId); }

void Access::detach() { (void)change(nullptr); }

int Access::pinPages(uint64_t iova, uint64_t length, bool write, std::vector<uint64_t>& pages) {
  if (!pins_ || length == 0) return -EINVAL;
  if (iova + (length - 1) < iova) return -EOVERFLOW;
  if (ioas_ == nullptr) return -ENOENT;
  return ioas_->table.pinForAccess(iova, iova + (length - 1), write, pages);
}

void Access::unpinPages(uint64_t iova, uint64_t length) {
  if (length == 0 || iova + (length - 1) < iova || pinned_ == nullptr) return;
  pinned_->table.unpinForAccess(iova, iova + (length - 1));
}

int Access::rw(uint64_t iova, void* data, uint64_t length, bool write, bool pinning) {
  if (length == 0) return -EINVAL;
  if (iova + (length - 1) < iova) return -EOVERFLOW;
  if (ioas_ == nullptr) return -ENOENT;
  return ioas_->table.copyForAccess(iova, iova + (length - 1), static_cast<unsigned char*>(data), write,
                                    pinning);
}

}  // namespace vfio::soft::iommufd
