// The object that holds a function for programs: VFIO's side of the function. pci/ knows it only by this
// interface.
//
// Life: created when a driver of VFIO is bound to the function, which then owns it; destroyed when the
// driver is unbound, or with the function.
#pragma once

namespace vfio::soft::pci {

class Holder {
 public:
  Holder() = default;
  virtual ~Holder() = default;
  Holder(const Holder&) = delete;
  Holder& operator=(const Holder&) = delete;

  [[nodiscard]] virtual bool inUse() const = 0;  // a program has it open
  virtual void requestRelease() = 0;             // tells the program that the host wants the device back
};

}  // namespace vfio::soft::pci
