// The rules of the kernel's driver core: which driver matches, and which errno a write to each file returns.
#include "driver.h"

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstdio>

#include "../pci/function.h"

namespace vfio::soft::machine {

namespace {

// Reads `vendor device [subvendor [subdevice [class [mask]]]]` in hex; returns how many fields were read.
int parse(std::string_view text, Id& id) {
  const std::string copy(trimmed(text));
  unsigned vendor = 0, device = 0, subvendor = Id::any, subsystem = Id::any, code = 0, mask = 0;
  unsigned long data = 0;
  const int fields = std::sscanf(copy.c_str(), "%x %x %x %x %x %x %lx", &vendor, &device, &subvendor,
                                 &subsystem, &code, &mask, &data);
  id = {vendor, device, subvendor, subsystem, code, mask};
  return fields;
}

}  // namespace

std::string_view trimmed(std::string_view text) {
  text = text.substr(0, text.find('\0'));
  if (!text.empty() && text.back() == '\n') text.remove_suffix(1);
  return text;
}

bool Id::matches(const Function& function) const {
  const auto& description = function.description();
  const auto same = [](uint32_t wanted, uint32_t has) { return wanted == any || wanted == has; };
  return same(vendor, description.vendor) && same(device, description.device) &&
         same(subsystemVendor, description.subsystemVendor) && same(subsystem, description.subsystem) &&
         ((classCode ^ description.classCode) & classMask) == 0;
}

Driver& DriverCore::add(Driver driver) {
  Driver& added = *drivers_.emplace_back(std::make_unique<Driver>(std::move(driver)));
  byName_.emplace(added.name, &added);
  return added;
}

void DriverCore::addFunction(Function& function) {
  byAddress_.emplace(function.bdf, functions_.insert(functions_.end(), &function));
}

void DriverCore::removeFunction(Function& function) {
  const auto found = byAddress_.find(function.bdf);
  functions_.erase(found->second);
  byAddress_.erase(found);
}

Function* DriverCore::find(std::string_view text) const {
  const auto found = byAddress_.find(trimmed(text));
  return found == byAddress_.end() ? nullptr : *found->second;
}

Driver* DriverCore::driver(std::string_view name) const {
  const auto found = byName_.find(name);
  return found == byName_.end() ? nullptr : found->second;
}

bool DriverCore::matches(const Driver& driver, const Function& function) {
  if (function.driverOverride) return *function.driverOverride == driver.name;
  const auto fits = [&function](const Id& id) { return id.matches(function); };
  return std::any_of(driver.dynamicIds.begin(), driver.dynamicIds.end(), fits) ||
         std::any_of(driver.ids.begin(), driver.ids.end(), fits);
}

// Binds: 0 or -errno. `refused`: it failed because of DMA ownership, which drivers_probe reports as an error.
// A failure of the driver's probe it does not report.
int DriverCore::attach(Driver& driver, Function& function, bool& refused) {
  auto& group = function.endpoint->group;
  refused = driver.dma && (group.owner != nullptr || group.kernelTable);
  if (refused) return -EBUSY;
  const bool waits = function.physical && !function.physical->sriov->autoprobe && !function.driverOverride;
  if (waits) return -ENODEV;
  if (driver.dma) ++group.kernelDrivers;
  if (const int failed = driver.probe(function)) {
    if (driver.dma) --group.kernelDrivers;
    return failed;
  }
  function.driver = &driver;
  changed_(function, driver, true);
  return 0;
}

int DriverCore::bind(Driver& driver, std::string_view text) {
  auto* function = find(text);
  if (!function || !matches(driver, *function)) return -ENODEV;
  if (function->driver) return -EBUSY;
  bool refused = false;
  return attach(driver, *function, refused);
}

int DriverCore::unbind(Driver& driver, std::string_view text) {
  auto* function = find(text);
  if (!function || function->driver != &driver) return -ENODEV;
  if (const int failed = driver.remove(*function)) return failed;
  function->driver = nullptr;
  auto& group = function->endpoint->group;
  if (driver.dma && --group.kernelDrivers == 0) group.kernelTable = false;
  changed_(*function, driver, false);
  return 0;
}

int DriverCore::probe(std::string_view text) {
  auto* function = find(text);
  if (!function) return -ENODEV;
  bool refused = false;
  if (function->driverOverride) {
    Driver* const only = driver(*function->driverOverride);
    return only && !function->driver && attach(*only, *function, refused) != 0 && refused ? -EINVAL : 0;
  }
  for (const auto& each : drivers_) {
    if (function->driver) break;
    if (!matches(*each, *function)) continue;
    if (attach(*each, *function, refused) != 0 && refused) return -EINVAL;
  }
  return 0;
}

int DriverCore::newId(Driver& driver, std::string_view text) {
  Id id;
  const int fields = parse(text, id);
  if (fields < 2) return -EINVAL;
  const auto same = [&id](const Id& other) {
    return other.vendor == id.vendor && other.device == id.device &&
           (other.subsystemVendor == Id::any || other.subsystemVendor == id.subsystemVendor) &&
           (other.subsystem == Id::any || other.subsystem == id.subsystem) &&
           ((other.classCode ^ id.classCode) & other.classMask) == 0;
  };
  if (fields != 7 && (std::any_of(driver.ids.begin(), driver.ids.end(), same) ||
                      std::any_of(driver.dynamicIds.begin(), driver.dynamicIds.end(), same))) {
    return -EEXIST;
  }
  constexpr size_t most = 4096;  // more than any machine needs; the kernel's limit is its memory
  if (driver.dynamicIds.size() >= most) return -ENOMEM;
  driver.dynamicIds.push_back(id);
  for (auto* function : functions_) {
    bool refused = false;
    if (function->driver || !matches(driver, *function)) continue;
    if (attach(driver, *function, refused) != 0) continue;  // it is left without a driver
  }
  return 0;
}

int DriverCore::removeId(Driver& driver, std::string_view text) {
  Id id;
  if (parse(text, id) < 2) return -EINVAL;
  const auto found = std::find_if(driver.dynamicIds.begin(), driver.dynamicIds.end(), [&id](const Id& other) {
    return other.vendor == id.vendor && other.device == id.device &&
           (id.subsystemVendor == Id::any || other.subsystemVendor == id.subsystemVendor) &&
           (id.subsystem == Id::any || other.subsystem == id.subsystem) &&
           ((other.classCode ^ id.classCode) & id.classMask) == 0;
  });
  if (found == driver.dynamicIds.end()) return -ENODEV;
  driver.dynamicIds.erase(found);
  return 0;
}

}  // namespace vfio::soft::machine
