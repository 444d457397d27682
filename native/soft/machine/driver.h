// Drivers, and the driver core that binds functions to them: matching, driver_override, bind, unbind,
// probing, dynamic ids.
//
// Life: drivers are registered and live as long as the machine.
#pragma once

#include <cstdint>
#include <functional>
#include <list>
#include <map>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

namespace vfio::soft::pci {
class Function;
}

namespace vfio::soft::machine {

using pci::Function;

struct Id {
  static constexpr uint32_t any = 0xffffffff;
  uint32_t vendor = any, device = any, subsystemVendor = any, subsystem = any;
  uint32_t classCode = 0, classMask = 0;
  [[nodiscard]] bool matches(const Function& function) const;
};

class Driver {
 public:
  std::string name;
  std::vector<Id> ids;
  bool dma = false;  // does DMA for the kernel, which then owns the groups of its functions
  std::function<int(Function&)> probe = [](Function&) { return 0; };   // 0 or -errno
  std::function<int(Function&)> remove = [](Function&) { return 0; };  // 0, or -EBUSY: it stays bound
  // Makes that number of virtual functions, or removes all (0): 0 or -errno. Empty: the driver can't.
  std::function<int(Function&, unsigned)> setVirtual{};
  std::vector<Id> dynamicIds{};
};

class DriverCore {
 public:
  // Called for each function that was bound to a driver or unbound from it.
  using Changed = std::function<void(Function&, Driver&, bool bound)>;
  explicit DriverCore(Changed changed) : changed_(std::move(changed)) {}

  Driver& add(Driver driver);
  void addFunction(Function& function);
  void removeFunction(Function& function);
  [[nodiscard]] Function* find(std::string_view text) const;  // by address; null: there is none
  [[nodiscard]] Driver* driver(std::string_view name) const;  // null: there is none

  // What a write to the files of these names in sysfs does: 0 or -errno.
  [[nodiscard]] int bind(Driver& driver, std::string_view text);
  [[nodiscard]] int unbind(Driver& driver, std::string_view text);
  [[nodiscard]] int probe(std::string_view text);
  [[nodiscard]] int newId(Driver& driver, std::string_view text);
  [[nodiscard]] int removeId(Driver& driver, std::string_view text);

  bool autoprobe = true;

 private:
  [[nodiscard]] static bool matches(const Driver& driver, const Function& function);
  [[nodiscard]] int attach(Driver& driver, Function& function, bool& refused);

  Changed changed_;
  std::vector<std::unique_ptr<Driver>> drivers_;
  std::map<std::string, Driver*, std::less<>> byName_;
  std::list<Function*> functions_;
  std::map<std::string, std::list<Function*>::iterator, std::less<>> byAddress_;
};

// The text up to the first NUL, without one newline at its end, which shells add.
[[nodiscard]] std::string_view trimmed(std::string_view text);

}  // namespace vfio::soft::machine
