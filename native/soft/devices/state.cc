// See state.h. Numbers are little-endian, like the machine's own.
#include "state.h"

#include <algorithm>

namespace vfio::soft::devices {

namespace {

constexpr size_t page = 4096;

// FNV-1a.
uint64_t checksum(std::span<const uint8_t> bytes) {
  uint64_t hash = 0xcbf29ce484222325;
  for (const uint8_t byte : bytes) hash = (hash ^ byte) * 0x100000001b3;
  return hash;
}

bool isZero(std::span<const uint8_t> bytes) {
  return std::ranges::all_of(bytes, [](uint8_t byte) { return byte == 0; });
}

// A page of a BAR, or a part of one at the end of a small BAR.
struct Place {
  uint64_t bar;
  uint64_t offset;
  uint64_t size;
};

template <typename Each>
void eachPage(const Description& description, const Each& each) {
  for (size_t bar = 0; bar < description.bars.size(); ++bar) {
    if (!description.bars[bar].hasMemory()) continue;
    const uint64_t size = description.bars[bar].size;
    for (uint64_t at = 0; at < size; at += page) each(Place{bar, at, std::min<uint64_t>(page, size - at)});
  }
}

}  // namespace

StateWriter::StateWriter(const StateKind& kind) {
  put(static_cast<uint32_t>(kind.model.size()));
  putBytes({reinterpret_cast<const uint8_t*>(kind.model.data()), kind.model.size()});
  put(kind.variant);
}

void StateWriter::putBytes(std::span<const uint8_t> bytes) {
  // Not `insert`, about which g++ 12 warns wrongly once it is inlined.
  for (const uint8_t byte : bytes) bytes_.push_back(byte);
}

std::vector<uint8_t> StateWriter::finish() && {
  put(checksum(bytes_));
  return std::move(bytes_);
}

StateReader::StateReader(const StateKind& kind, std::span<const uint8_t> state) {
  uint64_t sum = 0;
  if (state.size() < sizeof sum) return;
  left_ = state.first(state.size() - sizeof sum);
  std::memcpy(&sum, state.data() + left_.size(), sizeof sum);
  good_ = sum == checksum(left_);
  uint32_t length = 0;
  uint32_t variant = 0;
  if (!get(length)) return;
  const auto model = view(length);
  good_ = get(variant) && variant == kind.variant && std::ranges::equal(model, kind.model);
}

bool StateReader::getBytes(std::span<uint8_t> into) {
  const auto from = view(into.size());
  if (!good_) return false;
  std::ranges::copy(from, into.begin());
  return true;
}

std::span<const uint8_t> StateReader::view(size_t size) {
  good_ = good_ && left_.size() >= size;
  if (!good_) return {};
  const auto seen = left_.first(size);
  left_ = left_.subspan(size);
  return seen;
}

// Pages of zeroes are left out.
std::vector<uint8_t> saveMemory(const StateKind& kind, const Description& description, Port& port) {
  StateWriter writer(kind);
  eachPage(description, [&](const Place& place) {
    const std::span bytes(port.memory(static_cast<unsigned>(place.bar)) + place.offset, place.size);
    if (isZero(bytes)) return;
    writer.put(place);
    writer.putBytes(bytes);
  });
  return std::move(writer).finish();
}

bool loadMemory(const StateKind& kind, const Description& description, Port& port,
                std::span<const uint8_t> state) {
  // Reads the state twice: errors are found before anything changes.
  const auto read = [&](const auto& found) {
    StateReader reader(kind, state);
    auto next = Place{~uint64_t{0}, 0, 0};
    bool wanted = !reader.finished() && reader.get(next);
    eachPage(description, [&](const Place& place) {
      const bool here =
          wanted && next.bar == place.bar && next.offset == place.offset && next.size == place.size;
      const auto bytes = here ? reader.view(place.size) : std::span<const uint8_t>();
      found(place, bytes);
      if (here) wanted = !reader.finished() && reader.get(next);
    });
    return !wanted && reader.finished();
  };
  if (!read([](const Place&, std::span<const uint8_t>) {})) return false;
  return read([&port](const Place& place, std::span<const uint8_t> bytes) {
    const std::span to(port.memory(static_cast<unsigned>(place.bar)) + place.offset, place.size);
    if (!bytes.empty()) {
      std::ranges::copy(bytes, to.begin());
    } else if (!isZero(to)) {
      std::ranges::fill(to, uint8_t{0});
    }
  });
}

}  // namespace vfio::soft::devices
