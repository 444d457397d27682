// Names of the config space registers and bits that this host uses, from the PCI specifications.
#pragma once

#include <cstdint>

namespace vfio::soft::pci {

enum Reg : unsigned {
  regVendor = 0x00,
  regDevice = 0x02,
  regCommand = 0x04,
  regStatus = 0x06,
  regRevision = 0x08,
  regClass = 0x09,
  regCacheLine = 0x0c,
  regLatency = 0x0d,
  regHeaderType = 0x0e,
  regBist = 0x0f,
  regBar0 = 0x10,
  regSubsystemVendor = 0x2c,
  regSubsystem = 0x2e,
  regRom = 0x30,
  regCapabilities = 0x34,
  regInterruptLine = 0x3c,
  regInterruptPin = 0x3d,
  headerEnd = 0x40,
  conventionalSize = 0x100,
  extendedSize = 0x1000,
  // In a bridge's header:
  regPrimaryBus = 0x18,
  regSecondaryBus = 0x19,
  regSubordinateBus = 0x1a,
};

constexpr uint16_t commandIo = 0x0001;
constexpr uint16_t commandMemory = 0x0002;
constexpr uint16_t commandMaster = 0x0004;
constexpr uint16_t commandSerr = 0x0100;
constexpr uint16_t commandIntxDisable = 0x0400;
constexpr uint16_t statusInterrupt = 0x0008;
constexpr uint16_t statusCapabilities = 0x0010;
constexpr uint16_t statusErrors = 0xf900;  // cleared by writing ones

constexpr uint8_t headerMultifunction = 0x80;

constexpr uint32_t barIo = 0x1;
constexpr uint32_t bar64 = 0x4;
constexpr uint32_t barPrefetch = 0x8;

enum Capability : uint8_t {
  capPower = 0x01,
  capVpd = 0x03,
  capMsi = 0x05,
  capVendor = 0x09,
  capSubsystem = 0x0d,
  capExpress = 0x10,
  capMsix = 0x11,
  capAdvanced = 0x13,
  capLast = 0x15,
};

constexpr uint16_t extendedAcs = 0x000d;
constexpr uint16_t extendedAts = 0x000f;
constexpr uint16_t extendedSriov = 0x0010;
constexpr uint16_t extendedPri = 0x0013;
constexpr uint16_t extendedPasid = 0x001b;

// Offsets inside capabilities.
constexpr unsigned msiFlags = 2;
constexpr unsigned msiAddress = 4;
constexpr unsigned msiAddressHigh = 8;
constexpr unsigned msiData64 = 12;
constexpr uint16_t msiEnable = 0x0001;
constexpr uint16_t msiCapableMask = 0x000e;  // log2 of the number of vectors that the function has
constexpr uint16_t msiEnabledMask = 0x0070;  // log2 of the number of vectors in use
constexpr uint16_t msi64 = 0x0080;
constexpr uint16_t msiMaskBits = 0x0100;
constexpr unsigned msixFlags = 2;
constexpr unsigned msixTable = 4;
constexpr unsigned msixPending = 8;
constexpr uint16_t msixEnable = 0x8000;
constexpr uint16_t msixMaskAll = 0x4000;
constexpr uint16_t msixSizeMask = 0x07ff;
constexpr unsigned msixEntrySize = 16;
constexpr unsigned msixEntryControl = 12;
constexpr unsigned expressFlags = 2;
constexpr unsigned expressDeviceCapabilities = 4;
constexpr unsigned expressDeviceControl = 8;
constexpr unsigned expressDeviceCapabilities2 = 36;
constexpr unsigned expressDeviceControl2 = 40;
constexpr uint32_t expressHasPrefixes = 1 << 21;  // end-to-end TLP prefixes: a PASID is one
constexpr uint32_t expressHasFlr = 1 << 28;
constexpr uint16_t expressStartFlr = 0x8000;
constexpr unsigned sriovControl = 0x08;
constexpr unsigned sriovInitialVfs = 0x0c;
constexpr unsigned sriovTotalVfs = 0x0e;
constexpr unsigned sriovNumVfs = 0x10;
constexpr unsigned sriovOffset = 0x14;
constexpr unsigned sriovStride = 0x16;
constexpr unsigned sriovDevice = 0x1a;
constexpr unsigned sriovPageSizes = 0x1c;  // the supported page sizes; the next register holds the one in use
constexpr unsigned sriovBar0 = 0x24;
constexpr unsigned sriovLength = 0x40;
constexpr uint16_t sriovEnable = 0x0001;  // the virtual functions exist
constexpr uint16_t sriovMemory = 0x0008;  // the virtual functions decode their BARs
constexpr unsigned powerCapabilities = 2;
constexpr unsigned powerControl = 4;
constexpr uint16_t powerVersion = 0x0003;
constexpr uint16_t powerStateMask = 0x0003;
constexpr uint16_t powerKeepsState = 0x0008;  // from D3hot to D0 the function keeps its state
constexpr unsigned vendorLength = 2;
constexpr unsigned vendorBytes = 3;
constexpr unsigned pasidCapabilities = 4;
constexpr unsigned pasidControl = 6;
constexpr unsigned pasidWidth = 8;  // the lowest bit of the width in the capabilities
constexpr uint16_t pasidEnable = 0x0001;
constexpr unsigned atsCapabilities = 4;
constexpr unsigned atsControl = 6;
constexpr uint16_t atsPageAligned = 0x0020;
constexpr uint16_t atsControlMask = 0x801f;  // on; the smallest translation unit
constexpr unsigned priControl = 4;
constexpr unsigned priStatus = 6;
constexpr unsigned priCapacity = 8;
constexpr unsigned priAllocation = 12;
constexpr uint16_t priEnable = 0x0001;
constexpr uint16_t priStopped = 0x0100;
constexpr uint16_t priNeedsPasid = 0x8000;  // an answer to a request with a PASID has it too

}  // namespace vfio::soft::pci
