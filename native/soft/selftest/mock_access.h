// The kernel's mock access: an in-kernel user of an address space, which a program controls by a descriptor,
// and the ranges that it has pinned.
//
// Life: the test-only command makes this file; its last close releases the pages and the access. It keeps the
// context after /dev/iommu is closed, as every access does.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "../core/file.h"
#include "../iommufd/access.h"
#include "../iommufd/context.h"

namespace vfio::soft::selftest {

class MockAccess final : public File {
 public:
  // Null: no id is free.
  [[nodiscard]] static std::shared_ptr<MockAccess> make(const std::shared_ptr<iommufd::Context>& context,
                                                        bool pins);
  ~MockAccess() override { release(); }
  // Releases the access. The last close calls it.
  void release();

  // Pins a range and gives it a number, the item: 0 or -errno. If `user` isn't 0, the pages must be those at
  // that user address, else -EBADE.
  [[nodiscard]] int pin(uint64_t iova, uint64_t length, uint64_t user, bool write, uint32_t& item);
  // Unpins the range with that number: 0 or -ENOENT.
  [[nodiscard]] int giveBack(uint32_t item);

  [[nodiscard]] iommufd::Access& access() { return *access_; }
  [[nodiscard]] bool pins() const { return pins_; }

 private:
  struct Item {
    uint32_t id;
    uint64_t iova;
    uint64_t length;
  };
  [[nodiscard]] int compare(uint64_t iova, uint64_t user, const std::vector<uint64_t>& pages);
  void unmapped(uint64_t iova, uint64_t length);

  iommufd::Access::Handle access_;
  mm::Memory* memory_ = nullptr;
  bool pins_ = false;
  std::vector<Item> items_;
  uint32_t nextItem_ = 0;
};

}  // namespace vfio::soft::selftest
