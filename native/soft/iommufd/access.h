// A user of an address space inside the kernel: what an mdev's driver has instead of page tables, to reach
// the program's memory by IOVA. (The kernel's own test devices are the other user.)
//
// Life: made by its driver in a context, removed by it, never by DESTROY. While it is attached to an IOAS it
// is a user of that; while it has pages pinned, unmapping them calls `unmapped` first, which must give them
// back.
#pragma once

#include <cstdint>
#include <functional>
#include <vector>

#include "object.h"

namespace vfio::soft::iommufd {

class Context;
class Ioas;

class Access final : public Object {
 public:
  static constexpr ObjectKind kKind = ObjectKind::access;
  using Unmapped = std::function<void(uint64_t iova, uint64_t length)>;

  // `pins`: it will pin pages, so its IOAS gets an alignment of a page.
  Access(Context& itsContext, bool pins, Unmapped unmapped);
  ~Access() override;

  // Attaches to an IOAS: 0, -EINVAL (it is attached already), -ENOENT, -EADDRINUSE. `replace` moves an
  // attached one: -ENOENT when it isn't.
  [[nodiscard]] int attach(uint32_t ioasId);
  [[nodiscard]] int replace(uint32_t ioasId);
  void detach();

  // Pins [iova, iova+length) and gives the address of each page: 0, -EINVAL, -EOVERFLOW, -ENOENT (a hole, not
  // attached), -EPERM (read-only), -EFAULT, -ENOMEM.
  [[nodiscard]] int pinPages(uint64_t iova, uint64_t length, bool write, std::vector<uint64_t>& pages);
  void unpinPages(uint64_t iova, uint64_t length);
  // Reads or writes memory by IOVA: 0 or -errno as above.
  [[nodiscard]] int rw(uint64_t iova, void* data, uint64_t length, bool write);

  [[nodiscard]] Ioas* ioas() const { return ioas_; }

 private:
  Context& context_;
  const bool pins_;
  const Unmapped unmapped_;
  Ioas* ioas_ = nullptr;
};

}  // namespace vfio::soft::iommufd
