#include "functions.h"

#include <algorithm>
#include <array>
#include <cerrno>
#include <optional>

#include "../../pci/registers.h"
#include "../driver.h"

namespace vfio::soft::machine::sysfs {

using namespace pci;

namespace {

std::string resourceText(const Function& function) {
  // Lines for six BARs, the ROM and the six BARs of SR-IOV; for a bridge, also its four windows.
  const size_t lines = function.isBridge() ? 17 : 13;
  std::string text;
  for (size_t i = 0; i < lines; ++i) {
    uint64_t start = 0, last = 0, flags = 0;
    constexpr size_t firstVirtual = 7;
    if (i < function.resources.size() && function.resources[i].address != 0) {
      const auto& resource = function.resources[i];
      start = resource.address;
      last = start + resource.size - 1;
      flags = resource.flags;
    } else if (function.sriov && i >= firstVirtual && function.sriov->spec.placed[i - firstVirtual] != 0) {
      const auto& spec = function.sriov->spec;
      const auto& bar = spec.description.bars[i - firstVirtual];
      start = spec.placed[i - firstVirtual];
      last = start + bar.size * spec.totalVfs - 1;
      flags = resourceFlags(bar);
    }
    text += format("0x%016llx 0x%016llx 0x%016llx\n", static_cast<unsigned long long>(start),
                   static_cast<unsigned long long>(last), static_cast<unsigned long long>(flags));
  }
  return text;
}

std::string modalias(const Function& function) {
  const auto& d = function.description();
  return format("pci:v%08Xd%08Xsv%08Xsd%08Xbc%02Xsc%02Xi%02X", d.vendor, d.device, d.subsystemVendor,
                d.subsystem, d.classCode >> 16, d.classCode >> 8 & 0xff, d.classCode & 0xff);
}

Attribute uevent(Function& function) {
  return {[&function](std::string& text) {
            const auto& id = function.description();
            if (function.driver) text += "DRIVER=" + function.driver->name + "\n";
            text += format("PCI_CLASS=%X\nPCI_ID=%04X:%04X\n", id.classCode, id.vendor, id.device);
            text += format("PCI_SUBSYS_ID=%04X:%04X\n", id.subsystemVendor, id.subsystem);
            text += "PCI_SLOT_NAME=" + function.bdf + "\nMODALIAS=" + modalias(function) + "\n";
            return 0;
          },
          nullptr};
}

Attribute enable(Function& function) {
  return {[&function](std::string& text) {
            text = format("%u\n", function.enableCount);
            return 0;
          },
          store([&function](std::string_view text) {
            uint64_t wanted = 0;
            if (number(text, UINT64_MAX, wanted) != 0) return -EINVAL;
            if (function.driver) return -EBUSY;
            if (wanted != 0) {
              ++function.enableCount;
            } else if (function.enableCount == 0) {
              return -EIO;
            } else {
              --function.enableCount;
            }
            return 0;
          })};
}

Attribute driverOverride(Function& function) {
  return {[&function](std::string& text) {
            text = function.driverOverride.value_or("(null)") + "\n";
            return 0;
          },
          store([&function](std::string_view text) {
            constexpr size_t pageSize = 4096;
            if (text.size() >= pageSize - 1) return -EINVAL;
            // Text after a newline or a NUL is ignored. An empty name clears the override.
            const auto name = text.substr(0, text.find_first_of(std::string_view("\n\0", 2)));
            function.driverOverride.reset();
            if (!name.empty()) function.driverOverride = std::string(name);
            return 0;
          })};
}

Attribute reset(Function& function) {
  return {nullptr, store([&function](std::string_view text) {
            uint64_t wanted = 0;
            if (number(text, UINT64_MAX, wanted) != 0 || wanted != 1) return -EINVAL;
            return function.tryReset();
          })};
}

Attribute resetMethod(Function& function) {
  return {[&function](std::string& text) {
            for (const auto& method : function.resets()) text += (text.empty() ? "" : " ") + method;
            if (!text.empty()) text += "\n";
            return 0;
          },
          store([&function](std::string_view text) {
            const auto& supported = function.resetMethods;
            std::vector<std::string> wanted;
            std::string name;
            for (const char c : std::string(trimmed(text)) + ' ') {
              if (c != ' ') {
                name += c;
              } else if (!name.empty()) {
                wanted.push_back(std::move(name));
                name.clear();
              }
            }
            if (wanted.size() == 1 && wanted.front() == "default") wanted = supported;
            for (const auto& method : wanted) {
              if (std::find(supported.begin(), supported.end(), method) == supported.end()) return -EINVAL;
            }
            function.chosenResets = std::move(wanted);
            return 0;
          })};
}

// The attributes of functions.
struct FunctionFile {
  std::string_view name;
  Attribute (*make)(Function&);
};

constexpr std::array commonFiles = {
    FunctionFile{"vendor", [](Function& f) { return fixed(format("0x%04x\n", f.description().vendor)); }},
    FunctionFile{"device", [](Function& f) { return fixed(format("0x%04x\n", f.description().device)); }},
    FunctionFile{"subsystem_vendor",
                 [](Function& f) { return fixed(format("0x%04x\n", f.description().subsystemVendor)); }},
    FunctionFile{"subsystem_device",
                 [](Function& f) { return fixed(format("0x%04x\n", f.description().subsystem)); }},
    FunctionFile{"class", [](Function& f) { return fixed(format("0x%06x\n", f.description().classCode)); }},
    FunctionFile{"revision", [](Function& f) { return fixed(format("0x%02x\n", f.description().revision)); }},
    FunctionFile{"irq", [](Function& f) { return fixed(format("%u\n", f.interrupt)); }},
    FunctionFile{"numa_node", [](Function&) { return fixed("-1\n"); }},
    FunctionFile{"msi_bus", [](Function&) { return fixed("1\n"); }},
    FunctionFile{"modalias", [](Function& f) { return fixed(modalias(f) + "\n"); }},
    FunctionFile{"resource", [](Function& f) { return fixed(resourceText(f)); }},
    FunctionFile{"dma_mask_bits", [](Function&) { return fixed("32\n"); }},
    FunctionFile{"consistent_dma_mask_bits", [](Function&) { return fixed("32\n"); }},
    FunctionFile{"uevent", uevent},
    FunctionFile{"enable", enable},
    FunctionFile{"driver_override", driverOverride},
};

constexpr std::array resetFiles = {FunctionFile{"reset", reset}, FunctionFile{"reset_method", resetMethod}};

// Calls `visit` with each of a function's files.
template <typename Visit>
void forEachFile(const Function& function, Visit visit) {
  for (const auto& file : commonFiles) visit(file);
  if (function.resetMethods.empty()) return;
  for (const auto& file : resetFiles) visit(file);
}

Offer filesOf(Function& function) {
  return {[&function](std::vector<std::string>& names) {
            forEachFile(function, [&names](const FunctionFile& file) { names.emplace_back(file.name); });
          },
          [&function](std::string_view name) {
            std::optional<Attribute> made;
            forEachFile(function, [&](const FunctionFile& file) {
              if (file.name == name) made = file.make(function);
            });
            return made;
          }};
}

}  // namespace

void FunctionFiles::addFunction(Function& function) {
  const std::string& path = function.path;
  tree_.offer(path, filesOf(function));
  if (function.isBridge()) {
    addText(tree_, path + "/secondary_bus_number", format("%u\n", function.configRead(regSecondaryBus, 1)));
    addText(tree_, path + "/subordinate_bus_number",
            format("%u\n", function.configRead(regSubordinateBus, 1)));
  }
  tree_.flat(path + "/config",
             {function.config.size(),
              [&function](uint64_t offset) {
                return static_cast<uint8_t>(function.configRead(static_cast<unsigned>(offset), 1));
              },
              [&function](uint64_t offset, unsigned width, uint32_t value) {
                function.configWrite(static_cast<unsigned>(offset), width, value);
              }});
  tree_.link(busPath + "/devices/" + function.bdf, path);
  tree_.link(path + "/subsystem", busPath);
  if (!function.translated) return;
  groups_.enterGroup(function);
  const std::string unit = "/sys/devices/virtual/iommu/" + function.endpoint->unit.name;
  tree_.link(path + "/iommu", unit);
  tree_.link(unit + "/devices/" + function.bdf, path);
}

void FunctionFiles::removeFunction(Function& function) {
  if (function.translated) {
    groups_.leaveGroup(function);
    tree_.remove("/sys/devices/virtual/iommu/" + function.endpoint->unit.name + "/devices/" + function.bdf);
  }
  tree_.remove(busPath + "/devices/" + function.bdf);
  tree_.remove(function.path);
}

void FunctionFiles::addSriov(Function& function, SetVirtual set) {
  const std::string& path = function.path;
  auto& sriov = *function.sriov;
  addText(tree_, path + "/sriov_totalvfs", format("%u\n", sriov.spec.totalVfs));
  addText(tree_, path + "/sriov_offset", format("%u\n", sriov.spec.offset));
  addText(tree_, path + "/sriov_stride", format("%u\n", sriov.spec.stride));
  addText(tree_, path + "/sriov_vf_device", format("%x\n", sriov.spec.description.device));
  addText(tree_, path + "/sriov_vf_total_msix", "0\n");  // no driver here distributes MSI-X vectors
  tree_.attribute(path + "/sriov_drivers_autoprobe", {[&sriov](std::string& text) {
                                                        text = sriov.autoprobe ? "1\n" : "0\n";
                                                        return 0;
                                                      },
                                                      storeFlag(sriov.autoprobe)});
  tree_.attribute(path + "/sriov_numvfs", {[&sriov](std::string& text) {
                                             text = format("%u\n", sriov.count);
                                             return 0;
                                           },
                                           store([&function, set = std::move(set)](std::string_view text) {
                                             uint64_t wanted = 0;
                                             if (number(text, UINT16_MAX, wanted) != 0) return -EINVAL;
                                             const auto& has = *function.sriov;
                                             if (wanted > has.spec.totalVfs) return -ERANGE;
                                             if (wanted == has.count) return 0;
                                             if (!function.driver || !function.driver->setVirtual)
                                               return -ENOENT;
                                             if (wanted != 0 && has.count != 0) return -EBUSY;
                                             return set(function, static_cast<unsigned>(wanted));
                                           })});
}

void FunctionFiles::addVirtual(Function& function, unsigned index) {
  tree_.link(function.physical->path + "/virtfn" + std::to_string(index), function.path);
  tree_.link(function.path + "/physfn", function.physical->path);
  tree_.attribute(function.path + "/sriov_vf_msix_count",
                  {nullptr, store([](std::string_view text) {
                     uint64_t wanted = 0;
                     return number(text, INT32_MAX, wanted) == 0 ? -EOPNOTSUPP : -EINVAL;
                   })});
}

void FunctionFiles::removeVirtual(const Function& function, unsigned index) {
  tree_.remove(function.physical->path + "/virtfn" + std::to_string(index));
}

}  // namespace vfio::soft::machine::sysfs
