// Which memory a kernel refuses to pin for a device although the program can reach it: registers and memory
// of devices; to be read, what is mapped without that right (which processors grant with that to write); and
// to be written, shared mappings of ordinary files, whose file system has to see each write.
//
// Asking what a mapping is costs a look into /proc, so for memory that isn't written to a file the answer is
// kept until that is unmapped through the host. (Unmapped behind its back, a shared file in its place can be
// taken for it. The other way round nothing is kept.)
//
// Life: part of the process's Memory, whose lock is held in each call.
#pragma once

#include <array>
#include <cstdint>

#include "../core/span_tree.h"

namespace vfio::soft::mm {

class Mappings {
 public:
  // The pages [first, last], by their numbers, are memory that the program can reach (and write to, with
  // `write`).
  [[nodiscard]] bool pinnable(uint64_t first, uint64_t last, bool write) {
    return known(first, last, write) || ask(first, last, write);
  }
  // How many of them are a device's.
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
  std::array<Range, 8> known_;  // not written to any file
  unsigned oldest_ = 0;
};

}  // namespace vfio::soft::mm
