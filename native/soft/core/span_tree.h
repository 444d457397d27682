// An ordered set of intervals [start, last] that don't overlap, each with a small value. It holds the areas
// of an address space, or the pinned runs of the process's memory.
//
// It is a B+ tree, because address spaces hold a million intervals. A search in a binary tree costs twenty
// cache misses; wide nodes cost few, and need about 1.3 times the bytes of the entries. Every inner node
// knows an upper limit for the gaps below each child, so the first gap of a given size is found in O(log n)
// too.
//
// Life: the tree owns its nodes. Pointers to entries are valid until the next insert or erase.
#pragma once

#include <algorithm>
#include <cstdint>
#include <type_traits>

#include "pool.h"

namespace vfio::soft {

template <class Value>
class SpanTree {
  static_assert(std::is_trivially_copyable_v<Value>);

 public:
  struct Entry {
    uint64_t start;
    uint64_t last;
    Value value;
  };

  SpanTree() = default;
  ~SpanTree() = default;
  SpanTree(const SpanTree&) = delete;
  SpanTree& operator=(const SpanTree&) = delete;

  [[nodiscard]] bool empty() const { return size_ == 0; }
  [[nodiscard]] uint64_t size() const { return size_; }

  void clear() {
    leaves_.clear();
    inners_.clear();
    root_ = nullptr;
    size_ = 0;
    height_ = 0;
  }

  // Reserves room for `count` entries that will be inserted next to each other: these inserts then need no
  // memory.
  void reserve(uint64_t count) {
    // For an empty tree one leaf is enough. The tree keeps no more when it is empty, so any more would be
    // taken and given back each time.
    if (height_ == 0 && (root_ == nullptr ? 0U : root_->count) + count <= Leaf::kWidth) {
      if (root_ == nullptr) leaves_.reserve(1);
      return;
    }
    const uint64_t leaves = count / (Leaf::kWidth / 2) + 2;
    leaves_.reserve(leaves);
    inners_.reserve(leaves / (Inner::kWidth / 2) + height_ + 2);
  }

  void swap(SpanTree& other) noexcept {
    std::swap(root_, other.root_);
    std::swap(size_, other.size_);
    std::swap(height_, other.height_);
    leaves_.swap(other.leaves_);
    inners_.swap(other.inners_);
  }

  // Returns the lowest entry that has a byte in [start, last], or null.
  [[nodiscard]] Entry* find(uint64_t start, uint64_t last) {
    return const_cast<Entry*>(static_cast<const SpanTree*>(this)->find(start, last));
  }
  [[nodiscard]] const Entry* find(uint64_t start, uint64_t last) const {
    const Node* node = root_;
    if (node == nullptr) return nullptr;
    while (!node->leaf) {
      const auto& inner = *static_cast<const Inner*>(node);
      const unsigned at = firstEndingFrom(inner.children, inner.count, start);
      if (at == inner.count || inner.children[at].start > last) return nullptr;
      node = inner.children[at].node;
      prefetch(node);
    }
    const auto& leaf = *static_cast<const Leaf*>(node);
    const unsigned at = firstEndingFrom(leaf.entries, leaf.count, start);
    return at == leaf.count || leaf.entries[at].start > last ? nullptr : &leaf.entries[at];
  }

  // The caller has made sure that the new entry overlaps no other. Throws before anything has changed.
  void insert(uint64_t start, uint64_t last, const Value& value) {
    reserve(1);
    if (root_ == nullptr) root_ = leaves_.make();
    Node* const right = insertInto(root_, Entry{start, last, value});
    if (right != nullptr) {
      auto* const top = inners_.make();
      top->count = 2;
      top->children[0] = describe(root_);
      top->children[1] = describe(right);
      root_ = top;
      ++height_;
    }
    ++size_;
  }

  // Removes the entry that starts at `start`. It must exist.
  void erase(uint64_t start) {
    (void)eraseFrom(root_, start);
    --size_;
    while (root_ != nullptr && !root_->leaf && root_->count == 1) {
      auto* const old = static_cast<Inner*>(root_);
      root_ = old->children[0].node;
      inners_.destroy(old);
      --height_;
    }
    if (root_ != nullptr && root_->count == 0) {
      leaves_.destroy(static_cast<Leaf*>(root_));
      root_ = nullptr;
    }
  }

  // Calls `visit` for every entry, lowest first, until it returns false. Meanwhile the tree must not change,
  // but the values may. Returns false if `visit` stopped it.
  template <class Visit>
  bool forEach(const Visit& visit) const {
    return root_ == nullptr || walk(root_, visit);
  }

  // Calls `take` for each gap between entries in [low, high], lowest first, until `take` returns true. A gap
  // is cut to [low, high]; gaps of less than `need` bytes are left out. Returns whether `take` returned
  // true.
  template <class Take>
  bool firstGap(uint64_t low, uint64_t high, uint64_t need, const Take& take) const {
    Cursor cursor{low, false};
    if (root_ != nullptr && walkGaps(root_, cursor, high, need, take)) return true;
    return !cursor.end && cursor.next <= high && high - cursor.next >= need - 1 && take(cursor.next, high);
  }

 private:
  struct Node {
    explicit Node(bool isLeaf) : leaf(isLeaf) {}
    uint16_t count = 0;
    const bool leaf;
  };
  struct Leaf : Node {
    static constexpr unsigned kWidth = 16;
    Leaf() : Node(true) {}
    Entry entries[kWidth];
  };
  struct Child {
    uint64_t start;  // start of its first entry
    uint64_t last;   // last byte of its last entry
    // An upper limit: no gap between two of its entries has more bytes. An insert that narrows a gap leaves
    // this value alone, so that it needn't look at all the other gaps. A search that finds no gap here then
    // corrects the value.
    mutable uint64_t widest;
    Node* node;
  };
  struct Inner : Node {
    static constexpr unsigned kWidth = 32;
    Inner() : Node(false) {}
    Child children[kWidth];
  };
  struct Cursor {
    uint64_t next;  // the lowest byte that the search has not looked at
    bool end;       // no such byte exists: the byte before it was the last of the address space
  };

  // Returns the place of the first item whose last byte is at or after `start`. It makes two rounds of loads
  // that don't wait for each other. A binary search would wait for one cache miss after the other.
  template <class Item>
  static unsigned firstEndingFrom(const Item* items, unsigned count, uint64_t start) {
    constexpr unsigned kStride = 8;
    unsigned base = 0;
    for (unsigned at = kStride - 1; at < count; at += kStride) base += items[at].last < start ? kStride : 0;
    const unsigned end = std::min(base + kStride, count);
    unsigned before = base;
    for (unsigned at = base; at < end; ++at) before += items[at].last < start ? 1 : 0;
    return before;
  }

  // Makes the processor fetch a whole leaf at once. This isn't worth it for inner nodes: they are mostly in
  // the cache.
  static void prefetch(const Node* node) {
    for (size_t at = 0; at < sizeof(Leaf); at += 64)
      __builtin_prefetch(reinterpret_cast<const char*>(node) + at);
  }

  template <class Item>
  static uint64_t gapBefore(const Item* items, unsigned at) {
    return items[at].start - items[at - 1].last - 1;
  }

  // Returns the parent's record of a node. The caller knows that the node's widest gap is at most `bound`:
  // the search ends at a gap of that width.
  static Child describe(Node* node, uint64_t bound = UINT64_MAX) {
    uint64_t widest = 0;
    if (node->leaf) {
      const auto& leaf = *static_cast<Leaf*>(node);
      for (unsigned at = 1; at < leaf.count && widest < bound; ++at) {
        widest = std::max(widest, leaf.entries[at].start - leaf.entries[at - 1].last - 1);
      }
      return {leaf.entries[0].start, leaf.entries[leaf.count - 1].last, widest, node};
    }
    const auto& inner = *static_cast<Inner*>(node);
    for (unsigned at = 0; at < inner.count && widest < bound; ++at) {
      widest = std::max(widest, inner.children[at].widest);
      if (at != 0) {
        widest = std::max(widest, inner.children[at].start - inner.children[at - 1].last - 1);
      }
    }
    return {inner.children[0].start, inner.children[inner.count - 1].last, widest, node};
  }

  // Inserts `item` at place `at`. Splits a full node and returns its new right half; otherwise returns null.
  // An item that comes at the very end of a full node starts a node of its own, so that filling in ascending
  // order leaves full nodes behind.
  template <class Holder, class Item>
  static Holder* place(Pool<Holder>& pool, Holder& node, Item* items, Item* (*itemsOf)(Holder&), unsigned at,
                       const Item& item) {
    constexpr unsigned kWidth = Holder::kWidth;
    Holder* right = nullptr;
    if (node.count == kWidth) {
      right = pool.make();
      const unsigned keep = at == kWidth ? kWidth : kWidth / 2;
      Item* const moved = itemsOf(*right);
      std::copy(items + keep, items + kWidth, moved);
      right->count = static_cast<uint16_t>(kWidth - keep);
      node.count = static_cast<uint16_t>(keep);
      if (at > keep || keep == kWidth) {
        std::copy_backward(moved + (at - keep), moved + right->count, moved + right->count + 1);
        moved[at - keep] = item;
        ++right->count;
        return right;
      }
    }
    std::copy_backward(items + at, items + node.count, items + node.count + 1);
    items[at] = item;
    ++node.count;
    return right;
  }
  static Entry* entriesOf(Leaf& leaf) { return leaf.entries; }
  static Child* childrenOf(Inner& inner) { return inner.children; }

  // Returns the right half of the subtree if the insert split it, else null.
  Node* insertInto(Node* node, const Entry& entry) {
    if (node->leaf) {
      auto& leaf = *static_cast<Leaf*>(node);
      const unsigned at = firstEndingFrom(leaf.entries, leaf.count, entry.start);
      return place<Leaf, Entry>(leaves_, leaf, leaf.entries, &entriesOf, at, entry);
    }
    auto& inner = *static_cast<Inner*>(node);
    const unsigned at =
        std::min<unsigned>(firstEndingFrom(inner.children, inner.count, entry.start), inner.count - 1U);
    Child& child = inner.children[at];
    Node* const right = insertInto(child.node, entry);
    if (right != nullptr) {
      child = describe(child.node);
      return place<Inner, Child>(inners_, inner, inner.children, &childrenOf, at + 1, describe(right));
    }
    if (entry.last < child.start) {
      child.widest = std::max(child.widest, child.start - entry.last - 1);
      child.start = entry.start;
    } else if (entry.start > child.last) {
      child.widest = std::max(child.widest, entry.start - child.last - 1);
      child.last = entry.last;
    }
    return nullptr;
  }

  // Returns the bytes of the gap that is now in the entry's place, or 0 if the entry was the first or last
  // of the subtree.
  uint64_t eraseFrom(Node* node, uint64_t start) {
    if (node->leaf) {
      auto& leaf = *static_cast<Leaf*>(node);
      const unsigned at = firstEndingFrom(leaf.entries, leaf.count, start);
      std::copy(leaf.entries + at + 1, leaf.entries + leaf.count, leaf.entries + at);
      --leaf.count;
      return at != 0 && at != leaf.count ? gapBefore(leaf.entries, at) : 0;
    }
    auto& inner = *static_cast<Inner*>(node);
    const unsigned at = firstEndingFrom(inner.children, inner.count, start);
    Child& child = inner.children[at];
    uint64_t made = eraseFrom(child.node, start);
    if (child.node->count == 0) {
      drop(inner, at);
      return at != 0 && at != inner.count ? gapBefore(inner.children, at) : 0;
    }
    if (made != 0) {
      child.widest = std::max(child.widest, made);
    } else {
      const bool wasFirst = start == child.start;
      const Child ends = describe(child.node, 0);
      child.start = ends.start;
      child.last = ends.last;
      // The gap at the end of the child is inside this node only if there is a next child on that side.
      if (wasFirst ? at != 0 : at + 1U < inner.count) {
        made = gapBefore(inner.children, wasFirst ? at : at + 1);
      }
    }
    joinAround(inner, at);
    return made;
  }

  // Merges half-empty neighbours, so that a tree that has shrunk doesn't stay large.
  void joinAround(Inner& inner, unsigned at) {
    // Only a node with few items is merged: a look at its neighbours means waiting for their memory.
    const unsigned width = inner.children[at].node->leaf ? Leaf::kWidth : Inner::kWidth;
    if (inner.children[at].node->count > width / 4) return;
    for (unsigned left = at == 0 ? 0 : at - 1; left <= at && left + 1U < inner.count; ++left) {
      Node* const a = inner.children[left].node;
      Node* const b = inner.children[left + 1].node;
      if (a->count + b->count > width / 2) continue;
      join(a, b);
      b->count = 0;
      inner.children[left] = describe(a);
      drop(inner, left + 1);
      return;
    }
  }

  static void join(Node* a, const Node* b) {
    if (a->leaf) {
      auto& into = *static_cast<Leaf*>(a);
      const auto& from = *static_cast<const Leaf*>(b);
      std::copy(from.entries, from.entries + from.count, into.entries + into.count);
    } else {
      auto& into = *static_cast<Inner*>(a);
      const auto& from = *static_cast<const Inner*>(b);
      std::copy(from.children, from.children + from.count, into.children + into.count);
    }
    a->count = static_cast<uint16_t>(a->count + b->count);
  }

  void drop(Inner& inner, unsigned at) {
    Node* const child = inner.children[at].node;
    if (child->leaf) {
      leaves_.destroy(static_cast<Leaf*>(child));
    } else {
      inners_.destroy(static_cast<Inner*>(child));
    }
    std::copy(inner.children + at + 1, inner.children + inner.count, inner.children + at);
    --inner.count;
  }

  template <class Visit>
  static bool walk(const Node* node, const Visit& visit) {
    if (node->leaf) {
      const auto& leaf = *static_cast<const Leaf*>(node);
      return std::all_of(leaf.entries, leaf.entries + leaf.count, visit);
    }
    const auto& inner = *static_cast<const Inner*>(node);
    return std::all_of(inner.children, inner.children + inner.count,
                       [&visit](const Child& child) { return walk(child.node, visit); });
  }

  template <class Take>
  static bool walkGaps(const Node* node, Cursor& cursor, uint64_t high, uint64_t need, const Take& take) {
    const auto before = [&](uint64_t start) {
      if (start <= cursor.next) return false;
      const uint64_t last = std::min(start - 1, high);
      return last - cursor.next >= need - 1 && take(cursor.next, last);
    };
    const auto pass = [&cursor](uint64_t last) {
      cursor.end = last == UINT64_MAX;
      cursor.next = last + 1;
    };
    if (node->leaf) {
      const auto& leaf = *static_cast<const Leaf*>(node);
      for (unsigned at = firstEndingFrom(leaf.entries, leaf.count, cursor.next); at < leaf.count; ++at) {
        if (cursor.end || cursor.next > high) return false;
        if (before(leaf.entries[at].start)) return true;
        pass(leaf.entries[at].last);
      }
      return false;
    }
    const auto& inner = *static_cast<const Inner*>(node);
    for (unsigned at = firstEndingFrom(inner.children, inner.count, cursor.next); at < inner.count; ++at) {
      if (cursor.end || cursor.next > high) return false;
      const Child& child = inner.children[at];
      if (child.widest >= need) {
        if (walkGaps(child.node, cursor, high, need, take)) return true;
        child.widest = describe(child.node, child.widest).widest;
      } else {
        if (before(child.start)) return true;
        pass(child.last);
      }
    }
    return false;
  }

  Pool<Leaf> leaves_;
  Pool<Inner> inners_;
  Node* root_ = nullptr;
  uint64_t size_ = 0;
  unsigned height_ = 0;  // number of levels of inner nodes
};

}  // namespace vfio::soft
