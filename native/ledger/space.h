// The ledger of one address space: it records the mappings that this process made in it. A record is added or
// removed together with the call that maps or unmaps, no matter which thread and handle make the call.
//
// Order. The kernel does not report the order in which it runs the calls of several threads. So a call waits
// for another call if one could change the result of the other: an unmap waits for maps that may lie in its
// range, and a map waits for unmaps of its range. An unmap of exactly the recorded pieces waits for no call
// outside its range, so that a driver can continue while much memory is being pinned.
//
// Proof. Memory is released only if the kernel is known to have released it:
//   - an unmap of the range succeeded, by the rules of that kind of call (`Manner`);
//   - an unmap of exactly one piece fails with ENOENT (nothing is there), and nothing was mapped there since;
//   - the kernel mapped something else at the address, gave the object's id to a new object, or destroyed the
//     object. If a failed call may have unmapped something, each piece is unmapped again. If the result stays
//     unknown, the memory is kept, with the reason (`Piece::doubt`).
//
// Life: created with the kernel's object (or when this process first sees that object), and shared by all
// handles of the process that refer to it. It ends when the kernel's object ends; calls on it then fail with
// ENOENT.
#pragma once

#include <cerrno>
#include <condition_variable>
#include <cstdint>
#include <memory>
#include <mutex>
#include <optional>
#include <utility>
#include <vector>

#include "pieces.h"

namespace vfio::ledger {

// What a successful unmap has done. It depends on the kind of space.
enum class Manner {
  wholeRange,    // nothing is mapped in the range any more
  firstVersion,  // type1 of the first version: mappings that begin in the range are unmapped whole; none is,
                 // if the lowest mapping there begins before the range
  unknown,       // this process does not know which kind it is
};

// A call that a thread is making in the kernel now, or is about to make.
struct Flight {
  enum class Kind { map, use, unmap } kind = Kind::unmap;
  uint64_t start = 0;
  uint64_t last = 0;
  bool anywhere = false;  // a map whose IOVA the kernel chooses
  bool alone = false;     // no other call may run at the same time
  bool valid = true;      // false: the kernel refuses the range, because it is empty or passes the end
  uint64_t born = 0;      // the record counter when the call started
  Flight* next = nullptr;
};

// Its `idle` is called when no call is running any more.
struct Idle {
  virtual ~Idle() = default;
  virtual void idle() = 0;
};

// How many times memory had to be kept in this process.
[[nodiscard]] uint64_t doubts();

struct Mapped {
  uint64_t iova;
  uint64_t length;
  bool writable;
};

class Space {
 public:
  // A mapping that a call shall create.
  struct Wanted {
    uint64_t mapping;  // its number, which never changes
    uint64_t length;
    bool writable;
    Memory memory;
    std::optional<uint64_t> iova;  // the wanted IOVA; after the call, the actual IOVA
  };

  // `call(wanted)` asks the kernel: 0 or -errno. Afterwards the record owns the memory, or (on failure) it is
  // released.
  template <class Call>
  [[nodiscard]] int map(Wanted& wanted, Call&& call) {
    Flight flight = flightOf(Flight::Kind::map, wanted.iova.value_or(0), wanted.length);
    flight.anywhere = !wanted.iova.has_value();
    if (const int refused = enter(flight)) {
      wanted.memory.reset();
      return refused;
    }
    if (flight.last == UINT64_MAX && !flight.anywhere) {
      if (const int failed = keepHidden(flight, wanted)) {
        wanted.memory.reset();
        return failed;
      }
    }
    const int result = call(wanted);
    record(flight, wanted, result);
    return result;
  }

  // `call(start, length, bytes)` asks the kernel: 0 or -errno, and how many bytes it unmapped. Start 0 with
  // length 2^64-1 means everything.
  template <class Call>
  [[nodiscard]] int unmap(uint64_t start, uint64_t length, Manner manner, uint64_t& bytes, Call&& call) {
    Flight flight = flightOf(Flight::Kind::unmap, start, length);
    if (const int refused = enter(flight)) return refused;
    return finishUnmap(flight, start, length, manner, bytes, call);
  }

  // Unmaps the remaining pieces of one mapping, one by one. `iova` and `length` are the values it was created
  // with.
  template <class Call>
  [[nodiscard]] int unmapMapping(uint64_t mapping, uint64_t iova, uint64_t length, uint64_t& bytes,
                                 Call&& call) {
    bytes = 0;
    for (;;) {
      Flight flight;
      if (!enterPieceOf(mapping, iova, length, flight)) return 0;
      uint64_t unmapped = 0;
      const uint64_t size = flight.last - flight.start + 1;
      const int result = finishUnmap(flight, flight.start, size, Manner::wholeRange, unmapped, call);
      if (result < 0 && result != -ENOENT) return result;
      bytes += unmapped;
      if (result >= 0 && unmapped < size && mayHide())
        return 0;  // it may be there still, and asking again would not help
    }
  }

  // The same for every recorded piece. Goes on after a failure: 0, or the error of the last piece that could
  // not be unmapped.
  template <class Call>
  [[nodiscard]] int unmapRecorded(Call&& call) {
    uint64_t from = 0;
    int failed = 0;
    for (;;) {
      Flight flight;
      if (!enterNext(from, flight)) return failed;
      uint64_t bytes = 0;
      const uint64_t start = flight.start;
      const uint64_t last = flight.last;
      const int result = finishUnmap(flight, start, last - start + 1, Manner::wholeRange, bytes, call);
      if (result < 0 && result != -ENOENT) failed = result;
      if (last == UINT64_MAX) return failed;
      from = last + 1;
    }
  }

  // Holds a range of one mapping for a call that reads it (a copy): other calls cannot unmap it. False: the
  // range is no longer completely mapped. `leave` ends the hold.
  [[nodiscard]] bool use(Flight& flight, uint64_t mapping, uint64_t iova, uint64_t length, Memory& memory);
  void leave(Flight& flight);

  // From now on the mapping points to other memory: `call()` tells the kernel. -ENOENT: it is not completely
  // mapped.
  template <class Call>
  [[nodiscard]] int move(uint64_t mapping, uint64_t iova, uint64_t length, const Memory& memory,
                         Call&& call) {
    Flight flight;
    Memory before;
    if (!use(flight, mapping, iova, length, before)) return -ENOENT;
    const int result = call();
    if (result >= 0) replace(flight, mapping, memory);
    leave(flight);
    return result;
  }

  // Runs `call` while no other call is running: 0 if the kernel has ended the object or its mappings, or
  // -errno. `forGood`: the object itself ends, and not only its mappings. -ENOENT: it had ended before.
  template <class Call>
  int end(bool forGood, Call&& call) {
    Flight flight;
    flight.last = UINT64_MAX;
    flight.alone = true;
    if (const int refused = enter(flight, true)) return refused;
    const int result = call();
    if (result == 0) forget(forGood);
    leave(flight);
    return result;
  }
  // No new call can begin. If calls are still running, returns true, and `then->idle()` is called when the
  // last one has returned.
  [[nodiscard]] bool close(std::shared_ptr<Idle> then);
  void reopen();
  // The kernel is known to have destroyed the object, with all its mappings.
  void ended();
  [[nodiscard]] bool hasEnded() const;

  // All recorded memory is kept for this reason.
  void doubt(const char* reason);

  [[nodiscard]] std::vector<Mapped> mapped() const;
  // Is the whole mapping still mapped?
  [[nodiscard]] bool holds(uint64_t mapping, uint64_t iova, uint64_t length) const;
  [[nodiscard]] bool empty() const;
  // `doubtful`: the bytes that are kept for each reason. `takeAll`: at the end of the space, all pieces with
  // their memory.
  void doubtful(std::vector<std::pair<const char*, uint64_t>>& out) const;
  [[nodiscard]] Pieces::Map takeAll();

 private:
  static Flight flightOf(Flight::Kind kind, uint64_t start, uint64_t length);
  [[nodiscard]] int enter(Flight& flight, bool closing = false);
  [[nodiscard]] bool enterPieceOf(uint64_t mapping, uint64_t iova, uint64_t length, Flight& flight);
  [[nodiscard]] bool enterNext(uint64_t from, Flight& flight);
  // Waits until no running call conflicts with this one. False: the space has ended or is closed.
  [[nodiscard]] bool wait(std::unique_lock<std::mutex>& lock, Flight& flight, bool closing);
  [[nodiscard]] bool conflicts(const Flight& flight) const;
  void await(std::unique_lock<std::mutex>& lock);
  void add(Flight& flight);
  // Removes the flight from the list, releases the lock and wakes the threads that wait.
  void finish(std::unique_lock<std::mutex>& lock, Flight& flight);
  void record(Flight& flight, Wanted& wanted, int result);
  void replace(const Flight& flight, uint64_t mapping, const Memory& memory);
  void forget(bool forGood);
  [[nodiscard]] bool whole(uint64_t mapping, uint64_t start, uint64_t last) const;

  struct Outcome {
    bool settle = false;  // unmap again, piece by piece
    uint64_t last = 0;    // only pieces that end here or before
    uint64_t born = 0;    // and that were recorded before this count
  };
  // Type1 before Linux 6.18 adds up to 0 where a mapping ends with the highest address: its search does not
  // find that mapping, and may not find others. So while one is recorded, an unmap that succeeded proves no
  // more than the bytes that it tells.
  [[nodiscard]] bool hides() const;
  [[nodiscard]] bool mayHide();  // the same, for a caller that does not hold the lock
  // The bytes recorded in a range before a call began.
  [[nodiscard]] uint64_t recorded(const Flight& flight, const Outcome& outcome);
  // Keeps all that is recorded in a range, with the reason.
  void doubt(const Flight& flight, const char* why);
  // Such a kernel also maps the highest address twice. The record of the new mapping keeps the memory of the
  // old one too. On failure the call has left.
  [[nodiscard]] int keepHidden(Flight& flight, Wanted& wanted);
  // Ends the flight, unless pieces must be unmapped again.
  [[nodiscard]] Outcome unmapped(Flight& flight, uint64_t length, Manner manner, int result, uint64_t bytes);
  [[nodiscard]] Outcome decide(const Flight& flight, uint64_t length, Manner manner, int result,
                               uint64_t bytes);
  [[nodiscard]] std::optional<std::pair<uint64_t, uint64_t>> pieceIn(uint64_t start, const Outcome& outcome);
  // An unmap of exactly this piece returned `result`. False: it failed, and the kernel may still map the
  // piece.
  [[nodiscard]] bool settled(uint64_t start, int result, uint64_t bytes);

  template <class Call>
  [[nodiscard]] int finishUnmap(Flight& flight, uint64_t start, uint64_t length, Manner manner,
                                uint64_t& bytes, Call&& call) {
    const int result = call(start, length, bytes);
    const Outcome outcome = unmapped(flight, length, manner, result, bytes);
    if (outcome.settle) {
      // The caller wanted these pieces unmapped: so each one is unmapped again, and the result shows its
      // state.
      uint64_t from = flight.start;
      while (const auto piece = pieceIn(from, outcome)) {
        uint64_t one = 0;
        const int again = call(piece->first, piece->second - piece->first + 1, one);
        if (!settled(piece->first, again, one)) break;
        from = piece->second;
        if (from == UINT64_MAX) break;
        ++from;
      }
      leave(flight);
    }
    return result;
  }

  mutable std::mutex mutex_;
  std::condition_variable left_;  // signals that a call has returned
  size_t waiting_ = 0;            // number of threads that wait for that
  Flight* flights_ = nullptr;
  size_t flying_ = 0;
  uint64_t records_ = 0;
  Pieces pieces_;
  bool closed_ = false;
  bool ended_ = false;
  std::shared_ptr<Idle> idle_;
};

}  // namespace vfio::ledger
