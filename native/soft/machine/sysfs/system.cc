#include "system.h"

#include <cerrno>
#include <sstream>

#include "../../iommu/model.h"
namespace vfio::soft::machine::sysfs {

namespace {

// A name as the table of mounts has it: characters that separate columns are written as octal numbers.
std::string escaped(const std::string& name) {
  std::string text;
  for (const char letter : name) {
    const bool parts = std::string_view(" \t\n\\").find(letter) != std::string_view::npos;
    text += parts ? format("\\%03o", static_cast<unsigned>(letter)) : std::string(1, letter);
  }
  return text;
}

}  // namespace

void SystemFiles::addClasses() {
  tree_.directory(busPath + "/devices");
  tree_.directory(busPath + "/drivers");
  tree_.directory(busPath + "/slots");
  tree_.directory(groupsPath);
  tree_.directory("/sys/class/vfio");
  tree_.directory("/sys/class/vfio-dev");
  tree_.directory("/sys/class/iommu");
}

void SystemFiles::addSystem(const topology::SystemSpec& system, Parameters& parameters) {
  addText(tree_, "/proc/cmdline", system.commandLine + "\n");
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
  // The other files that Linux 6.12 has for these modules. They have no effect here, so they can't be
  // written.
  addText(tree_, "/sys/module/vfio/version", "0.3\n");
  addText(tree_, "/sys/module/" + type1 + "/version", "0.2\n");
  addText(tree_, "/sys/module/" + type1 + "/parameters/disable_hugepages", "N\n");
  if (!system.vfioPci) return;
  for (const char* name : {"disable_denylist", "disable_idle_d3", "nointxmask"})
    addText(tree_, "/sys/module/vfio_pci/parameters/" + std::string(name), "N\n");
}

void SystemFiles::addFlag(const std::string& commandLine, const std::string& module, const std::string& name,
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

void SystemFiles::addUnit(const iommu::Unit& unit) {
  const std::string path = "/sys/devices/virtual/iommu/" + unit.name;
  tree_.directory(path + "/devices");
  tree_.link("/sys/class/iommu/" + unit.name, path);
  tree_.link(path + "/subsystem", "/sys/class/iommu");
  for (const auto& [name, text] : unit.model.attributes()) {
    addText(tree_, path + "/" + std::string(name), std::string(text));
  }
}

void SystemFiles::showUse(pci::Function& function, bool shown) {
  const auto& use = function.use;
  if (!use.disk.empty()) {
    const std::string path = function.path + "/block/" + use.disk;
    const std::string device = format("8:%u", static_cast<unsigned>(function.devfn));
    if (shown) {
      addText(tree_, path + "/dev", device + "\n");
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
      addText(tree_, path + "/operstate", use.up ? "up\n" : "down\n");
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

}  // namespace vfio::soft::machine::sysfs
