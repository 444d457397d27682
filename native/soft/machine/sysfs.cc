// Formats are the kernel's, to the byte: tools parse them.
#include "sysfs.h"

#include <algorithm>
#include <array>
#include <cctype>
#include <cerrno>
#include <charconv>
#include <cstdio>
#include <optional>
#include <sstream>

#include "../core/services.h"
#include "../pci/registers.h"

namespace vfio::soft::machine {

using files::Attribute;
using files::Offer;
using files::Opener;
using files::Tree;
using namespace pci;

namespace {

const std::string busPath = "/sys/bus/pci";
const std::string groupsPath = "/sys/kernel/iommu_groups";
constexpr unsigned groupMajor = 252;
constexpr unsigned deviceMajor = 251;

template <typename... Values>
std::string format(const char* pattern, Values... values) {
  std::array<char, 160> text;
  std::snprintf(text.data(), text.size(), pattern, values...);
  return text.data();
}

// As a table of mounts has a name: what parts its columns goes by its number.
std::string escaped(const std::string& name) {
  std::string text;
  for (const char letter : name) {
    const bool parts = std::string_view(" \t\n\\").find(letter) != std::string_view::npos;
    text += parts ? format("\\%03o", static_cast<unsigned>(letter)) : std::string(1, letter);
  }
  return text;
}

// A store function out of one that gives 0 or -errno.
template <typename Function>
std::function<int64_t(std::string_view)> store(Function function) {
  return [function](std::string_view text) -> int64_t { return function(text); };
}

// A whole number as the kernel reads it: decimal, octal or hexadecimal, with a plus before it or a newline
// after it at most. 0, -EINVAL: it is none, or -ERANGE: it is larger than `most`.
int number(std::string_view text, uint64_t most, uint64_t& value) {
  text = trimmed(text);
  if (text.starts_with('+')) text.remove_prefix(1);
  const auto letter = [text](size_t i) { return i < text.size() ? static_cast<unsigned char>(text[i]) : 0; };
  int base = letter(0) == '0' ? 8 : 10;
  if (base == 8 && std::tolower(letter(1)) == 'x' && std::isxdigit(letter(2)) != 0) {
    base = 16;
    text.remove_prefix(2);
  }
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value, base);
  if (error == std::errc::result_out_of_range) return -ERANGE;
  if (error != std::errc() || end != text.data() + text.size()) return -EINVAL;
  return value > most ? -ERANGE : 0;
}

// One that never changes.
Attribute fixed(std::string text) {
  return {[text = std::move(text)](std::string& out) {
            out = text;
            return 0;
          },
          nullptr};
}

std::string resourceText(const Function& function) {
  // The BARs, the ROM and the six of SR-IOV; a bridge's windows besides.
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

const char* kindName(iommu::ReservedKind kind) {
  switch (kind) {
    case iommu::ReservedKind::direct:
      return "direct";
    case iommu::ReservedKind::directRelaxable:
      return "direct-relaxable";
    case iommu::ReservedKind::reserved:
      return "reserved";
    default:
      return "msi";
  }
}

std::string reservedText(const iommu::Group& group) {
  std::vector<iommu::ReservedRegion> regions;
  const auto add = [&regions](const iommu::ReservedRegion& region) {
    const auto same = [&region](const iommu::ReservedRegion& other) {
      return other.range.start == region.range.start && other.range.last == region.range.last &&
             other.kind == region.kind;
    };
    if (std::none_of(regions.begin(), regions.end(), same)) regions.push_back(region);
  };
  for (const auto* member : group.members) {
    for (const auto& region : member->unit.reserved) add(region);
    for (const auto& region : member->reserved) add(region);
  }
  std::sort(regions.begin(), regions.end(),
            [](const auto& a, const auto& b) { return a.range.start < b.range.start; });
  std::string text;
  for (const auto& region : regions) {
    text += format("0x%016llx 0x%016llx %s\n", static_cast<unsigned long long>(region.range.start),
                   static_cast<unsigned long long>(region.range.last), kindName(region.kind));
  }
  return text;
}

// A yes or a no, of which the kernel reads no more than it has to.
std::optional<bool> yesOrNo(std::string_view text) {
  const auto letter = [text](size_t i) {
    return i < text.size() ? std::tolower(static_cast<unsigned char>(text[i])) : 0;
  };
  switch (letter(0)) {
    case 'y':
    case 't':
    case '1':
      return true;
    case 'n':
    case 'f':
    case '0':
      return false;
    case 'o':
      if (letter(1) == 'n') return true;
      if (letter(1) == 'f') return false;
      return std::nullopt;
    default:
      return std::nullopt;
  }
}

std::function<int64_t(std::string_view)> storeFlag(bool& flag) {
  return store([&flag](std::string_view text) {
    const auto said = yesOrNo(text);
    if (!said) return -EINVAL;
    flag = *said;
    return 0;
  });
}

}  // namespace

void Sysfs::addText(const std::string& path, std::string text) {
  tree_.attribute(path, fixed(std::move(text)));
}

void Sysfs::addBus() {
  tree_.directory(busPath + "/devices");
  tree_.directory(busPath + "/drivers");
  tree_.directory(busPath + "/slots");
  tree_.directory(groupsPath);
  tree_.directory("/sys/class/vfio");
  tree_.directory("/sys/class/vfio-dev");
  tree_.directory("/sys/class/iommu");
  tree_.attribute(busPath + "/drivers_probe",
                  {nullptr, store([this](std::string_view text) { return core_.probe(text); })});
  tree_.attribute(busPath + "/drivers_autoprobe", {[this](std::string& text) {
                                                     text = core_.autoprobe ? "1\n" : "0\n";
                                                     return 0;
                                                   },
                                                   store([this](std::string_view text) {
                                                     core_.autoprobe = text.front() != '0';
                                                     return 0;
                                                   })});
}

void Sysfs::addSystem(const topology::SystemSpec& system, Parameters& parameters) {
  addText("/proc/cmdline", system.commandLine + "\n");
  const auto lines = [this](const std::string& path, std::string head,
                            const std::map<std::string, std::string>& from) {
    tree_.attribute(path, {[head = std::move(head), &from](std::string& text) {
                             text = head;
                             for (const auto& [name, line] : from) text += line;
                             return 0;
                           },
                           nullptr});
  };
  lines("/proc/self/mountinfo", "", mounts_);
  lines("/proc/net/route",
        "Iface\tDestination\tGateway\tFlags\tRefCnt\tUse\tMetric\tMask\tMTU\tWindow\tIRTT\n", routes_);
  deviceNodes_ = system.deviceNodes;
  addFlag(system.commandLine, "vfio", "enable_unsafe_noiommu_mode", parameters.unsafeNoIommu);
  if (system.vfioPci) addFlag(system.commandLine, "vfio_pci", "enable_sriov", parameters.sriov);
  if (system.iommufd)
    addFlag(system.commandLine, "iommufd", "allow_unsafe_interrupts", parameters.unsafeInterrupts);
  const std::string type1 = "vfio_iommu_type1";
  addFlag(system.commandLine, type1, "allow_unsafe_interrupts", parameters.type1UnsafeInterrupts);
  auto& limit = parameters.type1EntryLimit;
  tree_.attribute("/sys/module/" + type1 + "/parameters/dma_entry_limit",
                  {[&limit](std::string& text) {
                     text = format("%u\n", limit);
                     return 0;
                   },
                   store([&limit](std::string_view text) {
                     uint64_t wanted = 0;
                     if (const int failed = number(text, UINT32_MAX, wanted)) return failed;
                     limit = static_cast<uint32_t>(wanted);
                     return 0;
                   })});
}

void Sysfs::addFlag(const std::string& commandLine, const std::string& module, const std::string& name,
                    bool& flag) {
  const std::string option = module + "." + name + "=";
  std::istringstream words(commandLine);
  for (std::string word; words >> word;) {
    if (word.starts_with(option)) flag = yesOrNo(word.substr(option.size())).value_or(flag);
  }
  tree_.attribute("/sys/module/" + module + "/parameters/" + name, {[&flag](std::string& text) {
                                                                      text = flag ? "Y\n" : "N\n";
                                                                      return 0;
                                                                    },
                                                                    storeFlag(flag)});
}

void Sysfs::addDriver(Driver& driver) {
  const std::string path = busPath + "/drivers/" + driver.name;
  const auto add = [&](const char* name, int (DriverCore::*action)(Driver&, std::string_view)) {
    tree_.attribute(path + "/" + name, {nullptr, store([this, &driver, action](std::string_view text) {
                                          return (core_.*action)(driver, text);
                                        })});
  };
  add("bind", &DriverCore::bind);
  add("unbind", &DriverCore::unbind);
  add("new_id", &DriverCore::newId);
  add("remove_id", &DriverCore::removeId);
}

void Sysfs::addUnit(const iommu::Unit& unit) {
  const std::string path = "/sys/devices/virtual/iommu/" + unit.name;
  tree_.directory(path + "/devices");
  tree_.link("/sys/class/iommu/" + unit.name, path);
  tree_.link(path + "/subsystem", "/sys/class/iommu");
  if (unit.kind != iommu::UnitKind::vtd) return;
  addText(path + "/intel-iommu/version", "1:0\n");
  addText(path + "/intel-iommu/address", "fed90000\n");
  addText(path + "/intel-iommu/cap", "d2008c222f0686\n");
  addText(path + "/intel-iommu/ecap", "f00f4e\n");
  addText(path + "/intel-iommu/domains_supported", "65536\n");
}

void Sysfs::addGroup(iommu::Group& group) {
  const std::string path = groupsPath + "/" + std::to_string(group.id);
  tree_.directory(path + "/devices");
  tree_.attribute(path + "/reserved_regions", {[&group](std::string& text) {
                                                 text = reservedText(group);
                                                 return 0;
                                               },
                                               nullptr});
  if (group.by != iommu::Confinement::iommu) {
    // One that VFIO made up has no domain of the kernel's. The name is that of mediated devices' too.
    addText(path + "/name", "vfio-noiommu\n");
    tree_.attribute(path + "/type", {[](std::string& text) {
                                       text = "unknown\n";
                                       return 0;
                                     },
                                     store([](std::string_view) { return -EINVAL; })});
    return;
  }
  const auto type = std::make_shared<std::string>("identity");
  tree_.attribute(path + "/type", {[type](std::string& text) {
                                     text = *type + "\n";
                                     return 0;
                                   },
                                   store([type, &group](std::string_view text) {
                                     const std::string wanted(trimmed(text));
                                     const bool known = wanted == "identity" || wanted == "DMA" ||
                                                        wanted == "DMA-FQ" || wanted == "auto";
                                     if (!known) return -EINVAL;
                                     // Only this step needs no new domain.
                                     const bool easy = wanted == "DMA-FQ" && *type == "DMA";
                                     if (!easy && (group.owner != nullptr || group.kernelDrivers != 0)) {
                                       return -EPERM;
                                     }
                                     *type = wanted == "auto" ? "identity" : wanted;
                                     return 0;
                                   })});
}

// ---------------------------------------------------------------- functions

namespace {

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
            // Text after a newline or a NUL is ignored; nothing left clears the override.
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

void Sysfs::addFunction(Function& function) {
  const std::string& path = function.path;
  tree_.offer(path, filesOf(function));
  if (function.isBridge()) {
    addText(path + "/secondary_bus_number", format("%u\n", function.configRead(regSecondaryBus, 1)));
    addText(path + "/subordinate_bus_number", format("%u\n", function.configRead(regSubordinateBus, 1)));
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
  enterGroup(function);
  const std::string unit = "/sys/devices/virtual/iommu/" + function.endpoint->unit.name;
  tree_.link(path + "/iommu", unit);
  tree_.link(unit + "/devices/" + function.bdf, path);
}

void Sysfs::removeFunction(Function& function) {
  if (function.translated) {
    leaveGroup(function);
    tree_.remove("/sys/devices/virtual/iommu/" + function.endpoint->unit.name + "/devices/" + function.bdf);
  }
  tree_.remove(busPath + "/devices/" + function.bdf);
  tree_.remove(function.path);
}

void Sysfs::enterGroup(const Function& function) {
  const std::string group = groupsPath + "/" + std::to_string(function.endpoint->group.id);
  tree_.link(function.path + "/iommu_group", group);
  tree_.link(group + "/devices/" + function.bdf, function.path);
}

void Sysfs::leaveGroup(const Function& function) {
  tree_.remove(function.path + "/iommu_group");
  tree_.remove(groupsPath + "/" + std::to_string(function.endpoint->group.id) + "/devices/" + function.bdf);
}

void Sysfs::addSriov(Function& function, SetVirtual set) {
  const std::string& path = function.path;
  auto& sriov = *function.sriov;
  addText(path + "/sriov_totalvfs", format("%u\n", sriov.spec.totalVfs));
  addText(path + "/sriov_offset", format("%u\n", sriov.spec.offset));
  addText(path + "/sriov_stride", format("%u\n", sriov.spec.stride));
  addText(path + "/sriov_vf_device", format("%x\n", sriov.spec.description.device));
  addText(path + "/sriov_vf_total_msix", "0\n");  // no driver here gives them out
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

void Sysfs::addVirtual(Function& function, unsigned index) {
  tree_.link(function.physical->path + "/virtfn" + std::to_string(index), function.path);
  tree_.link(function.path + "/physfn", function.physical->path);
  tree_.attribute(function.path + "/sriov_vf_msix_count",
                  {nullptr, store([](std::string_view text) {
                     uint64_t wanted = 0;
                     return number(text, INT32_MAX, wanted) == 0 ? -EOPNOTSUPP : -EINVAL;
                   })});
}

void Sysfs::removeVirtual(const Function& function, unsigned index) {
  tree_.remove(function.physical->path + "/virtfn" + std::to_string(index));
}

namespace {

const std::string mdevBus = "/sys/bus/mdev";
const std::string mdevDriver = mdevBus + "/drivers/edu-mdev";

}  // namespace

void Sysfs::addMdevParent(const Function& parent) {
  const std::string type = parent.path + "/mdev_supported_types/edu-1";
  addText(type + "/name", "Share of an edu device\n");
  addText(type + "/device_api", "vfio-pci\n");
  addText(type + "/available_instances", "0\n");
  tree_.link("/sys/class/mdev_bus/" + parent.bdf, parent.path);
}

void Sysfs::removeMdevParent(const Function& parent) {
  tree_.remove("/sys/class/mdev_bus/" + parent.bdf);
  tree_.remove(parent.path + "/mdev_supported_types");
}

void Sysfs::addMdev(Function& mdev, const Function& parent, std::function<int()> remove) {
  const std::string& path = mdev.path;
  const std::string type = parent.path + "/mdev_supported_types/edu-1";
  tree_.attribute(path + "/remove", {nullptr, store([remove = std::move(remove)](std::string_view text) {
                                       uint64_t value = 0;
                                       if (number(text, UINT64_MAX, value) != 0) return -EINVAL;
                                       return value == 0 ? 0 : remove();
                                     })});
  addText(path + "/uevent", "DRIVER=edu-mdev\n");
  tree_.link(path + "/mdev_type", type);
  tree_.link(type + "/devices/" + mdev.bdf, path);
  tree_.link(path + "/subsystem", mdevBus);
  tree_.link(mdevBus + "/devices/" + mdev.bdf, path);
  tree_.link(path + "/driver", mdevDriver);
  tree_.link(mdevDriver + "/" + mdev.bdf, path);
  enterGroup(mdev);
}

void Sysfs::removeMdev(const Function& mdev, const Function& parent) {
  leaveGroup(mdev);
  tree_.remove(mdevDriver + "/" + mdev.bdf);
  tree_.remove(mdevBus + "/devices/" + mdev.bdf);
  tree_.remove(parent.path + "/mdev_supported_types/edu-1/devices/" + mdev.bdf);
  tree_.remove(mdev.path);
}

void Sysfs::removeGroup(const iommu::Group& group) {
  tree_.remove(groupsPath + "/" + std::to_string(group.id));
}

void Sysfs::hideVfio(Function& function, unsigned index) {
  const std::string name = "vfio" + std::to_string(index);
  if (hasNode(function)) tree_.remove("/dev/vfio/devices/" + name);
  tree_.remove("/sys/class/vfio-dev/" + name);
  tree_.remove(function.path + "/vfio-dev");
}

// ---------------------------------------------------------------- drivers and VFIO

void Sysfs::driverChanged(Function& function, Driver& driver, bool bound) {
  const std::string path = busPath + "/drivers/" + driver.name;
  if (bound) {
    tree_.link(function.path + "/driver", path);
    tree_.link(path + "/" + function.bdf, function.path);
  } else {
    tree_.remove(function.path + "/driver");
    tree_.remove(path + "/" + function.bdf);
  }
  if (driver.dma) showUse(function, bound);
}

// The disk or interface of a host driver, and where it is mounted or leads to.
void Sysfs::showUse(Function& function, bool shown) {
  const auto& use = function.use;
  if (!use.disk.empty()) {
    const std::string path = function.path + "/block/" + use.disk;
    const std::string device = format("8:%u", static_cast<unsigned>(function.devfn));
    if (shown) {
      addText(path + "/dev", device + "\n");
      tree_.directory(path + "/holders");
      tree_.link("/sys/class/block/" + use.disk, path);
      if (!use.mountedOn.empty())
        mounts_[use.disk] =
            "20 1 " + device + " / " + escaped(use.mountedOn) + " rw - ext4 /dev/" + use.disk + " rw\n";
    } else {
      tree_.remove("/sys/class/block/" + use.disk);
      tree_.remove(function.path + "/block");
      mounts_.erase(use.disk);
    }
  }
  if (!use.interface.empty()) {
    const std::string path = function.path + "/net/" + use.interface;
    if (shown) {
      addText(path + "/operstate", use.up ? "up\n" : "down\n");
      tree_.link("/sys/class/net/" + use.interface, path);
      if (use.routed)
        routes_[use.interface] = use.interface + "\t00000000\t0100000A\t0003\t0\t0\t0\t00000000\t0\t0\t0\n";
    } else {
      tree_.remove("/sys/class/net/" + use.interface);
      tree_.remove(function.path + "/net");
      routes_.erase(use.interface);
    }
  }
}

void Sysfs::addVfioGroup(const std::string& name, Opener open) {
  const std::string path = "/sys/devices/virtual/vfio/" + name;
  const unsigned minor = minors_.take();
  groupMinors_[name] = minor;
  addText(path + "/dev", format("%u:%u\n", groupMajor, minor));
  addText(path + "/uevent", format("MAJOR=%u\nMINOR=%u\nDEVNAME=vfio/%s\n", groupMajor, minor, name.c_str()));
  tree_.link(path + "/subsystem", "/sys/class/vfio");
  tree_.link("/sys/class/vfio/" + name, path);
  tree_.device("/dev/vfio/" + name, std::move(open), groupMajor, minor);
}

void Sysfs::removeVfioGroup(const std::string& name) {
  const auto known = groupMinors_.find(name);
  minors_.giveBack(known->second);
  groupMinors_.erase(known);
  tree_.remove("/dev/vfio/" + name);
  tree_.remove("/sys/class/vfio/" + name);
  tree_.remove("/sys/devices/virtual/vfio/" + name);
}

// Has its device a file of its own? Those without an IOMMU have none.
bool Sysfs::hasNode(const Function& function) const {
  return deviceNodes_ && function.host.since(6, 6) && function.endpoint->group.by != iommu::Confinement::none;
}

void Sysfs::addVfio(Function& function, unsigned index, Opener open) {
  const std::string name = "vfio" + std::to_string(index);
  const std::string path = function.path + "/vfio-dev/" + name;
  tree_.link(path + "/device", function.path);
  tree_.link(path + "/subsystem", "/sys/class/vfio-dev");
  tree_.link("/sys/class/vfio-dev/" + name, path);
  if (!hasNode(function)) {
    addText(path + "/uevent", "");
    return;
  }
  addText(path + "/dev", format("%u:%u\n", deviceMajor, index));
  addText(path + "/uevent",
          format("MAJOR=%u\nMINOR=%u\nDEVNAME=vfio/devices/%s\n", deviceMajor, index, name.c_str()));
  tree_.device("/dev/vfio/devices/" + name, std::move(open), deviceMajor, index);
}

void Sysfs::removeVfio(Function& function, unsigned index) { hideVfio(function, index); }

}  // namespace vfio::soft::machine
