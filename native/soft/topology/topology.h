// The description of a machine, as read from its JSON text (docs/topology.md).
//
// Life: read when a host is made, then placed (placement.h), and consumed by the machine that is built from
// it.
#pragma once

#include <array>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "../devices/device.h"
#include "../iommu/group.h"
#include "../iommu/unit.h"
#include "../pci/isolation.h"
#include "../pci/specs.h"

namespace vfio::soft::topology {

using pci::Fabric;
using pci::Isolation;
using pci::PortKind;
using pci::SriovSpec;
using pci::UseSpec;

class Catalogue;

struct Address {
  uint8_t bus = 0;
  uint8_t devfn = 0;

  bool operator==(const Address&) const = default;
  [[nodiscard]] std::string text() const;                                    // "0000:00:10.0"
  [[nodiscard]] static std::optional<Address> parse(std::string_view text);  // domain 0 only
};

// The field `system`: the kernel of the machine.
struct SystemSpec {
  std::string commandLine;
  std::optional<uint32_t> user;  // null: permissions of nodes are not checked
  bool iommufd = true;
  bool vfioPci = true;
  bool deviceNodes = true;  // VFIO devices have character devices of their own

  // The settings on the command line.
  bool translates = true;
  bool remapsInterrupts = true;
};

// An entry of `devices`. The placement fills the second half.
struct DeviceSpec {
  // Its line (0: it has none) and its name in the text, for errors: "devices[2]".
  unsigned line = 0;
  std::string name;

  PortKind kind = PortKind::endpoint;
  std::optional<bool> acs;
  std::unique_ptr<devices::Device> model;
  std::optional<Address> bdf;     // the placement checks its bus
  std::optional<Address> behind;  // null: on a root bus
  uint8_t slot = 0;               // used with `behind`, if there is no bdf
  uint8_t function = 0;           // likewise
  std::optional<size_t> iommu;
  bool translated = true;  // false: no IOMMU translates its accesses, so it is in no group
  UseSpec use;
  std::vector<std::string> mdevs;  // UUIDs of the mediated devices that its driver makes of it
  bool mdevsIsolated = true;       // false: they are all in one group
  std::optional<std::optional<std::string>> driver;  // nullopt: the default; a null name: no driver
  unsigned pasidBits = 0;
  bool pageRequests = false;
  std::optional<SriovSpec> sriov;
  std::optional<int> group;
  std::optional<uint8_t> irq;
  std::array<std::optional<uint64_t>, 6> addresses{};

  Address address;
  bool multifunction = false;
  size_t parent = 0;      // the index of the bridge, with `behind`
  uint8_t secondary = 0;  // of a bridge: the bus directly behind it, and the last bus behind it
  uint8_t subordinate = 0;
  uint16_t requesterId = 0;
  size_t unit = 0;
  int groupId = iommu::Group::kNone;
  uint8_t interrupt = 0;
  std::array<uint64_t, 6> placed{};

  [[nodiscard]] const devices::Description& description() const { return model->description(); }
  // The properties that decide its isolation; `bridge` is not filled.
  [[nodiscard]] Isolation isolation() const;
  // Throws std::invalid_argument: "line 4: Expected X for devices[2].field but received Y".
  [[noreturn]] void refuse(std::string_view field, std::string_view expected,
                           const std::string& received) const;
};

struct Topology {
  SystemSpec system;
  std::vector<iommu::UnitDescription> iommus;
  std::vector<DeviceSpec> devices;
};

// Throws std::invalid_argument, with the line and what was expected.
[[nodiscard]] Topology readTopology(std::string_view json, const Catalogue& models);
// Reads one device, for a machine that has `iommus` IOMMUs. Errors call it "device".
[[nodiscard]] DeviceSpec readDevice(std::string_view json, size_t iommus, const Catalogue& models);

}  // namespace vfio::soft::topology
