#include "arena.h"

#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cstdio>
#include <cstdlib>
#include <cstring>

namespace vfio::fuzz {
namespace {

uint8_t* at(uint64_t offset) { return reinterpret_cast<uint8_t*>(Arena::kBase + offset); }

std::string hexBytes(const uint8_t* bytes, size_t size) {
  std::string out;
  for (size_t i = 0; i < size; ++i) {
    std::array<char, 3> text{};
    std::snprintf(text.data(), text.size(), "%02x", bytes[i]);
    out += text.data();
  }
  return out;
}

// The text of a run of bytes: the bytes of a short run, or the size and a checksum (FNV-1a) of a longer one.
std::string describe(const uint8_t* bytes, size_t size) {
  if (size <= 288) return hexBytes(bytes, size);
  uint64_t hash = 0xcbf29ce484222325;
  for (size_t i = 0; i < size; ++i) hash = (hash ^ bytes[i]) * 0x100000001b3;
  std::array<char, 48> text{};
  std::snprintf(text.data(), text.size(), "%zu bytes, %016llx", size, static_cast<unsigned long long>(hash));
  return text.data();
}

}  // namespace

Arena::Arena() : shadow_(kArgumentEnd) {
  map(kPlain, 16, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS);
  map(kShared, 8, PROT_READ | PROT_WRITE, MAP_SHARED);
  map(kReadOnly, 4, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS);
  map(kNone, 2, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS);
  map(kCopied, 4, PROT_READ | PROT_WRITE, MAP_PRIVATE);
  map(kArgument, 2, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS);
}

void Arena::map(uint64_t offset, uint64_t pages, int protection, int flags) {
  const uint64_t size = pages * kPage;
  int file = -1;
  if ((flags & MAP_ANONYMOUS) == 0) {
    file = memfd_create("arena", MFD_CLOEXEC);
    if (ftruncate(file, static_cast<off_t>(size)) != 0) std::abort();
  }
  const int writable = protection == PROT_NONE ? PROT_NONE : PROT_READ | PROT_WRITE;
  if (mmap(at(offset), size, writable, flags | MAP_FIXED_NOREPLACE, file, 0) != at(offset)) {
    std::perror("the arena's place is taken");
    std::abort();
  }
  if (file >= 0) close(file);
  if (protection == PROT_NONE) return;
  // No byte is zero, so that a written zero is always a change.
  uint32_t state = static_cast<uint32_t>(offset) | 1;
  for (uint64_t i = 0; i < size; ++i) {
    state = state * 1664525 + 1013904223;
    at(offset)[i] = static_cast<uint8_t>((state >> 24) | 0x80);
  }
  std::memcpy(&shadow_[offset], at(offset), size);
  if (writable != protection) mprotect(at(offset), size, protection);
  stretches_.push_back({offset, size, (protection & PROT_WRITE) != 0});
}

void Arena::store(uint64_t address, const std::vector<uint8_t>& bytes) {
  for (size_t i = 0; i < bytes.size(); ++i) {
    const uint64_t offset = address + i - kBase;
    for (const Stretch& stretch : stretches_) {
      if (!stretch.writable || offset - stretch.offset >= stretch.size) continue;
      shadow_[offset] = *at(offset) = bytes[i];
    }
  }
}

uint64_t Arena::load(uint64_t address, unsigned width) {
  const uint64_t offset = address - kBase;
  if (offset > kArgumentEnd - width || (offset >= kNone && offset < kCopied) ||
      (offset + width > kCopied + 4 * kPage && offset < kArgument)) {
    return 0;
  }
  uint64_t value = 0;
  std::memcpy(&value, at(offset), width);
  return value;
}

std::string Arena::changes() {
  std::string out;
  for (const Stretch& stretch : stretches_) {
    const uint64_t end = stretch.offset + stretch.size;
    for (uint64_t page = stretch.offset; page < end; page += kPage) {
      if (std::memcmp(at(page), &shadow_[page], kPage) == 0) continue;
      uint64_t next = page;
      while (next < page + kPage) {
        if (*at(next) == shadow_[next]) {
          ++next;
          continue;
        }
        // A run of changed bytes includes up to 7 unchanged bytes in a row.
        uint64_t last = next;
        for (uint64_t i = next; i < page + kPage && i - last < 8; ++i) {
          if (*at(i) != shadow_[i]) last = i;
        }
        std::array<char, 24> where{};
        std::snprintf(where.data(), where.size(), " m+%llx=", static_cast<unsigned long long>(next));
        out += where.data() + describe(at(next), last + 1 - next);
        next = last + 1;
      }
      std::memcpy(&shadow_[page], at(page), kPage);
    }
  }
  return out;
}

}  // namespace vfio::fuzz
