// The mapped ranges of an address space: pieces [start, last] that don't overlap. A mapping is one piece
// until the kernel splits it.
//
// Life of a piece: a piece is recorded when the kernel has mapped it, and dropped when the kernel is known to
// have released it. It keeps its memory until then. Recording and dropping allocate no memory: `reserve`
// allocates the memory that they may need, before the kernel is asked.
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
  uint64_t mapping = 0;  // the number of the mapping that the piece is part of
  uint64_t born = 0;     // when it was recorded: the value of the space's record counter
  Memory memory;         // null: the kernel keeps the pages of a file
  bool writable = false;
  const char* doubt = nullptr;  // why it is unknown whether the kernel still maps it; null: it does
};

class Pieces {
 public:
  using Map = std::map<uint64_t, Piece>;

  // Allocates memory for `calls` calls. Each call records at most one piece and splits at most one. May
  // throw.
  void reserve(size_t calls);

  // Records a piece. The kernel maps no address twice, so any piece that was recorded at this address is no
  // longer mapped.
  void add(uint64_t start, Piece piece);
  // The kernel no longer maps any of the pieces in [start, last] that were recorded before `born`.
  void drop(uint64_t start, uint64_t last, uint64_t born = UINT64_MAX);
  // Drops the whole piece that starts there.
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
  std::vector<Map::node_type> spares_;  // free nodes for the next records
};

}  // namespace vfio::ledger
