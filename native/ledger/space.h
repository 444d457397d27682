// The ledger of one address space: what the kernel has mapped in it, as far as this process mapped it. A
// record is made and ended together with the call that changes it, by whichever thread and handle makes the
// call.
//
// Order. The kernel does calls of several threads in an order that it tells nobody. So a call that could
// change what another one finds waits for it: an unmap waits for maps that may lie in its range, and a map
// for unmaps of its range. An unmap of exactly what is recorded waits for nobody else, so that a driver goes
// on while much memory is being pinned.
//
// Proof. Memory is let go only if the kernel is known to have let go of it:
//   - an unmap of the range succeeded, by the rules of the call that was made (`Manner`);
//   - an unmap of exactly one piece says that nothing is there (ENOENT), and nothing was mapped there since;
//   - the kernel mapped something else at the address, gave the object's id again, or destroyed the object.
// What a failed call may or may not have unmapped is asked for again, piece by piece. What can't be known is
// kept, with the reason (`Piece::doubt`).
//
// Life: made with the kernel's object (or when it is first met), shared by all handles of the process that
// lead to it. It has ended when the kernel's object has; calls on it are ENOENT then.
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

// What an unmap has done that succeeded, by the kind of space.
enum class Manner {
  wholeRange,    // nothing is mapped in the range any more
  firstVersion,  // type1 of the first version: what begins in the range is gone, whole; nothing is, if the
                 // lowest mapping there begins before the range
  unknown,       // nobody has said which kind it is
};

// A call of a thread that is in the kernel now, or about to be.
struct Flight {
  enum class Kind { map, use, unmap } kind = Kind::unmap;
  uint64_t start = 0;
  uint64_t last = 0;
  bool anywhere = false;  // a map whose place the kernel chooses
  bool alone = false;     // an unmap that no other call may be beside
  bool valid = true;      // not a range that the kernel refuses: of no length, or beyond the end
  uint64_t born = 0;      // how many records there were at its start
  Flight* next = nullptr;
};

// What is told when no call is on its way any more.
struct Idle {
  virtual ~Idle() = default;
  virtual void idle() = 0;
};

// How often memory came to be kept in this process.
[[nodiscard]] uint64_t doubts();

struct Mapped {
  uint64_t iova;
  uint64_t length;
  bool writable;
};

class Space {
 public:
  // A mapping that a call is to make.
  struct Wanted {
    uint64_t mapping;  // its number, for good
    uint64_t length;
    bool writable;
    Memory memory;
    std::optional<uint64_t> iova;  // where; afterwards: where it is
  };

  // `call(wanted)` asks the kernel: 0 or -errno. The memory is the record's afterwards, or nobody's.
  template <class Call>
  [[nodiscard]] int map(Wanted& wanted, Call&& call) {
    Flight flight = flightOf(Flight::Kind::map, wanted.iova.value_or(0), wanted.length);
    flight.anywhere = !wanted.iova.has_value();
    if (const int refused = enter(flight)) {
      wanted.memory.reset();
      return refused;
    }
    const int result = call(wanted);
    record(flight, wanted, result);
    return result;
  }

  // `call(start, length, bytes)` asks the kernel: 0 or -errno, and how many bytes it unmapped. 0 with 2^64-1
  // is everything.
  template <class Call>
  [[nodiscard]] int unmap(uint64_t start, uint64_t length, Manner manner, uint64_t& bytes, Call&& call) {
    Flight flight = flightOf(Flight::Kind::unmap, start, length);
    if (const int refused = enter(flight)) return refused;
    return finishUnmap(flight, start, length, manner, bytes, call);
  }

  // What is left of one mapping, piece by piece. `iova` and `length` are those that it was made with.
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
    }
  }

  // The same for every piece that is recorded, until one can't be unmapped: 0, or what the kernel said of
  // that one.
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

  // A range of one mapping, for a call that reads it (a copy): keeps others from unmapping it. False: it is
  // not mapped whole any more. `leave` ends it.
  [[nodiscard]] bool use(Flight& flight, uint64_t mapping, uint64_t iova, uint64_t length, Memory& memory);
  void leave(Flight& flight);

  // The mapping is found at other memory from now on: `call()` tells the kernel. -ENOENT: it is not mapped
  // whole.
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

  // Runs `call` with no other call on its way: 0 if the kernel's object has come to an end, or -errno.
  // `forGood`: the object itself, and not only all that was mapped in it. -ENOENT: it had ended before.
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
  // No call begins any more. If some are on their way, `then` is told when the last one has come back, and
  // this is true.
  [[nodiscard]] bool close(std::shared_ptr<Idle> then);
  void reopen();
  // The kernel's object is known to be gone, with all that was mapped in it.
  void ended();
  [[nodiscard]] bool hasEnded() const;

  // All that is recorded is kept for this reason.
  void doubt(const char* reason);

  [[nodiscard]] std::vector<Mapped> mapped() const;
  // Is all of the mapping there?
  [[nodiscard]] bool holds(uint64_t mapping, uint64_t iova, uint64_t length) const;
  [[nodiscard]] bool empty() const;
  // Bytes that are kept for each reason; and at the end of the space, all of them, with their memory.
  void doubtful(std::vector<std::pair<const char*, uint64_t>>& out) const;
  [[nodiscard]] Pieces::Map takeAll();

 private:
  static Flight flightOf(Flight::Kind kind, uint64_t start, uint64_t length);
  [[nodiscard]] int enter(Flight& flight, bool closing = false);
  [[nodiscard]] bool enterPieceOf(uint64_t mapping, uint64_t iova, uint64_t length, Flight& flight);
  [[nodiscard]] bool enterNext(uint64_t from, Flight& flight);
  // Waits until no call on its way is in conflict. False: the space has ended.
  [[nodiscard]] bool wait(std::unique_lock<std::mutex>& lock, Flight& flight, bool closing);
  [[nodiscard]] bool conflicts(const Flight& flight) const;
  void await(std::unique_lock<std::mutex>& lock);
  void add(Flight& flight);
  // Removes the flight from the list, releases the lock and wakes who waits.
  void finish(std::unique_lock<std::mutex>& lock, Flight& flight);
  void record(Flight& flight, Wanted& wanted, int result);
  void replace(const Flight& flight, uint64_t mapping, const Memory& memory);
  void forget(bool forGood);
  [[nodiscard]] bool whole(uint64_t mapping, uint64_t start, uint64_t last) const;

  struct Outcome {
    bool settle = false;  // ask again, piece by piece
    uint64_t last = 0;    // those that end here or before
    uint64_t born = 0;    // and were recorded before
  };
  // Ends the flight, unless something is to be asked again.
  [[nodiscard]] Outcome unmapped(Flight& flight, uint64_t length, Manner manner, int result, uint64_t bytes);
  [[nodiscard]] Outcome decide(const Flight& flight, uint64_t length, Manner manner, int result,
                               uint64_t bytes);
  [[nodiscard]] std::optional<std::pair<uint64_t, uint64_t>> pieceIn(uint64_t start, const Outcome& outcome);
  // An unmap of exactly this piece came to `result`.
  [[nodiscard]] bool settled(uint64_t start, int result);

  template <class Call>
  [[nodiscard]] int finishUnmap(Flight& flight, uint64_t start, uint64_t length, Manner manner,
                                uint64_t& bytes, Call&& call) {
    const int result = call(start, length, bytes);
    const Outcome outcome = unmapped(flight, length, manner, result, bytes);
    if (outcome.settle) {
      // They were to be unmapped: so it is done for each, and the answer tells.
      uint64_t from = flight.start;
      while (const auto piece = pieceIn(from, outcome)) {
        uint64_t one = 0;
        if (!settled(piece->first, call(piece->first, piece->second - piece->first + 1, one))) break;
        from = piece->second;
        if (from == UINT64_MAX) break;
        ++from;
      }
      leave(flight);
    }
    return result;
  }

  mutable std::mutex mutex_;
  std::condition_variable left_;  // a call has come back
  size_t waiting_ = 0;            // threads that wait for that
  Flight* flights_ = nullptr;
  size_t flying_ = 0;
  uint64_t records_ = 0;
  Pieces pieces_;
  bool closed_ = false;
  bool ended_ = false;
  std::shared_ptr<Idle> idle_;
};

}  // namespace vfio::ledger
