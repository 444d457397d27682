// What is mapped in an address space: pieces [start, last] that don't overlap. A mapping is one piece until
// the kernel cuts it.
//
// Life of a piece: recorded when the kernel has mapped it, dropped when the kernel is known to have let go of
// it. It keeps its memory until then. Recording and dropping need no memory: `reserve` takes what they may
// need before the kernel is asked.
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <vector>

namespace vfio::ledger {

using Memory = std::shared_ptr<const void>;

struct Piece {
  uint64_t last = 0;
  uint64_t mapping = 0;  // the number of the mapping that it is of
  uint64_t born = 0;     // when it was recorded: the space's count of records
  Memory memory;         // null: the kernel keeps the pages of a file
  bool writable = false;
  const char* doubt = nullptr;  // why nobody knows whether the kernel still has it; null: it has
};

class Pieces {
 public:
  using Map = std::map<uint64_t, Piece>;

  // Takes memory for `calls` calls, each of which records one piece and splits one at the most. May throw.
  void reserve(size_t calls);

  // Records a piece. The kernel maps no address twice: what was recorded there is gone.
  void add(uint64_t start, Piece piece);
  // The kernel has nothing in [start, last] any more of what was recorded before `born`.
  void drop(uint64_t start, uint64_t last, uint64_t born = UINT64_MAX);
  // Drops the piece that starts there whole.
  void dropWhole(uint64_t start);
  void drop(Map::iterator piece) { (void)erase(piece); }
  void clear() { pieces_.clear(); }

  // The first piece with a byte in [start, last], or the end.
  [[nodiscard]] Map::iterator find(uint64_t start, uint64_t last);
  // Do pieces cover [start, last] without a gap, and end where it ends?
  [[nodiscard]] bool tile(uint64_t start, uint64_t last);

  [[nodiscard]] Map& all() { return pieces_; }
  [[nodiscard]] const Map& all() const { return pieces_; }
  [[nodiscard]] bool empty() const { return pieces_.empty(); }

 private:
  Map::node_type take();
  Map::iterator erase(Map::iterator at);

  Map pieces_;
  std::vector<Map::node_type> spares_;  // nodes for the next records
};

}  // namespace vfio::ledger
