// Numbers that the kernel hands out lowest first: of groups, of VFIO devices, of minor devices. What is asked
// takes the logarithm of how many are out.
#pragma once

#include <set>

namespace vfio::soft::machine {

class Numbers {
 public:
  // The lowest that is free.
  [[nodiscard]] unsigned lowest() const { return free_.empty() ? next_ : *free_.begin(); }
  [[nodiscard]] unsigned take() {
    const unsigned number = lowest();
    take(number);
    return number;
  }
  // This one, which is free.
  void take(unsigned number) {
    while (next_ <= number) free_.insert(next_++);
    free_.erase(number);
  }
  void giveBack(unsigned number) { free_.insert(number); }

 private:
  std::set<unsigned> free_;  // below next_
  unsigned next_ = 0;
};

}  // namespace vfio::soft::machine
