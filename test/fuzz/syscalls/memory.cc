#include "memory.h"

#include <sys/mman.h>
#include <unistd.h>

#include <cstdlib>

namespace vfio::soft::fuzz {
namespace {

constexpr size_t kAround = size_t{64} << 30;  // unused addresses on each side
constexpr int kAnonymous = MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE;

}  // namespace

ProgramMemory::ProgramMemory() : memfd_(memfd_create("fuzz", MFD_CLOEXEC)) {
  void* const all = mmap(nullptr, 2 * kAround + kPages * kPage, PROT_NONE, kAnonymous, -1, 0);
  if (all == MAP_FAILED || memfd_ < 0) abort();
  base_ = static_cast<char*>(all) + kAround;
}

void ProgramMemory::reset() {
  gone_.clear();
  if (ftruncate(memfd_, 0) != 0 || ftruncate(memfd_, 16 * kPage) != 0) abort();
  const auto put = [&](size_t first, size_t pages, int protection, int flags, int fd) {
    if (mmap(page(first), pages * kPage, protection, flags | MAP_FIXED, fd, 0) == MAP_FAILED) abort();
  };
  put(0, kWritable, PROT_READ | PROT_WRITE, kAnonymous, -1);
  put(kReadOnly, 8, PROT_READ, kAnonymous, -1);
  put(kShared, 8, PROT_READ | PROT_WRITE, MAP_SHARED, memfd_);
  put(kHole, 8, PROT_NONE, kAnonymous, -1);
  put(kWindow, kWindowPages, PROT_NONE, kAnonymous, -1);
}

bool ProgramMemory::contains(uint64_t address, uint64_t size) const {
  const uint64_t start = this->address(0);
  return address >= start && address - start < kPages * kPage && size <= kPages * kPage - (address - start);
}

void ProgramMemory::unmapped(uint64_t address, uint64_t size) {
  const size_t first = (address - this->address(0)) / kPage;
  for (size_t at = 0; at < (size + kPage - 1) / kPage; ++at) gone_.push_back(first + at);
  keep();
}

void ProgramMemory::keep() {
  std::erase_if(gone_, [this](size_t number) {
    return mmap(page(number), kPage, PROT_NONE, kAnonymous | MAP_FIXED_NOREPLACE, -1, 0) != MAP_FAILED;
  });
}

}  // namespace vfio::soft::fuzz
