// Random numbers that are the same everywhere for the same seed (splitmix64).
#pragma once

#include <cstddef>
#include <cstdint>
#include <iterator>

namespace vfio::fuzz {

class Random {
 public:
  explicit Random(uint64_t seed) : state_(seed) {}

  uint64_t next() {
    uint64_t mixed = state_ += 0x9e3779b97f4a7c15;
    mixed = (mixed ^ (mixed >> 30)) * 0xbf58476d1ce4e5b9;
    mixed = (mixed ^ (mixed >> 27)) * 0x94d049bb133111eb;
    return mixed ^ (mixed >> 31);
  }
  // 0 to `end` - 1.
  uint64_t below(uint64_t end) { return end == 0 ? 0 : next() % end; }
  bool percent(unsigned chance) { return below(100) < chance; }
  template <class List>
  auto& of(List& list) {
    return list[below(std::size(list))];
  }

 private:
  uint64_t state_;
};

}  // namespace vfio::fuzz
