// The state of a device model as bytes, to be loaded into another device of the same model: a header that
// names the model and its variant, the model's values, and a checksum over all of it.
//
// Life: a model's save creates a StateWriter, which hands over the bytes at its end. A StateReader lives as
// long as the load that created it, and the bytes outlive it.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <span>
#include <string_view>
#include <type_traits>
#include <vector>

#include "device.h"

namespace vfio::soft::devices {

// The model that a state belongs to. Another variant of a model counts as another model.
struct StateKind {
  std::string_view model;
  uint32_t variant;  // a version of the state's layout, or the device that the model stands for
};

class StateWriter {
 public:
  explicit StateWriter(const StateKind& kind);

  template <typename Value>
  void put(const Value& value) {
    static_assert(std::is_trivially_copyable_v<Value> && std::has_unique_object_representations_v<Value>);
    putBytes({reinterpret_cast<const uint8_t*>(&value), sizeof value});
  }
  void putBytes(std::span<const uint8_t> bytes);
  [[nodiscard]] std::vector<uint8_t> finish() &&;

 private:
  std::vector<uint8_t> bytes_;
};

class StateReader {
 public:
  StateReader(const StateKind& kind, std::span<const uint8_t> state);

  // Returns false if the state is damaged, another model's, or too short. From then on it always returns
  // false.
  template <typename Value>
  bool get(Value& value) {
    static_assert(std::is_trivially_copyable_v<Value>);
    return getBytes({reinterpret_cast<uint8_t*>(&value), sizeof value});
  }
  bool getBytes(std::span<uint8_t> into);
  // Returns bytes that are used in place, without a copy. Empty if fewer bytes are left.
  [[nodiscard]] std::span<const uint8_t> view(size_t size);
  // Was the whole state read, without an error?
  [[nodiscard]] bool finished() const { return good_ && left_.empty(); }

 private:
  bool good_ = false;
  std::span<const uint8_t> left_;
};

// The memory behind the backed BARs of a device. It is the whole state of a device whose registers have
// none.
[[nodiscard]] std::vector<uint8_t> saveMemory(const StateKind& kind, const Description& description,
                                              Port& port);
[[nodiscard]] bool loadMemory(const StateKind& kind, const Description& description, Port& port,
                              std::span<const uint8_t> state);

}  // namespace vfio::soft::devices
