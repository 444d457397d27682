// The state of a device model as bytes, to be loaded into another device of the same model: a header that
// says which model and which variant it is of, the model's values, and a checksum over all of it.
//
// Life: a StateWriter is made by a model's save and gives the bytes away; a StateReader lasts as long as the
// load that made it, and the bytes outlive it.
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

// Whose state it is. Another variant of a model is another model.
struct StateKind {
  std::string_view model;
  uint32_t variant;  // a version of the state's layout, or what device the model stands for
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

  // False: the state is damaged, or another model's, or shorter. It stays false from then on.
  template <typename Value>
  bool get(Value& value) {
    static_assert(std::is_trivially_copyable_v<Value>);
    return getBytes({reinterpret_cast<uint8_t*>(&value), sizeof value});
  }
  bool getBytes(std::span<uint8_t> into);
  // Bytes that are used where they lie; empty: there are not so many.
  [[nodiscard]] std::span<const uint8_t> view(size_t size);
  // Was all of it read, and right?
  [[nodiscard]] bool finished() const { return good_ && left_.empty(); }

 private:
  bool good_ = false;
  std::span<const uint8_t> left_;
};

// The memory behind the backed BARs of a device: all of its state, if its registers have none.
[[nodiscard]] std::vector<uint8_t> saveMemory(const StateKind& kind, const Description& description,
                                              Port& port);
[[nodiscard]] bool loadMemory(const StateKind& kind, const Description& description, Port& port,
                              std::span<const uint8_t> state);

}  // namespace vfio::soft::devices
