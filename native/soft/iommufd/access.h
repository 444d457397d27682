// A user of an address space inside the kernel: an mdev's driver uses it instead of page tables to reach the
// program's memory by IOVA. (The kernel's own test devices are the other user.)
//
// Life: made by its driver in a context, which it keeps alive; removed by dropping the handle, never by
// DESTROY. While it is attached to an IOAS it is a user of that IOAS. While it has pages pinned, an
// unmapping of these pages calls `unmapped` first, which must unpin them; if it doesn't, the unmapping is
// tried again, a hundred times. `unmapped` is also called, for all addresses, when the access leaves an
// IOAS.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <vector>

#include "../iommu/endpoint.h"
#include "object.h"

namespace vfio::soft::iommufd {

class Context;
class Ioas;

class Access final : public Object {
 public:
  static constexpr ObjectKind kKind = ObjectKind::access;
  using Unmapped = std::function<void(uint64_t iova, uint64_t length)>;

  struct Release {
    std::shared_ptr<Context> context;
    void operator()(Access* access) const;
  };
  using Handle = std::unique_ptr<Access, Release>;

  // `pins`: it will pin pages, so its IOAS gets an alignment of a page. Null: no id is free (-EBUSY).
  [[nodiscard]] static Handle make(std::shared_ptr<Context> context, bool pins, Unmapped unmapped);

  // Attaches to an IOAS: 0, -EINVAL (it is attached already), -ENOENT, -EADDRINUSE (an area mapped there
  // doesn't fit the alignment).
  [[nodiscard]] int attach(uint32_t ioasId);
  // Moves to another IOAS, or changes nothing: as above, and -ENOENT when it isn't attached.
  [[nodiscard]] int replace(uint32_t ioasId);
  void detach();  // not attached: no-op

  // Pins [iova, iova+length) and gives the address of each page: 0, -EINVAL (it doesn't start at a page, is
  // being unmapped, or the access was not made to pin), -EOVERFLOW, -ENOENT (a hole, not attached), -EPERM
  // (mapped without this right), -EFAULT, -ENOMEM. Unpinning must name exactly the ranges that were pinned.
  [[nodiscard]] int pinPages(uint64_t iova, uint64_t length, bool write, std::vector<uint64_t>& pages);
  void unpinPages(uint64_t iova, uint64_t length);
  // Copies between `data` and the memory at `iova`: 0 or -errno as above, with some bytes copied. `pinning`
  // reaches pages as a device would, instead of as the program.
  [[nodiscard]] int rw(uint64_t iova, void* data, uint64_t length, bool write, bool pinning = false);

  // From here on pages that it has pinned in [iova, last] can't be unmapped (-EBUSY).
  void lock(uint64_t iova, uint64_t last) { locked_ = iommu::Range{iova, last}; }
  [[nodiscard]] bool locks(uint64_t iova, uint64_t last) const {
    return locked_ && locked_->start <= last && iova <= locked_->last;
  }

  [[nodiscard]] Ioas* ioas() const { return ioas_; }
  [[nodiscard]] uint64_t alignment() const;
  void notifyUnmapped(uint64_t iova, uint64_t length) const { unmapped_(iova, length); }

  Access(Context& context, bool pins, Unmapped unmapped);  // for `make`
  ~Access() override;

 private:
  [[nodiscard]] int change(uint32_t ioasId);
  [[nodiscard]] int change(Ioas* fresh);

  Context& context_;
  const bool pins_;
  const Unmapped unmapped_;
  Ioas* ioas_ = nullptr;    // null as soon as it starts to leave, so that nothing is newly pinned
  Ioas* pinned_ = nullptr;  // until everything is unpinned
  std::optional<iommu::Range> locked_;
};

}  // namespace vfio::soft::iommufd
