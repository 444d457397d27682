#include "space.h"

#include <atomic>

namespace vfio::ledger {
namespace {

constexpr const char* kHidden =
    "possible: type1 before Linux 6.18, which does not find all mappings while one ends with the highest "
    "address";
constexpr const char* kLess = "type1 unmapped less than is recorded, and does not say what";
constexpr const char* kUnknownKind = "nobody has said what kind of container unmapped a part";

std::atomic<uint64_t> doubtCount = 0;

bool overlap(const Flight& a, const Flight& b) { return a.start <= b.last && b.start <= a.last; }

// May a call that failed with this error have unmapped something first? Not if the kernel refused its
// arguments, or if it reached no address space.
bool mayHaveBegun(int error) {
  switch (error) {
    case -EINVAL:
    case -EOVERFLOW:
    case -ENOTTY:
    case -EOPNOTSUPP:
    case -EBADF:
    case -ENODEV:
    case -EPERM:
    case -EACCES:
      return false;
    default:
      return error < 0;
  }
}

}  // namespace

uint64_t doubts() { return doubtCount; }

Flight Space::flightOf(Flight::Kind kind, uint64_t start, uint64_t length) {
  Flight flight;
  flight.kind = kind;
  flight.start = start;
  flight.last = start + (length - 1);
  if (start == 0 && length == UINT64_MAX) {
    flight.last = UINT64_MAX;
  } else if (length == 0 || flight.last < start) {
    flight.valid = false;
    flight.start = 0;
    flight.last = UINT64_MAX;
  }
  return flight;
}

bool Space::conflicts(const Flight& flight) const {
  for (const Flight* other = flights_; other != nullptr; other = other->next) {
    if (flight.alone || other->alone) return true;
    const bool unmaps = flight.kind == Flight::Kind::unmap || other->kind == Flight::Kind::unmap;
    if (unmaps && !flight.anywhere && !other->anywhere && overlap(flight, *other)) return true;
  }
  return false;
}

bool Space::wait(std::unique_lock<std::mutex>& lock, Flight& flight, bool closing) {
  for (;;) {
    if (ended_ || (closed_ && !closing)) return false;
    // If recorded pieces fill the range exactly, no running call can map anything there. Then the unmap can
    // run beside other calls.
    if (flight.kind == Flight::Kind::unmap && !closing)
      flight.alone = !flight.valid || !pieces_.tile(flight.start, flight.last);
    if (!conflicts(flight)) return true;
    await(lock);
  }
}

void Space::await(std::unique_lock<std::mutex>& lock) {
  ++waiting_;
  left_.wait(lock);
  --waiting_;
}

void Space::add(Flight& flight) {
  pieces_.reserve(flying_ + 1);
  ++flying_;
  flight.born = records_;
  flight.next = flights_;
  flights_ = &flight;
}

int Space::enter(Flight& flight, bool closing) {
  std::unique_lock lock(mutex_);
  if (!wait(lock, flight, closing)) return -ENOENT;
  add(flight);
  return 0;
}

bool Space::enterPieceOf(uint64_t mapping, uint64_t iova, uint64_t length, Flight& flight) {
  std::unique_lock lock(mutex_);
  for (;;) {
    if (ended_ || closed_) return false;
    const uint64_t last = iova + (length - 1);
    auto at = pieces_.find(iova, last);
    while (at != pieces_.all().end() && at->first <= last && at->second.mapping != mapping) ++at;
    if (at == pieces_.all().end() || at->first > last) return false;
    flight.start = at->first;
    flight.last = at->second.last;
    if (!conflicts(flight)) break;
    await(lock);
  }
  add(flight);
  return true;
}

bool Space::enterNext(uint64_t from, Flight& flight) {
  std::unique_lock lock(mutex_);
  for (;;) {
    if (ended_) return false;
    const auto at = pieces_.all().lower_bound(from);
    if (at == pieces_.all().end()) return false;
    flight.start = at->first;
    flight.last = at->second.last;
    if (!conflicts(flight)) break;
    await(lock);
  }
  add(flight);
  return true;
}

bool Space::use(Flight& flight, uint64_t mapping, uint64_t iova, uint64_t length, Memory& memory) {
  flight = flightOf(Flight::Kind::use, iova, length);
  std::unique_lock lock(mutex_);
  if (!flight.valid || !wait(lock, flight, false) || !whole(mapping, iova, flight.last)) return false;
  add(flight);
  memory = pieces_.find(iova, iova)->second.memory;
  return true;
}

void Space::finish(std::unique_lock<std::mutex>& lock, Flight& flight) {
  std::shared_ptr<Idle> idle;
  Flight** at = &flights_;
  while (*at != &flight) at = &(*at)->next;
  *at = flight.next;
  --flying_;
  if (flights_ == nullptr && idle_) idle.swap(idle_);
  const bool awaited = waiting_ != 0;
  lock.unlock();
  if (awaited) left_.notify_all();
  if (idle) idle->idle();
}

void Space::leave(Flight& flight) {
  std::unique_lock lock(mutex_);
  finish(lock, flight);
}

void Space::record(Flight& flight, Wanted& wanted, int result) {
  std::unique_lock lock(mutex_);
  if (result >= 0 && wanted.iova.has_value()) {
    Piece piece;
    piece.last = *wanted.iova + (wanted.length - 1);
    piece.mapping = wanted.mapping;
    piece.born = ++records_;
    piece.memory = std::move(wanted.memory);
    piece.writable = wanted.writable;
    pieces_.add(*wanted.iova, std::move(piece));
  }
  finish(lock, flight);
  wanted.memory.reset();
}

void Space::replace(const Flight& flight, uint64_t mapping, const Memory& memory) {
  const std::lock_guard lock(mutex_);
  for (auto at = pieces_.find(flight.start, flight.last);
       at != pieces_.all().end() && at->first <= flight.last; ++at)
    if (at->second.mapping == mapping) at->second.memory = memory;
}

Space::Outcome Space::unmapped(Flight& flight, uint64_t length, Manner manner, int result, uint64_t bytes) {
  std::unique_lock lock(mutex_);
  const Outcome outcome = decide(flight, length, manner, result, bytes);
  if (!outcome.settle) finish(lock, flight);
  return outcome;
}

Space::Outcome Space::decide(const Flight& flight, uint64_t length, Manner manner, int result,
                             uint64_t bytes) {
  auto& all = pieces_.all();
  const auto first = pieces_.find(flight.start, flight.last);
  Outcome outcome{false, flight.last, flight.born + 1};
  if (result < 0) {
    outcome.settle = flight.valid && first != all.end() && mayHaveBegun(result);
    if (!outcome.settle) return outcome;
    // The kernel did not reach the pieces above the first one that the range cuts.
    for (auto at = first; at != all.end() && at->first <= flight.last; ++at) {
      if (at->first >= flight.start && at->second.last <= flight.last) continue;
      if (at->first == 0) outcome.settle = false;
      outcome.last = at->first - 1;
      break;
    }
    return outcome;
  }
  if (!flight.valid || first == all.end()) return outcome;
  const bool one = first->first == flight.start && first->second.last == flight.last;
  if (one && bytes == length && first->second.born < outcome.born) {
    pieces_.drop(first);
    return outcome;
  }
  if (one) manner = manner == Manner::unknown && bytes != length ? manner : Manner::wholeRange;
  switch (manner) {
    case Manner::wholeRange:
      if (hides() && bytes < recorded(flight, outcome)) {
        doubt(flight, kHidden);
        break;
      }
      pieces_.drop(flight.start, flight.last, outcome.born);
      // The kernel unmapped more than was recorded: a map that ran at the same time may have lost its new
      // mapping.
      outcome.settle = !flight.alone && bytes > length;
      outcome.born = UINT64_MAX;
      break;
    case Manner::firstVersion: {
      if (bytes == 0 && !hides()) break;
      const bool known = first->first >= flight.start && bytes >= recorded(flight, outcome);
      if (!known) {
        doubt(flight, hides() ? kHidden : kLess);
        break;
      }
      for (auto at = first; at != all.end() && at->first <= flight.last;) {
        const uint64_t start = at->first;
        ++at;
        pieces_.dropWhole(start);
      }
      break;
    }
    case Manner::unknown:
      if (bytes != 0 || hides()) doubt(flight, hides() ? kHidden : kUnknownKind);
      break;
  }
  return outcome;
}

bool Space::hides() const {
  const auto& all = pieces_.all();
  return !all.empty() && std::prev(all.end())->second.last == UINT64_MAX;
}

bool Space::mayHide() {
  const std::lock_guard lock(mutex_);
  return hides();
}

uint64_t Space::recorded(const Flight& flight, const Outcome& outcome) {
  uint64_t sum = 0;
  for (auto at = pieces_.find(flight.start, flight.last);
       at != pieces_.all().end() && at->first <= flight.last; ++at)
    if (at->second.born < outcome.born) sum += at->second.last - at->first + 1;
  return sum;
}

void Space::doubt(const Flight& flight, const char* why) {
  for (auto at = pieces_.find(flight.start, flight.last);
       at != pieces_.all().end() && at->first <= flight.last; ++at)
    at->second.doubt = why;
  ++doubtCount;
}

int Space::keepHidden(Flight& flight, Wanted& wanted) {
  std::unique_lock lock(mutex_);
  const auto there = pieces_.find(flight.start, flight.last);
  if (!flight.valid || there == pieces_.all().end() || there->second.memory == nullptr) return 0;
  try {
    wanted.memory = std::make_shared<std::pair<Memory, Memory>>(wanted.memory, there->second.memory);
    return 0;
  } catch (const std::bad_alloc&) {
    finish(lock, flight);
    return -ENOMEM;
  }
}

std::optional<std::pair<uint64_t, uint64_t>> Space::pieceIn(uint64_t start, const Outcome& outcome) {
  const std::lock_guard lock(mutex_);
  for (auto at = pieces_.all().lower_bound(start); at != pieces_.all().end(); ++at) {
    if (at->second.last > outcome.last) break;
    if (at->second.born < outcome.born) return std::pair{at->first, at->second.last};
  }
  return std::nullopt;
}

bool Space::settled(uint64_t start, int result, uint64_t bytes) {
  if (result < 0 && result != -ENOENT) return false;
  const std::lock_guard lock(mutex_);
  if (result >= 0 && bytes == 0 && hides()) {
    pieces_.all().find(start)->second.doubt = kHidden;
    ++doubtCount;
  } else {
    pieces_.dropWhole(start);
  }
  return true;
}

bool Space::close(std::shared_ptr<Idle> then) {
  const std::lock_guard lock(mutex_);
  closed_ = true;
  if (flights_ == nullptr) return false;
  idle_ = std::move(then);
  return true;
}

void Space::reopen() {
  const std::lock_guard lock(mutex_);
  closed_ = false;
}

void Space::forget(bool forGood) {
  const std::lock_guard lock(mutex_);
  pieces_.clear();
  ended_ = ended_ || forGood;
}

void Space::ended() {
  forget(true);
  left_.notify_all();
}

bool Space::hasEnded() const {
  const std::lock_guard lock(mutex_);
  return ended_ || closed_;
}

void Space::doubt(const char* reason) {
  const std::lock_guard lock(mutex_);
  for (auto& [start, piece] : pieces_.all()) piece.doubt = reason;
  if (!pieces_.empty()) ++doubtCount;
}

std::vector<Mapped> Space::mapped() const {
  const std::lock_guard lock(mutex_);
  std::vector<Mapped> out;
  for (const auto& [start, piece] : pieces_.all())
    out.push_back({start, piece.last - start + 1, piece.writable});
  return out;
}

bool Space::whole(uint64_t mapping, uint64_t start, uint64_t last) const {
  const auto& all = pieces_.all();
  for (auto at = all.find(start); at != all.end() && at->first == start && at->second.mapping == mapping;
       ++at) {
    if (at->second.last >= last) return at->second.last == last;
    start = at->second.last + 1;
  }
  return false;
}

bool Space::holds(uint64_t mapping, uint64_t iova, uint64_t length) const {
  const std::lock_guard lock(mutex_);
  return whole(mapping, iova, iova + (length - 1));
}

bool Space::empty() const {
  const std::lock_guard lock(mutex_);
  return pieces_.empty();
}

void Space::doubtful(std::vector<std::pair<const char*, uint64_t>>& out) const {
  const std::lock_guard lock(mutex_);
  for (const auto& [start, piece] : pieces_.all())
    if (piece.doubt != nullptr) out.emplace_back(piece.doubt, piece.last - start + 1);
}

Pieces::Map Space::takeAll() {
  const std::lock_guard lock(mutex_);
  Pieces::Map all;
  all.swap(pieces_.all());
  return all;
}

}  // namespace vfio::ledger
