// A stretch of the process's memory as an address space refers to it, shared by all the areas that show parts
// of it: made by MAP, shared by COPY and by cutting an area in two.
//
// Pages are pinned once, however many areas show them: each page from the first area that a page table needs
// it for until the last. What is charged is a matter of pages objects, not of areas.
//
// Life: counted references, one per area (and one for whoever is making an area).
#pragma once

#include <cstdint>
#include <memory>

#include "../mm/memory.h"
#include "../mm/span_tree.h"

namespace vfio::soft::iommufd {

// Who pays for pinned pages. The modes are kept per file and can be read and set; nothing is charged yet.
enum class AccountMode : uint8_t { user, mm };

class Pages {
 public:
  // 0 and a first reference, or -EINVAL, -EOVERFLOW.
  [[nodiscard]] static int make(uint64_t user, uint64_t length, bool writable, Pages*& out);
  void ref() { ++references_; }
  void unref() {
    if (--references_ == 0) delete this;
  }

  [[nodiscard]] uint64_t user() const { return user_; }
  [[nodiscard]] bool writable() const { return writable_; }

  // Of bytes counted from user(): pins the pages they are in, for one more user: 0, or -EFAULT and nothing is
  // pinned.
  [[nodiscard]] int pin(mm::Memory& memory, uint64_t startByte, uint64_t length);
  void unpin(mm::Memory& memory, uint64_t startByte, uint64_t length);
  // Could these pages be pinned now? 0 or -EFAULT.
  [[nodiscard]] int reach(mm::Memory& memory, uint64_t startByte, uint64_t length) const;

 private:
  using Counts = mm::SpanTree<uint32_t>;  // users by page number

  Pages(uint64_t user, uint64_t count, bool writable) : user_(user), count_(count), writable_(writable) {}
  [[nodiscard]] int pinUncounted(mm::Memory& memory, uint64_t first, uint64_t last) const;
  void unpinUncounted(mm::Memory& memory, uint64_t first, uint64_t last) const;

  const uint64_t user_;   // page aligned
  const uint64_t count_;  // of pages
  uint32_t references_ = 1;
  // Nearly always all pages are wanted by one area or a few, so that is counted here, and only other ranges
  // in a tree: a page has whole_ + (its count in *parts_) users.
  uint32_t whole_ : 31 = 0;
  uint32_t writable_ : 1;
  std::unique_ptr<Counts> parts_;
};

}  // namespace vfio::soft::iommufd
