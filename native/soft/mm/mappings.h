// Which memory a kernel refuses to pin for a device although the program can reach it. It always refuses
// registers and memory of devices. For reading, it refuses mappings without the right to read (processors
// grant that right along with the right to write). For writing, it refuses shared mappings of ordinary
// files, whose file system has to see each write.
//
// Asking what a mapping is costs a look into /proc. So the answer is kept for memory that isn't written to a
// file, until that memory is unmapped through the host. (If it is unmapped behind the host's back, a shared
// file in its place can be taken for it. In the other direction there is no such error: nothing is kept for
// files.)
//
// Life: part of the process's Memory, whose lock is held in each call.
#pragma once

#include <array>
#include <cstdint>

#include "../core/span_tree.h"

namespace vfio::soft::mm {

class Mappings {
 public:
  // Can the program reach all pages [first, last] (given by number), and write to them if `write` is set,
  // and would a kernel pin them?
  [[nodiscard]] bool pinnable(uint64_t first, uint64_t last, bool write) {
    return known(first, last, write) || ask(first, last, write);
  }
  // How many of these pages are a device's.
  [[nodiscard]] uint64_t ofDevices(uint64_t first, uint64_t last) const;
  void unmapped(uint64_t first, uint64_t last);
  // From here on, until it is unmapped, the range is a device's.
  void setDevice(uint64_t first, uint64_t last);

 private:
  struct Nothing {};
  struct Range {
    uint64_t first = 1;
    uint64_t last = 0;
    bool readable = true;
  };
  [[nodiscard]] bool known(uint64_t first, uint64_t last, bool write) const {
    for (const Range& range : known_) {
      if (first >= range.first && last <= range.last) return write || range.readable;
    }
    return false;
  }
  [[nodiscard]] bool ask(uint64_t first, uint64_t last, bool write);

  SpanTree<Nothing> devices_;
  std::array<Range, 8> known_;  // ranges that are not written to any file
  unsigned oldest_ = 0;
};

}  // namespace vfio::soft::mm
