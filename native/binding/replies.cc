#include "replies.h"

#include "../uapi/vfio.h"
#include "environment.h"

namespace vfio::binding {
namespace {

// Larger than any real answer: room for tens of thousands of ranges, or of devices that one reset affects.
constexpr size_t kMostBytes = size_t{1} << 20;
// The answer may grow between two calls, but not every time.
constexpr int kMostTimes = 8;

}  // namespace

void Reply::refuse(const std::string& reason) const { throwReply(env_, syscall_, request_, reason); }

size_t Reply::moved(int64_t result, size_t asked) const {
  if (result < 0 || static_cast<uint64_t>(result) > asked)
    refuse("it says that it moved " + std::to_string(result) + " bytes of " + std::to_string(asked));
  return static_cast<size_t>(result);
}

void Reply::counted(uint64_t count, size_t room, const char* things) const {
  if (count > room)
    refuse("it tells of " + std::to_string(count) + " " + things + " where there is room for " +
           std::to_string(room));
}

void Reply::range(uint64_t start, uint64_t last) const {
  if (start > last) refuse("it tells of a range that ends before it begins");
}

void Room::grow(size_t needed) {
  if (needed > kMostBytes)
    reply_.refuse("it asks for " + std::to_string(needed) + " bytes to answer in, of which " +
                  std::to_string(kMostBytes) + " are the most");
  if (++grown_ > kMostTimes) reply_.refuse("it asks for more room to answer in every time");
  bytes_.resize(needed);
}

std::vector<Capability> capabilitiesOf(const Reply& reply, std::span<const uint8_t> answer, uint32_t first,
                                       size_t header) {
  std::vector<Capability> found;
  size_t least = header;
  for (uint32_t at = first; at != 0;) {
    uapi::vfio_info_cap_header capability;
    if (at < least || at > answer.size() || answer.size() - at < sizeof capability)
      reply.refuse("a capability is said to be at byte " + std::to_string(at) + ", where none can be");
    std::memcpy(&capability, answer.data() + at, sizeof capability);
    least = at + sizeof capability;
    const uint32_t next = capability.next;
    const size_t end = next >= least && next <= answer.size() ? next : answer.size();
    found.push_back({capability.id, answer.subspan(at, end - at)});
    at = next;
  }
  return found;
}

}  // namespace vfio::binding
