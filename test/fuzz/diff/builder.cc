#include "builder.h"

#include <algorithm>
#include <array>

namespace vfio::fuzz {
namespace {

constexpr uint64_t kGetDirtyBitmap = 0x3b8c;
constexpr uint64_t kBind = 0x3b76;
constexpr uint64_t kSetIrqs = 0x3b6e;
constexpr uint64_t kIoEventFd = 0x3b74;
constexpr uint64_t kTest = 0x3ba0;

uint64_t tokenAt(const Call& call, size_t index) {
  return index < call.bytes.size() && call.bytes[index].value.variable.empty()
             ? call.bytes[index].value.number
             : 0;
}

// Is this token a small number, which may be a descriptor's, and not the result of a call?
bool guessed(const Call& call, size_t index) {
  return index < call.bytes.size() && call.bytes[index].value.variable.empty() &&
         (tokenAt(call, index) & 0xffffffff) < 0x1000;
}

// Would a random change make the call one that is left out? docs/fuzzing.md lists the names of these cases.
bool excluded(const Call& call, uint64_t requestBefore) {
  const uint64_t request = call.operands[1].number & 0xffffffff;
  // long-dirty-ranges: the kernel walks these ranges page by page, even where nothing is mapped.
  if (request == kGetDirtyBitmap) return tokenAt(call, 5) > (64 << 20);
  const uint64_t op = request == kTest ? tokenAt(call, 1) : 0;
  const bool takesDescriptor = op == 6 || op == 7 || op == 8 || op == 11;
  // guessed-descriptors: the two sides have different open numbers, also where a number is taken for an id.
  // Nor may the answer of another request be taken for the descriptor that this request would have returned.
  constexpr uint64_t kCreateAccess = 5;
  for (const Save& save : call.saves) {
    if (!save.variable.starts_with("f")) continue;
    if (request != requestBefore || (request == kTest && op != kCreateAccess)) return true;
  }
  for (const Token& token : call.bytes) {
    if (!token.value.variable.starts_with("f")) continue;
    if (token.value.number != 0 || request != requestBefore) return true;
    if (call.at) return true;  // the struct must not be copied to memory that may be mapped
    if (request == kTest && !takesDescriptor) return true;
  }
  if (request == kBind) return guessed(call, 2);
  if (request == kIoEventFd) return guessed(call, 4);
  constexpr uint64_t kEventFds = 4;
  if (request == kSetIrqs && (tokenAt(call, 1) & kEventFds) != 0) {
    constexpr size_t kHeader = 5;
    for (size_t at = kHeader; at < call.bytes.size(); ++at) {
      if (guessed(call, at)) return true;
    }
    return tokenAt(call, 4) > call.bytes.size() - std::min(call.bytes.size(), kHeader);
  }
  if (request != kTest) return false;
  if (requestBefore != kTest) return true;
  if (takesDescriptor && call.bytes.size() > 2 && !call.bytes[2].value.variable.starts_with("f")) {
    const uint64_t id = tokenAt(call, 2) & 0xffffffff;
    if (!call.bytes[2].value.variable.empty() || id < 0x1000) return true;
  }
  // memory-limit: there is one limit for the whole kernel.
  return op == 9;
}

}  // namespace

std::string Builder::open(const std::string& path, unsigned flags) {
  std::string name = fresh('f');
  add({.op = Op::open, .result = name, .operands = {number(flags)}, .path = path});
  return name;
}

void Builder::ioctl(const std::string& fd, uint64_t request, std::vector<Token> bytes,
                    std::vector<Save> saves) {
  Call call{.op = Op::ioctl,
            .operands = {variable(fd), number(request)},
            .bytes = std::move(bytes),
            .saves = std::move(saves)};
  if (random.percent(6)) {
    const Call right = call;
    spoil(call);
    if (excluded(call, request)) call = right;
  }
  add(std::move(call));
}

void Builder::ioctlValue(const std::string& fd, uint64_t request, uint64_t value) {
  add({.op = Op::ioctl, .operands = {variable(fd), number(request), number(value)}});
}

void Builder::store(uint64_t offset, std::vector<Token> bytes) {
  add({.op = Op::store, .at = memory(offset), .bytes = std::move(bytes)});
}

void Builder::transfer(Op op, const std::string& fd, Value address, uint64_t size, uint64_t offset) {
  Call call{.op = op, .operands = {variable(fd), std::move(address), number(size)}};
  if (op == Op::pread || op == Op::pwrite) call.operands.push_back(number(offset));
  add(std::move(call));
}

void Builder::simple(Op op, const std::string& fd) { add({.op = op, .operands = {variable(fd)}}); }

uint64_t Builder::odd() {
  static constexpr std::array<uint64_t, 24> numbers = {0,
                                                       1,
                                                       2,
                                                       3,
                                                       4,
                                                       7,
                                                       8,
                                                       0x7ff,
                                                       0x800,
                                                       0xfff,
                                                       0x1000,
                                                       0x1001,
                                                       0x200000,
                                                       0x7fffffff,
                                                       0x80000000,
                                                       0xffffffff,
                                                       0x100000000,
                                                       0x7ffffffffffff000,
                                                       0x7fffffffffffffff,
                                                       0x8000000000000000,
                                                       0xfffffffffffff000,
                                                       0xfffffffffffffffe,
                                                       0xffffffffffffffff,
                                                       0xdead0000};
  if (random.percent(10)) return random.next();
  if (random.percent(10)) return uint64_t{1} << random.below(64);
  return random.of(numbers);
}

Builder::Span Builder::userMemory(uint64_t granule) {
  struct Stretch {
    uint64_t offset;
    uint64_t pages;
    unsigned weight;
  };
  static constexpr std::array<Stretch, 6> stretches = {{{Arena::kPlain, 16, 60},
                                                        {Arena::kShared, 8, 20},
                                                        {Arena::kReadOnly, 4, 6},
                                                        {Arena::kNone, 2, 2},
                                                        {Arena::kHole, 2, 2},
                                                        {Arena::kCopied, 4, 10}}};
  auto left = random.below(100);
  const Stretch* stretch = stretches.begin();
  while (left >= stretch->weight) left -= (stretch++)->weight;
  const uint64_t units = stretch->pages * Arena::kPage / granule;
  const uint64_t start = random.below(units);
  uint64_t length = random.below(std::min<uint64_t>(units - start, 6)) + 1;
  if (random.percent(3)) length = units - start + random.below(4);  // past the end
  if (random.percent(8)) length = units - start;
  return {memory(stretch->offset + start * granule), length * granule};
}

void Builder::spoil(Call& call) {
  const auto token = [&]() -> Token& { return random.of(call.bytes); };
  if (call.bytes.empty()) return;
  switch (random.below(10)) {
    case 0:
    case 1:
    case 2:
      token().value = number(odd());
      break;
    case 3:
      token().value.number ^= uint64_t{1} << random.below(64);
      break;
    case 4:  // another size in the struct
      call.bytes[0].value = number(random.below(2) != 0 ? random.below(80) : odd());
      break;
    case 5: {  // a longer struct
      const uint64_t more = 8 * (1 + random.below(3));
      call.bytes[0].value.number += more;
      for (uint64_t i = 0; i < more; i += 8) call.bytes.push_back(u64(random.percent(30) ? 1 : 0));
      break;
    }
    case 6: {  // a struct at the end of mapped memory, or across it
      uint64_t size = 0;
      for (const Token& each : call.bytes) size += each.width;
      const uint64_t across = random.percent(50) ? 0 : 4 * random.below(size / 4 + 1);
      call.at = memory(Arena::kArgumentEnd - size + across);
      break;
    }
    case 7: {  // a struct in memory that can't be read or written
      const std::array<Value, 6> places = {memory(Arena::kNone),
                                           memory(Arena::kHole + 8),
                                           memory(Arena::kReadOnly - 8),
                                           memory(Arena::kReadOnly + 16),
                                           number(0),
                                           number(0x8000000000000000 + 8 * random.below(1000))};
      call.at = random.of(places);
      if (call.at->variable.empty()) call.bytes.clear();
      break;
    }
    case 8: {  // another request
      uint64_t& request = call.operands[1].number;
      switch (random.below(4)) {
        case 0:
          request |= uint64_t{1} << (16 + random.below(48));
          break;
        case 1:
          request ^= uint64_t{1} << random.below(16);
          break;
        case 2:
          request = 0x3b00 + random.below(256);
          break;
        default:
          request = random.next() & 0xffffffff;
      }
      break;
    }
    default: {  // a struct at another address
      call.at = memory(random.percent(50) ? Arena::kPlain + random.below(0xff00)
                                          : Arena::kShared + 4 * random.below(64));
      break;
    }
  }
}

}  // namespace vfio::fuzz
