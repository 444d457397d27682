#include "page_identity.h"

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <fstream>
#include <string>
#include <system_error>

#include "../../guard/guard.h"

namespace vfio::soft::selftest {

bool PageIdentity::readable(uint64_t address) {
  return guard::probe(address & ~(mm::pageSize() - 1), 1, mm::pageSize(), false) == 0;
}

void PageIdentity::read() {
  std::vector<Mapping>& mappings = mappings_.emplace();
  std::ifstream file("/proc/self/smaps");
  // By default a stream that runs out of memory just ends, as at the end of the file. Let it throw instead.
  if (!file.is_open()) throw std::system_error(errno, std::generic_category(), "/proc/self/smaps");
  file.exceptions(std::ios::badbit);
  for (std::string line; std::getline(file, line);) {
    unsigned long start = 0;
    unsigned long end = 0;
    unsigned long offset = 0;
    unsigned long inode = 0;
    unsigned long kilobytes = 0;
    unsigned major = 0;
    unsigned minor = 0;
    char rights[5] = {};
    if (std::sscanf(line.c_str(), "%lx-%lx %4s %lx %x:%x %lu", &start, &end, rights, &offset, &major, &minor,
                    &inode) == 7) {
      mappings.push_back({start, end, rights[3] == 's', uint64_t{major} << 32 | minor, inode, offset, 0});
    } else if (!mappings.empty() && std::sscanf(line.c_str(), "KernelPageSize: %lu", &kilobytes) == 1) {
      mappings.back().pageSize = uint64_t{kilobytes} * 1024;
    }
  }
}

const PageIdentity::Mapping* PageIdentity::find(uint64_t address) {
  if (!mappings_) read();
  const auto next = std::ranges::upper_bound(*mappings_, address, {}, &Mapping::start);
  if (next == mappings_->begin()) return nullptr;
  const Mapping& found = *(next - 1);
  return address < found.end ? &found : nullptr;
}

bool PageIdentity::same(uint64_t a, uint64_t b) {
  if (a == b) return true;
  const Mapping* const first = find(a);
  const Mapping* const second = find(b);
  // Only shared mappings can show the same page: a private one has its own copy, or gets one when it is
  // written.
  return first != nullptr && second != nullptr && first->shared && second->shared &&
         first->device == second->device && first->inode == second->inode &&
         first->offset + (a - first->start) == second->offset + (b - second->start);
}

bool PageIdentity::hasPins(uint64_t address, unsigned pins) {
  unsigned found = memory_.pins(address);
  if (found == pins) return true;
  const Mapping* const mapping = find(address);
  if (mapping == nullptr) return false;
  if (mapping->pageSize > mm::pageSize()) return true;
  if (!mapping->shared) return false;
  const uint64_t offset = mapping->offset + (address - mapping->start);
  for (const Mapping& other : *mappings_) {
    if (&other == mapping || !other.shared || other.device != mapping->device ||
        other.inode != mapping->inode || offset < other.offset ||
        offset - other.offset >= other.end - other.start) {
      continue;
    }
    found += memory_.pins(other.start + (offset - other.offset));
  }
  return found == pins;
}

}  // namespace vfio::soft::selftest
