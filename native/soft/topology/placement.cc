// Places buses first (they decide the addresses), then groups, in the order in which functions are found,
// then BARs.
#include "placement.h"

#include <algorithm>
#include <bit>
#include <charconv>
#include <map>
#include <optional>
#include <set>
#include <string>

namespace vfio::soft::topology {

namespace {

constexpr unsigned mostBuses = 256;

std::string hex(uint64_t value) {
  std::array<char, 16> text;
  const auto end = std::to_chars(text.data(), text.data() + text.size(), value, 16).ptr;
  return "0x" + std::string(text.data(), end);
}

std::string twoDigits(unsigned bus) { return Address{static_cast<uint8_t>(bus), 0}.text().substr(5, 2); }

// ---------------------------------------------------------------- buses

class Enumeration {
 public:
  explicit Enumeration(std::vector<DeviceSpec>& devices) : devices_(devices), seen_(devices.size()) {}

  std::vector<size_t> run() {
    std::map<unsigned, std::vector<size_t>> roots;
    for (size_t i = 0; i < devices_.size(); ++i) {
      auto& device = devices_[i];
      if (device.behind) {
        behind_[placeOf(*device.behind)].push_back(i);
        continue;
      }
      device.address = *device.bdf;
      roots[device.address.bus].push_back(i);
    }
    for (auto& [number, members] : roots) {
      if (owners_.contains(number) || number < next_) {
        devices_[members.front()].refuse("bdf",
                                         "the bus of a root that no bridge has taken (bus " +
                                             twoDigits(next_) + " is free), or the field \"behind\"",
                                         '"' + devices_[members.front()].address.text() + '"');
      }
      next_ = number + 1;
      owners_.emplace(number, std::nullopt);
      for (const size_t member : members) checkPlace(devices_[member], std::nullopt);
      scan(members);
    }
    for (size_t i = 0; i < devices_.size(); ++i) {
      if (seen_[i]) continue;
      devices_[i].refuse("behind", "the address of a bridge or port that is in the topology",
                         '"' + devices_[i].behind->text() + '"');
    }
    for (const size_t index : order_)
      if (devices_[index].kind != PortKind::endpoint) checkRange(index);
    return std::move(order_);
  }

 private:
  static unsigned placeOf(const Address& address) { return unsigned{address.bus} << 8 | address.devfn; }

  // All functions of a bus are found before those behind its bridges.
  void scan(std::vector<size_t>& members) {
    std::sort(members.begin(), members.end(),
              [this](size_t a, size_t b) { return devices_[a].address.devfn < devices_[b].address.devfn; });
    for (size_t i = 0; i < members.size(); ++i) {
      auto& device = devices_[members[i]];
      if (i > 0 && devices_[members[i - 1]].address == device.address)
        device.refuse("bdf", "an address that no other device has", '"' + device.address.text() + '"');
      seen_[members[i]] = true;
      order_.push_back(members[i]);
    }
    findSiblings(members);
    for (const size_t member : members) {
      if (devices_[member].kind != PortKind::endpoint) scanBehind(member);
    }
  }

  // The kernel looks for further functions only where there is a function 0. `members` are in the order of
  // their addresses.
  void findSiblings(const std::vector<size_t>& members) {
    const auto devfn = [this, &members](size_t i) { return devices_[members[i]].address.devfn; };
    for (size_t first = 0, end = 0; first < members.size(); first = end) {
      bool several = false;
      for (end = first; end < members.size() && devfn(end) >> 3 == devfn(first) >> 3; ++end)
        several |= (devfn(end) & 7) != 0;
      const auto& device = devices_[members[first]];
      if ((devfn(first) & 7) != 0)
        device.refuse("bdf", "a device that has a function 0", '"' + device.address.text() + '"');
      for (size_t i = first; i < end; ++i) devices_[members[i]].multifunction = several;
    }
  }

  void scanBehind(size_t index) {
    auto& bridge = devices_[index];
    std::vector<size_t> members;
    unsigned number = next_;
    const DeviceSpec* chosenBy = nullptr;
    for (const size_t i : behind_[placeOf(bridge.address)]) {
      auto& device = devices_[i];
      members.push_back(i);
      device.parent = index;
      device.address.devfn =
          device.bdf ? device.bdf->devfn : static_cast<uint8_t>(device.slot << 3 | device.function);
      if (!device.bdf) continue;
      const unsigned wanted = device.bdf->bus;
      const bool other = chosenBy && wanted != number;
      if (other || wanted <= bridge.address.bus || owners_.contains(wanted)) {
        const std::string free =
            other ? "bus " + twoDigits(number)
                  : "a bus above " + twoDigits(bridge.address.bus) + " that no other bridge has";
        device.refuse("bdf", free + " behind " + bridge.address.text(), '"' + device.bdf->text() + '"');
      }
      number = wanted;
      chosenBy = &device;
    }
    if (number >= mostBuses) bridge.refuse("bdf", "at most 256 buses", "one more");
    next_ = std::max(next_, number + 1);
    owners_.emplace(number, index);
    bridge.secondary = static_cast<uint8_t>(number);
    for (const size_t member : members) devices_[member].address.bus = bridge.secondary;
    for (const size_t member : members) checkPlace(devices_[member], bridge.kind);
    scan(members);
    bridge.subordinate = bridge.secondary;
    for (const size_t member : members) {
      const auto& device = devices_[member];
      if (device.kind != PortKind::endpoint)
        bridge.subordinate = std::max(bridge.subordinate, device.subordinate);
    }
  }

  // A bridge passes on what is for a bus from its secondary to its subordinate one: all of these have to be
  // behind it.
  void checkRange(size_t index) const {
    const auto& bridge = devices_[index];
    for (auto at = owners_.lower_bound(bridge.secondary);
         at != owners_.end() && at->first <= bridge.subordinate; ++at) {
      std::optional<size_t> owner = at->second;
      while (owner && *owner != index)
        owner = devices_[*owner].behind ? std::optional(devices_[*owner].parent) : std::nullopt;
      if (!owner)
        bridge.refuse("bdf",
                      "no bus but its own from " + twoDigits(bridge.secondary) + " to " +
                          twoDigits(bridge.subordinate) + ", the buses behind it",
                      "bus " + twoDigits(at->first) + " elsewhere");
    }
  }

  std::vector<DeviceSpec>& devices_;
  std::vector<bool> seen_;
  std::vector<size_t> order_;
  std::map<unsigned, std::vector<size_t>> behind_;    // the devices behind a bridge, by the bridge's place
  std::map<unsigned, std::optional<size_t>> owners_;  // the bridge in front of each bus; none: a root
  unsigned next_ = 0;                                 // above all buses so far
};

// ---------------------------------------------------------------- groups

// The bridge to a conventional bus that is nearest to the root: to the IOMMU, requests of all devices behind
// it come from function 0 of the bus behind it.
std::optional<size_t> speaker(const std::vector<DeviceSpec>& devices, size_t index) {
  std::optional<size_t> found;
  for (size_t at = index;; at = devices[at].parent) {
    if (devices[at].kind == PortKind::conventionalBridge && at != index) found = at;
    if (!devices[at].behind) return found;
  }
}

// Makes the groups in the order in which functions are found; then chooses their numbers, which any member
// can ask for. Groups that ask for the same number become one.
void placeInGroups(Topology& topology, const std::vector<size_t>& order) {
  auto& devices = topology.devices;
  std::vector<Isolation> nodes(devices.size());
  std::vector<size_t> firsts;  // the function of each group that was found first
  Fabric fabric;
  for (const size_t index : order) {
    auto& device = devices[index];
    Isolation& node = nodes[index] = device.isolation();
    if (device.behind) node.bridge = &nodes[device.parent];
    const auto bridge = speaker(devices, index);
    device.requesterId = bridge ? static_cast<uint16_t>(devices[*bridge].secondary << 8)
                                : static_cast<uint16_t>(device.address.bus << 8 | device.address.devfn);
    // Without the field `iommu` a device is translated if the bridge in front of it is.
    if (device.behind && !device.iommu && !devices[device.parent].translated) device.translated = false;
    if (!device.translated) {
      if (device.group)
        device.refuse("group", "nothing (no IOMMU translates it)", std::to_string(*device.group));
      continue;
    }
    node.group = fabric.groupFor(node).value_or(static_cast<int>(firsts.size()));
    if (*node.group == static_cast<int>(firsts.size())) firsts.push_back(index);
    fabric.add(node);
    // All devices in a group must be behind the same IOMMU.
    const size_t before = device.behind ? devices[device.parent].unit : 0;
    device.unit = device.iommu.value_or(before);
    const size_t groups = devices[firsts[static_cast<size_t>(*node.group)]].unit;
    if (device.unit != groups)
      device.refuse("iommu", "that of its group, " + std::to_string(groups), std::to_string(device.unit));
  }
  std::vector<std::optional<int>> numbers(firsts.size());
  std::map<int, int> taken;  // the numbers that are taken, and their groups
  for (const size_t index : order) {
    const auto& device = devices[index];
    if (!device.group) continue;
    auto& number = numbers[static_cast<size_t>(*nodes[index].group)];
    if (number.value_or(*device.group) != *device.group)
      device.refuse("group", "one number for its group, " + std::to_string(*number),
                    std::to_string(*device.group));
    number = device.group;
    const auto [owner, isFree] = taken.emplace(*device.group, *nodes[index].group);
    const size_t unit = devices[firsts[static_cast<size_t>(owner->second)]].unit;
    if (device.unit != unit)
      device.refuse("group", "a group of devices of one IOMMU", std::to_string(*device.group));
  }
  int next = 0;
  for (const size_t index : order) {
    if (!devices[index].translated) continue;
    auto& number = numbers[static_cast<size_t>(*nodes[index].group)];
    if (!number) {
      while (taken.contains(next)) ++next;
      taken.emplace(next, *nodes[index].group);
      number = next;
    }
    devices[index].groupId = *number;
    next = std::max(next, *number + 1);
  }
}

// ---------------------------------------------------------------- BARs and interrupts

constexpr uint64_t pageSize = 4096;

// A window of bus addresses.
class Window {
 public:
  Window(uint64_t start, uint64_t end) : start_(start), end_(end) {}

  // Takes a range. False: part of it is taken already.
  bool take(uint64_t address, uint64_t size) {
    const auto after = taken_.lower_bound(address);
    if (after != taken_.end() && after->first < address + size) return false;
    if (after != taken_.begin() && std::prev(after)->second > address) return false;
    taken_.emplace(address, address + size);
    return true;
  }

  // Takes a free range; returns its address. 0: there is no room.
  uint64_t find(uint64_t size, uint64_t alignment) {
    // Ranges are never given back: addresses that had no room for this size never will.
    uint64_t& first = first_.try_emplace(size, start_).first->second;
    uint64_t at = (first + alignment - 1) / alignment * alignment;
    for (; at < end_ && size <= end_ - at;) {
      if (take(at, size)) return first = at;
      const auto after = taken_.lower_bound(at + 1);
      const uint64_t behind = std::prev(after)->second > at ? std::prev(after)->second : after->second;
      at = (behind + alignment - 1) / alignment * alignment;
    }
    first = end_;
    return 0;
  }

 private:
  const uint64_t start_, end_;
  std::map<uint64_t, uint64_t> taken_;
  std::map<uint64_t, uint64_t> first_;  // by size: below this address no such range is free
};

// Places the BARs of virtual functions. Those with the same number follow each other in one range, which is
// aligned to the size of one of them.
void placeVirtual(DeviceSpec& device, Window& low, Window& high) {
  if (!device.sriov) return;
  auto& sriov = *device.sriov;
  for (unsigned i = 0; i < sriov.placed.size(); ++i) {
    const auto& bar = sriov.description.bars[i];
    if (bar.kind == devices::BarKind::none) continue;
    const uint64_t size = bar.size * sriov.totalVfs;
    constexpr uint64_t large = uint64_t{1} << 28;
    const bool wide = bar.kind == devices::BarKind::memory64;
    if (!wide || size < large) sriov.placed[i] = low.find(size, bar.size);
    if (wide && sriov.placed[i] == 0) sriov.placed[i] = high.find(size, bar.size);
    if (sriov.placed[i] == 0)
      device.refuse("sriov.bars", "BARs that fit into the bus's addresses",
                    hex(size) + " for BAR " + std::to_string(i));
  }
}

void placeBars(std::vector<DeviceSpec>& devices, const std::vector<size_t>& order,
               const std::vector<Taken>& before) {
  constexpr uint64_t highest = uint64_t{1} << 46;
  Window ports(0xc000, 0x10000), low(0xc0000000, 0xfe000000), high(0x8000000000, highest);
  const auto windowFor = [&](const devices::Bar& bar, uint64_t address) -> Window& {
    if (bar.kind == devices::BarKind::io) return ports;
    return address >= 0x100000000 ? high : low;
  };
  // Ranges that are already in use. Those outside the windows need not be taken.
  for (const auto& [kind, address, size] : before)
    (void)windowFor({.kind = kind, .size = size}, address)
        .take(address, std::max(size, kind == devices::BarKind::io ? size : pageSize));
  for (const size_t index : order) {
    auto& device = devices[index];
    for (unsigned i = 0; i < device.addresses.size(); ++i) {
      if (!device.addresses[i]) continue;
      const auto& bar = device.description().bars[i];
      const uint64_t address = *device.addresses[i];
      const uint64_t limit = bar.kind == devices::BarKind::io         ? 0x10000
                             : bar.kind == devices::BarKind::memory64 ? highest
                                                                      : 0x100000000;
      const std::string field = "addresses[" + std::to_string(i) + "]";
      if (bar.kind == devices::BarKind::none)
        device.refuse(field, "null (there is no such BAR)", hex(address));
      if (address % bar.size != 0 || address >= limit || bar.size > limit - address)
        device.refuse(field, "a multiple of the BAR's size below " + hex(limit), hex(address));
      if (!windowFor(bar, address).take(address, bar.size))
        device.refuse(field, "an address that no other BAR covers", hex(address));
      device.placed[i] = address;
    }
  }
  for (const size_t index : order) {
    auto& device = devices[index];
    for (unsigned i = 0; i < device.placed.size(); ++i) {
      const auto& bar = device.description().bars[i];
      if (bar.kind == devices::BarKind::none || device.placed[i] != 0) continue;
      const bool io = bar.kind == devices::BarKind::io;
      // A BAR that is smaller than a page gets a page of its own, so that it can be mapped.
      const uint64_t size = io ? bar.size : std::max(bar.size, pageSize);
      constexpr uint64_t large = uint64_t{1} << 28;
      const bool wide = bar.kind == devices::BarKind::memory64;
      if (!wide || bar.size < large) device.placed[i] = (io ? ports : low).find(size, size);
      if (wide && device.placed[i] == 0) device.placed[i] = high.find(size, size);
      if (device.placed[i] == 0)
        device.refuse("bars", "BARs that fit into the bus's addresses",
                      hex(bar.size) + " for BAR " + std::to_string(i));
    }
    placeVirtual(device, low, high);
  }
}

// Checks that virtual functions are on the bus of their physical function, at addresses that no other device
// has.
void checkVirtual(const std::vector<DeviceSpec>& devices) {
  std::set<std::pair<unsigned, unsigned>> taken;
  for (const auto& device : devices) taken.emplace(device.address.bus, device.address.devfn);
  for (const auto& device : devices) {
    for (unsigned i = 0; device.sriov && i < device.sriov->totalVfs; ++i) {
      const unsigned devfn = device.sriov->devfn(device.address.devfn, i);
      constexpr unsigned mostFunctions = 256;
      if (devfn >= mostFunctions || !taken.emplace(device.address.bus, devfn).second)
        device.refuse(
            "sriov", "virtual functions on its bus, at addresses that no other device has",
            "virtual function " + std::to_string(i) + " at place " + std::to_string(devfn) + " of 256");
    }
  }
}

// Chooses the interrupt line by the slot. A real machine has four lines; two suffice to have different ones.
void placeLine(DeviceSpec& device) {
  const uint8_t line = (device.address.devfn >> 3) % 2 == 0 ? 10 : 11;
  device.interrupt = device.irq.value_or(device.description().interruptPin != 0 ? line : 0);
}

}  // namespace

// Behind a port is one device only; a switch is an upstream port with downstream ports behind it.
void checkPlace(const DeviceSpec& device, std::optional<PortKind> bridge) {
  const bool port = bridge == PortKind::rootPort || bridge == PortKind::downstreamPort;
  if (port && device.address.devfn >> 3 != 0)
    device.refuse("slot", "0, the only one behind a port", std::to_string(device.address.devfn >> 3));
  const auto misplaced = [&device](const char* where) {
    device.refuse("bdf", where, '"' + device.address.text() + '"');
  };
  if (device.kind == PortKind::rootPort && bridge) misplaced("a root bus for a root port");
  if (device.kind == PortKind::upstreamPort && !port) misplaced("a place behind a port for a switch");
  if ((device.kind == PortKind::downstreamPort) != (bridge == PortKind::upstreamPort))
    misplaced("downstream ports, and nothing else, behind an upstream port");
}

std::vector<size_t> place(Topology& topology) {
  auto order = Enumeration(topology.devices).run();
  checkVirtual(topology.devices);
  placeInGroups(topology, order);
  placeBars(topology.devices, order, {});
  for (auto& device : topology.devices) placeLine(device);
  return order;
}

void place(DeviceSpec& device, const std::vector<Taken>& taken) {
  std::vector<DeviceSpec> one;
  one.push_back(std::move(device));
  placeBars(one, {0}, taken);
  device = std::move(one.front());
  placeLine(device);
}

}  // namespace vfio::soft::topology
