// Checks the answer of a call against its arguments. The file may have another kind, the kernel may have a
// bug, or another program may imitate the kernel. None of them must make this process read past a buffer,
// allocate gigabytes or loop for ever.
//
// The rule: a length, count or offset that cannot be true is refused, with a VfioError with the code EPROTO
// whose reason says what is wrong. It is shortened only if the interface allows it to be larger than the
// buffer (GET_HW_INFO).
#pragma once

#include <napi.h>

#include <cstdint>
#include <cstring>
#include <span>
#include <string>
#include <vector>

namespace vfio::binding {

// The answer to one call.
class Reply {
 public:
  Reply(Napi::Env env, const char* syscall, const char* request)
      : env_(env), syscall_(syscall), request_(request) {}

  [[noreturn]] void refuse(const std::string& reason) const;
  // How many of the `asked` bytes a read or a write transferred. `result` must not be an error.
  [[nodiscard]] size_t moved(int64_t result, size_t asked) const;
  // Checks that the kernel stored at most as many things as fit: `count` must not exceed `room`.
  void counted(uint64_t count, size_t room, const char* things) const;
  // Checks that it is an address range, in the form that both kinds of space report.
  void range(uint64_t start, uint64_t last) const;

 private:
  Napi::Env env_;
  const char* syscall_;
  const char* request_;
};

// A buffer for an answer of unknown length: the call reports the size that it needs, and is made again.
class Room {
 public:
  Room(const Reply& reply, size_t size) : reply_(reply), bytes_(size) {}
  // Prepares a call: the buffer is zeroed, except for the header at its start. `header.argsz` is set.
  template <typename Header>
  void begin(Header& header) {
    header.argsz = static_cast<uint32_t>(bytes_.size());
    bytes_.assign(bytes_.size(), 0);
    std::memcpy(bytes_.data(), &header, sizeof header);
  }
  template <typename Header>
  void end(Header& header) const {
    std::memcpy(&header, bytes_.data(), sizeof header);
  }
  void grow(size_t needed);
  [[nodiscard]] uint8_t* data() { return bytes_.data(); }
  [[nodiscard]] size_t size() const { return bytes_.size(); }
  [[nodiscard]] std::span<const uint8_t> bytes() const { return bytes_; }

 private:
  const Reply& reply_;
  std::vector<uint8_t> bytes_;
  int grown_ = 0;
};

// One capability of an info answer: from its header on, up to where the next one begins.
struct Capability {
  uint16_t id;
  std::span<const uint8_t> bytes;
};

// The chain of capabilities that begins at `first`; 0: there is none. Each begins after the previous one.
[[nodiscard]] std::vector<Capability> capabilitiesOf(const Reply& reply, std::span<const uint8_t> answer,
                                                     uint32_t first, size_t header);

// The struct at the start of a capability, or of the bytes after it.
template <typename T>
T structAt(const Reply& reply, std::span<const uint8_t> bytes, const char* what) {
  if (bytes.size() < sizeof(T))
    reply.refuse(std::string(what) + " is " + std::to_string(bytes.size()) +
                 " bytes long, which is too short");
  T value;
  std::memcpy(&value, bytes.data(), sizeof value);
  return value;
}

// The entries after the fixed part of a capability: `count` entries, as the capability itself says.
template <typename T>
std::vector<T> entriesOf(const Reply& reply, std::span<const uint8_t> bytes, size_t fixed, uint32_t count,
                         const char* things) {
  const std::span<const uint8_t> rest = bytes.subspan(fixed);
  reply.counted(count, rest.size() / sizeof(T), things);
  std::vector<T> entries(count);
  if (count != 0) std::memcpy(entries.data(), rest.data(), count * sizeof(T));
  return entries;
}

}  // namespace vfio::binding
