// Numbers that the kernel gives out lowest first: of groups, VFIO devices, minor devices. A call takes time
// logarithmic in the count of free numbers.
#pragma once

#include <set>

namespace vfio::soft::machine {

class Numbers {
 public:
  // The lowest free number.
  [[nodiscard]] unsigned lowest() const { return free_.empty() ? next_ : *free_.begin(); }
  [[nodiscard]] unsigned take() {
    const unsigned number = lowest();
    take(number);
    return number;
  }
  // Takes this number, which must be free.
  void take(unsigned number) {
    while (next_ <= number) free_.insert(next_++);
    free_.erase(number);
  }
  void giveBack(unsigned number) { free_.insert(number); }

 private:
  std::set<unsigned> free_;  // the free numbers below next_
  unsigned next_ = 0;
};

}  // namespace vfio::soft::machine
