// When an injected fault strikes: the nth time that it could, every time, or with a probability.
//
// A probability is decided by numbers of its own, from a seed: the same calls after the same injection fail
// again. The numbers and what is made of them are the same with every C++ library.
#pragma once

#include <cstdint>
#include <random>

namespace vfio {

struct Occurrence {
  uint64_t nth = 0;        // counted from 1; 0: every time, with the probability
  double probability = 1;  // 0 to 1
};

// A uniform number from 0 to 1, without 1.
[[nodiscard]] inline double uniform(std::mt19937_64& numbers) {
  return static_cast<double>(numbers() >> 11) * 0x1p-53;
}

class Trigger {
 public:
  Trigger(Occurrence when, uint64_t seed) : when_(when), numbers_(seed) {}
  // Asked once for each time that the fault could strike.
  [[nodiscard]] bool strikes() {
    if (when_.nth != 0) return ++seen_ == when_.nth;
    return when_.probability >= 1 || uniform(numbers_) < when_.probability;
  }
  [[nodiscard]] std::mt19937_64& numbers() { return numbers_; }

 private:
  const Occurrence when_;
  uint64_t seen_ = 0;
  std::mt19937_64 numbers_;
};

}  // namespace vfio
