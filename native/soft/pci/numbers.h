// Numbers that the kernel hands out lowest first: of VFIO devices, of minor devices.
#pragma once

#include <set>

namespace vfio::soft::pci {

class Numbers {
 public:
  [[nodiscard]] unsigned take() {
    if (returned_.empty()) return next_++;
    return returned_.extract(returned_.begin()).value();
  }
  void giveBack(unsigned number) { returned_.insert(number); }

 private:
  std::set<unsigned> returned_;  // below next_
  unsigned next_ = 0;
};

}  // namespace vfio::soft::pci
