#include "pieces.h"

#include <utility>

namespace vfio::ledger {
namespace {

constexpr size_t kNodesOfACall = 2;
constexpr size_t kMostSpares = 64;

}  // namespace

void Pieces::reserve(size_t calls) {
  const size_t needed = calls * kNodesOfACall;
  if (spares_.size() >= needed) return;
  spares_.reserve(needed + kMostSpares);
  Map maker;
  while (spares_.size() < needed) spares_.push_back(maker.extract(maker.try_emplace(0).first));
}

void Pieces::add(uint64_t start, Piece piece) {
  auto next = pieces_.upper_bound(start);
  const bool free = (next == pieces_.end() || next->first > piece.last) &&
                    (next == pieces_.begin() || std::prev(next)->second.last < start);
  if (!free) {
    drop(start, piece.last);
    next = pieces_.upper_bound(start);
  }
  Map::node_type node = take();
  node.key() = start;
  node.mapped() = std::move(piece);
  pieces_.insert(next, std::move(node));
}

void Pieces::drop(uint64_t start, uint64_t last, uint64_t born) {
  for (auto at = find(start, last); at != pieces_.end() && at->first <= last;) {
    Piece& piece = at->second;
    if (piece.born >= born) {
      ++at;
      continue;
    }
    const uint64_t end = piece.last;
    if (end > last) {
      // The part after the range stays, as a new piece.
      Map::node_type rest = take();
      rest.key() = last + 1;
      rest.mapped() = piece;
      pieces_.insert(std::next(at), std::move(rest));
    }
    if (at->first < start) {
      piece.last = start - 1;
      ++at;
    } else {
      at = erase(at);
    }
    if (end >= last) break;
  }
}

void Pieces::dropWhole(uint64_t start) {
  const auto at = pieces_.find(start);
  if (at != pieces_.end()) erase(at);
}

Pieces::Map::iterator Pieces::find(uint64_t start, uint64_t last) {
  auto at = pieces_.upper_bound(start);
  if (at != pieces_.begin()) {
    const auto before = std::prev(at);
    if (before->second.last >= start) return before;
  }
  return at != pieces_.end() && at->first <= last ? at : pieces_.end();
}

bool Pieces::tile(uint64_t start, uint64_t last) {
  auto at = pieces_.find(start);
  for (;;) {
    if (at == pieces_.end() || at->first != start || at->second.last > last) return false;
    if (at->second.last == last) return true;
    start = at->second.last + 1;
    ++at;
  }
}

Pieces::Map::node_type Pieces::take() {
  Map::node_type node = std::move(spares_.back());
  spares_.pop_back();
  return node;
}

Pieces::Map::iterator Pieces::erase(Map::iterator at) {
  const auto next = std::next(at);
  Map::node_type node = pieces_.extract(at);
  node.mapped().memory.reset();
  if (spares_.size() < spares_.capacity()) spares_.push_back(std::move(node));
  return next;
}

}  // namespace vfio::ledger
