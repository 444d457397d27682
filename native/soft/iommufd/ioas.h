// The IOAS object: an address space that devices can be attached to, and the page tables made from it.
#pragma once

#include <vector>

#include "io_pagetable.h"
#include "object.h"

namespace vfio::soft::iommufd {

class PagingHwpt;

class Ioas final : public Object {
 public:
  static constexpr ObjectKind kKind = ObjectKind::ioas;
  explicit Ioas(mm::Memory& memory) : Object(kKind), table(memory) {}

  IoPagetable table;
  std::vector<PagingHwpt*> hwpts;  // in the order of their creation
};

}  // namespace vfio::soft::iommufd
