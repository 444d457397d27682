// See generate_vfio.cc.
#pragma once

#include <string>
#include <vector>

#include "builder.h"
#include "generate_iommufd.h"

namespace vfio::fuzz {

class VfioGenerator {
 public:
  explicit VfioGenerator(Builder& builder) : b_(builder), iommufd_(builder, false) {}
  void generate();

 private:
  struct Device {
    std::string fd;
    std::string id;
    bool bound = false;
    bool writable = true;
  };
  [[nodiscard]] Random& random() { return b_.random; }
  Device& device();
  void openDevice();
  void bind(Device& device);
  void attach(Device& device);
  void detach(Device& device);
  void info(Device& device);
  void interrupts(Device& device);
  void raise(Device& device);
  void registers(Device& device);
  void configuration(Device& device);
  void dma(Device& device);
  void reset(Device& device);
  void feature(Device& device);
  void eventfd(Device& device);
  void file(Device& device);
  void writeRegister(Device& device, uint64_t offset, unsigned width, Value value);

  Builder& b_;
  IommufdGenerator iommufd_;
  std::vector<Device> devices_;
  std::vector<std::string> events_;  // eventfds that devices signal
  std::vector<std::string> inputs_;  // eventfds that unmask, or write a register
  unsigned transfers_ = 0;
};

}  // namespace vfio::fuzz
