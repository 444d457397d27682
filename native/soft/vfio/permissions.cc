// See permissions.h. The tables. A rule names an offset, a number of bytes, and which bits of these are
// virtual and which are writable.
#include "permissions.h"

#include <algorithm>
#include <span>

#include "../pci/registers.h"

namespace vfio::soft::cdev {

namespace {

struct Rule {
  unsigned offset, width;
  uint32_t virtualBits, writableBits;
};

constexpr uint32_t all = 0xffffffff;
constexpr uint32_t none = 0;

using namespace pci;

constexpr Rule header[] = {
    {regVendor, 2, all, none},
    {regDevice, 2, all, none},
    {regCommand, 2, commandIntxDisable,
     all},  // the disable bit is emulated: the host masks with the real one
    {regStatus, 2, statusCapabilities, none},
    {regCacheLine, 1, none, all},
    {regLatency, 1, none, all},
    {regBist, 1, none, all},
    {regBar0 + 0, 4, all, all},
    {regBar0 + 4, 4, all, all},
    {regBar0 + 8, 4, all, all},
    {regBar0 + 12, 4, all, all},
    {regBar0 + 16, 4, all, all},
    {regBar0 + 20, 4, all, all},
    {regRom, 4, all, all},
    {regCapabilities, 1, all, none},
    {regInterruptLine, 1, all, all},
    {regInterruptPin, 1, all, none},
};

constexpr uint32_t pmeSupport = 0xf800;
constexpr uint32_t pmeEnable = 0x0100;
constexpr uint32_t pmeStatus = 0x8000;

constexpr Rule power[] = {
    {1, 1, all, none},
    {powerCapabilities, 2, pmeSupport, none},
    {powerControl, 4, pmeEnable | pmeStatus, ~(pmeEnable | pmeStatus | uint32_t{powerStateMask})},
};

constexpr Rule msi[] = {
    {1, 1, all, none},
    {msiFlags, 1, all, all},  // the high byte is reserved
    {msiAddress, 4, all, all},
};
constexpr Rule msiNarrow[] = {{8, 2, all, all}};
constexpr Rule msiNarrowMasks[] = {{12, 4, none, all}, {16, 4, none, all}};
constexpr Rule msiWide[] = {{msiAddressHigh, 4, all, all}, {msiData64, 2, all, all}};
constexpr Rule msiWideMasks[] = {{16, 4, none, all}, {20, 4, none, all}};

constexpr uint32_t payload = 0x00e0, phantom = 0x0200, readRequest = 0x7000, ariForwarding = 0x0020;

constexpr Rule express[] = {
    {1, 1, all, none},
    {expressDeviceControl, 2, expressStartFlr | payload | readRequest, ~phantom},
    {expressDeviceControl2, 2, none, ~ariForwarding},
};

constexpr Rule advanced[] = {{1, 1, all, none}, {4, 1, 1, 1}};

constexpr uint32_t uncorrectable = 0x03fff031;  // the errors defined so far
constexpr uint32_t correctable = 0x0000f1c1;

constexpr Rule errorReporting[] = {
    {0x00, 4, all, none},           {0x04, 4, none, uncorrectable}, {0x08, 4, none, uncorrectable},
    {0x0c, 4, none, uncorrectable}, {0x10, 4, none, correctable},   {0x14, 4, none, correctable},
    {0x18, 4, none, 0x00000140},  // ECRC generation and check
};

void apply(Permissions& permissions, std::span<const Rule> rules) {
  permissions.read = Permissions::Read::mixed;
  permissions.write = Permissions::Write::mixed;
  for (const auto& rule : rules) {
    for (unsigned i = 0; i < rule.width && rule.offset + i < permissions.virtualBits.size(); ++i) {
      permissions.virtualBits[rule.offset + i] = static_cast<uint8_t>(rule.virtualBits >> 8 * i);
      permissions.writableBits[rule.offset + i] = static_cast<uint8_t>(rule.writableBits >> 8 * i);
    }
  }
}

Permissions blank(unsigned length) {
  Permissions permissions;
  // Whole dwords, so that an access may run past an odd end.
  permissions.virtualBits.assign((length + 3) / 4 * 4, 0);
  permissions.writableBits.assign((length + 3) / 4 * 4, 0);
  return permissions;
}

struct Length {
  uint16_t id;
  uint8_t length;
};

// VPD is left out: no device of this host has vital product data.
constexpr Length capabilityLengths[] = {
    {capPower, 8},          {capMsi, variable}, {capVendor, variable},
    {capExpress, variable}, {capMsix, 12},      {capAdvanced, 6},
};

// Advanced errors, serial number, access control (without egress control), ARI, address translation,
// SR-IOV, page requests, latency tolerance.
constexpr Length extendedLengths[] = {{0x01, 0x2c}, {0x03, 12},          {0x0d, 8},  {0x0e, 8},
                                      {0x0f, 8},    {0x10, sriovLength}, {0x13, 16}, {0x18, 8}};

unsigned lookUp(std::span<const Length> table, uint16_t id) {
  const auto* found =
      std::find_if(table.data(), table.data() + table.size(), [id](auto& l) { return l.id == id; });
  return found == table.data() + table.size() ? 0 : found->length;
}

}  // namespace

Permissions headerPermissions() {
  auto permissions = blank(headerEnd);
  apply(permissions, header);
  return permissions;
}

Permissions capabilityPermissions(uint8_t id, unsigned length, uint16_t flags) {
  auto permissions = blank(length);
  switch (id) {
    case capPower:
      apply(permissions, power);
      break;
    case capMsi:
      apply(permissions, msi);
      if ((flags & msi64) != 0) {
        apply(permissions, msiWide);
        if ((flags & msiMaskBits) != 0) apply(permissions, msiWideMasks);
      } else {
        apply(permissions, msiNarrow);
        if ((flags & msiMaskBits) != 0) apply(permissions, msiNarrowMasks);
      }
      break;
    case capExpress:
      apply(permissions, express);
      break;
    case capAdvanced:
      apply(permissions, advanced);
      break;
    case capVendor:
      permissions.write = Permissions::Write::raw;
      break;
    default:
      break;
  }
  return permissions;
}

Permissions extendedPermissions(uint16_t id, unsigned length) {
  auto permissions = blank(length);
  if (id == 0x01) apply(permissions, errorReporting);
  return permissions;
}

Permissions unassignedPermissions() {
  Permissions permissions;
  permissions.read = Permissions::Read::raw;
  permissions.write = Permissions::Write::raw;
  return permissions;
}

unsigned capabilityLength(uint8_t id) { return lookUp(capabilityLengths, id); }
unsigned extendedLength(uint16_t id) { return lookUp(extendedLengths, id); }

}  // namespace vfio::soft::cdev
