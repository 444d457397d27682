#include "pages.h"

#include <cerrno>

namespace vfio::soft::iommufd {

int Pages::make(uint64_t user, uint64_t length, bool writable, mm::Payer payer, Pages*& out) {
  const uint64_t page = mm::pageSize();
  if (length == 0 || length > UINT64_MAX - page) return -EINVAL;
  if (user + length < user) return -EOVERFLOW;
  const uint64_t start = user & ~(page - 1);
  const uint64_t bytes = length + (user - start);
  out = new Pages(start, bytes / page + (bytes % page != 0 ? 1 : 0), writable, payer);
  return 0;
}

// Pins those of the pages [first, last] that have no users yet, by the present counts.
int Pages::pinUncounted(mm::Memory& memory, uint64_t first, uint64_t last, uint64_t& pages) const {
  pages = 0;
  if (whole_ != 0) return 0;
  if (file_ != 0 && mapped_ == 0) return -EINVAL;
  const uint64_t page = mm::pageSize();
  const auto refused = [&](uint64_t from, uint64_t to, int error) {
    if (error == -ENOMEM) return error;
    return file_ != 0 ? -EINVAL : mm::Memory::pinError(user_ + from * page, to - from + 1);
  };
  if (parts_ == nullptr) {
    pages = last - first + 1;
    const int error = memory.pin(user_ + first * page, pages * page, writable_);
    return error == 0 ? 0 : refused(first, last, error);
  }
  uint64_t failed = 0;
  int error = 0;
  const bool stopped = parts_->firstGap(first, last, 1, [&](uint64_t from, uint64_t to) {
    failed = from;
    pages += to - from + 1;
    error = memory.pin(user_ + from * page, (to - from + 1) * page, writable_);
    return error != 0;
  });
  if (!stopped) return 0;
  if (failed != first) (void)unpinUncounted(memory, first, failed - 1);
  return refused(failed, last, error);
}

uint64_t Pages::unpinUncounted(mm::Memory& memory, uint64_t first, uint64_t last) const {
  if (whole_ != 0) return 0;
  const uint64_t page = mm::pageSize();
  if (parts_ == nullptr) {
    memory.unpin(user_ + first * page, (last - first + 1) * page);
    return last - first + 1;
  }
  uint64_t pages = 0;
  parts_->firstGap(first, last, 1, [&](uint64_t from, uint64_t to) {
    memory.unpin(user_ + from * page, (to - from + 1) * page);
    pages += to - from + 1;
    return false;
  });
  return pages;
}

int Pages::reach(mm::Memory& memory, uint64_t user, uint64_t length) const {
  const uint64_t first = (user - user_) / mm::pageSize();
  const uint64_t last = (user - user_ + (length - 1)) / mm::pageSize();
  uint64_t pages = 0;
  if (const int error = pinUncounted(memory, first, last, pages); error != 0) return error;
  (void)unpinUncounted(memory, first, last);
  return 0;
}

namespace {

// Makes `at` the first page of a run.
void split(SpanTree<uint32_t>& counts, uint64_t at) {
  const auto* const found = counts.find(at, at);
  if (found == nullptr || found->start == at) return;
  const auto run = *found;
  counts.erase(run.start);
  counts.insert(run.start, at - 1, run.value);
  counts.insert(at, run.last, run.value);
}

}  // namespace

int Pages::pin(mm::Memory& memory, uint64_t user, uint64_t length) {
  const uint64_t first = (user - user_) / mm::pageSize();
  const uint64_t last = (user - user_ + (length - 1)) / mm::pageSize();
  uint64_t pages = 0;
  if (const int error = pinUncounted(memory, first, last, pages); error != 0) return error;
  // In this order: the error of pinning is reported before that of the payer's limit.
  if (pages != 0) {
    if (const int error = memory.charges.add(payer_, pages); error != 0) {
      (void)unpinUncounted(memory, first, last);
      return error;
    }
  }
  if (first == 0 && last == count_ - 1) {
    ++whole_;
    return 0;
  }
  if (parts_ == nullptr) parts_ = std::make_unique<Counts>();
  split(*parts_, first);
  split(*parts_, last + 1);
  for (uint64_t next = first;;) {
    auto* const run = parts_->find(next, last);
    if (run != nullptr && run->start == next) {
      ++run->value;
      if (run->last == last) return 0;
      next = run->last + 1;
      continue;
    }
    const uint64_t end = run == nullptr ? last : run->start - 1;
    parts_->insert(next, end, 1);
    if (end == last) return 0;
    next = end + 1;
  }
}

void Pages::unpin(mm::Memory& memory, uint64_t user, uint64_t length) {
  const uint64_t first = (user - user_) / mm::pageSize();
  const uint64_t last = (user - user_ + (length - 1)) / mm::pageSize();
  if (first == 0 && last == count_ - 1 && whole_ != 0) {
    --whole_;
  } else if (parts_ != nullptr) {
    split(*parts_, first);
    split(*parts_, last + 1);
    for (auto* run = parts_->find(first, last); run != nullptr;) {
      const uint64_t end = run->last;
      if (--run->value == 0) parts_->erase(run->start);
      run = end == last ? nullptr : parts_->find(end + 1, last);
    }
    if (parts_->empty()) parts_.reset();
  }
  if (const uint64_t pages = unpinUncounted(memory, first, last); pages != 0) {
    memory.charges.remove(payer_, pages);
  }
}

}  // namespace vfio::soft::iommufd
