// A stretch of memory that an address space refers to, shared by all the areas that show parts of it: made
// by MAP (of the program's memory) or MAP_FILE (of a memfd), shared by COPY and by cutting an area in two.
//
// Pages are pinned once, however many areas show them: each page from the first area that a page table or a
// user inside the kernel needs it for until the last. The pinned pages are charged to the payer that the
// object was made for; they are counted per pages object, not per area. A file's pages are mapped by the
// object itself, so the caller may unmap them and close the file.
//
// Life: counted references, one per area (and one for whoever is making an area).
#pragma once

#include <cstdint>
#include <memory>

#include "../core/span_tree.h"
#include "../mm/memory.h"

namespace vfio::soft::iommufd {

class Pages {
 public:
  // 0 and a first reference, or -EINVAL, -EOVERFLOW. Nothing is looked at yet.
  [[nodiscard]] static int make(uint64_t user, uint64_t length, bool writable, mm::Payer payer, Pages*& out);
  // The same for `length` bytes from `start` on in an open file. A file that is no memfd can't be pinned;
  // only the pinning reports that.
  [[nodiscard]] static int makeFile(int fd, uint64_t start, uint64_t length, bool writable, mm::Payer payer,
                                    Pages*& out);
  void ref() { ++references_; }
  void unref() {
    if (--references_ == 0) delete this;
  }

  // Where the memory is: page aligned. A file's memory is where this object mapped it, as aligned as in the
  // file (up to the largest pages).
  [[nodiscard]] uint64_t user() const { return user_; }
  [[nodiscard]] bool writable() const { return writable_; }
  [[nodiscard]] bool ofFile() const { return file_; }

  // Pins the pages of a range within, given by its address, for one more user: 0; or -EFAULT (-EINVAL if
  // they are a file's), -ENOMEM (above the payer's limit), and nothing is pinned.
  [[nodiscard]] int pin(mm::Memory& memory, uint64_t user, uint64_t length);
  void unpin(mm::Memory& memory, uint64_t user, uint64_t length);
  // Could these pages be pinned now? 0 or as above; nothing is charged.
  [[nodiscard]] int reach(mm::Memory& memory, uint64_t user, uint64_t length) const;

 private:
  using Counts = SpanTree<uint32_t>;  // users by page number

  Pages(uint64_t user, uint64_t count, bool writable, mm::Payer payer)
      : user_(user), count_(count), writable_(writable), payer_(payer) {}
  ~Pages();
  // Both count the pages.
  [[nodiscard]] int pinUncounted(mm::Memory& memory, uint64_t first, uint64_t last, uint64_t& pages) const;
  uint64_t unpinUncounted(mm::Memory& memory, uint64_t first, uint64_t last) const;

  uint64_t user_;
  const uint64_t count_;  // of pages
  uint32_t references_ = 1;
  // Nearly always all pages have the same few users. Users of all pages are counted here, users of other
  // ranges in a tree: a page has whole_ + (its count in *parts_) users.
  uint32_t whole_ : 27 = 0;
  uint32_t writable_ : 1;
  uint32_t file_ : 1 = 0;
  uint32_t mapped_ : 1 = 0;  // the file's pages are at user_
  mm::Payer payer_ : 2;
  std::unique_ptr<Counts> parts_;
};

}  // namespace vfio::soft::iommufd
