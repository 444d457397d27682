// Lays out the header and the capabilities. The writable bits follow QEMU's functions, since the reference
// machine consists of them: outside header and capabilities, the space is scratch memory.
#include "config.h"

#include <algorithm>
#include <bit>

#include "registers.h"
#include "specs.h"

namespace vfio::soft::pci {

namespace {

constexpr unsigned firstCapability = 0x40;
constexpr unsigned expressLength = 60;

}  // namespace

ConfigSpace::ConfigSpace(const devices::Description& description)
    : size_(description.express ? extendedSize : conventionalSize),
      bytes_(conventionalSize),
      writable_(conventionalSize),
      clearable_(conventionalSize) {
  std::fill(writable_.begin() + headerEnd, writable_.end(), uint8_t{0xff});
  set(regVendor, 2, description.vendor);
  set(regDevice, 2, description.device);
  set(regRevision, 1, description.revision);
  set(regClass, 1, description.classCode);
  set(regClass + 1, 2, description.classCode >> 8);
  allow(regCommand, 2, commandIo | commandMemory | commandMaster | commandSerr | commandIntxDisable);
  allowClear(regStatus, 2, statusErrors);
  allow(regCacheLine, 1, 0xff);
  allow(regInterruptLine, 1, 0xff);
  set(regInterruptPin, 1, description.interruptPin);
  const bool bridge = description.classCode >> 8 == 0x0604;
  set(regHeaderType, 1, bridge ? 1 : 0);
  if (!bridge) {
    set(regSubsystemVendor, 2, description.subsystemVendor);
    set(regSubsystem, 2, description.subsystem);
  }
  addBars(regBar0, description.bars);
  unsigned next = firstCapability;
  if (description.msix.vectors > 0) {
    addMsix(next, description.msix);
    next += 0x10;
  }
  if (description.msiVectors > 0) {
    addMsi(next, description.msiVectors);
    next += 0x20;
  }
  if (description.express) {
    addExpress(next, description);
    next += expressLength;
  }
  if (description.power) {
    addPower(next);
    next += 8;
  }
  addVendorSpecific(next, description.vendorSpecific);
  seal();
}

void ConfigSpace::addBars(unsigned offset, const std::array<devices::Bar, 6>& bars) {
  for (unsigned i = 0; i < bars.size(); ++i) {
    const auto& bar = bars[i];
    if (bar.kind == devices::BarKind::none) continue;
    const bool wide = bar.kind == devices::BarKind::memory64;
    const uint64_t mask = ~(bar.size - 1);
    const uint32_t type =
        bar.kind == devices::BarKind::io ? barIo : (wide ? bar64 : 0) | (bar.prefetchable ? barPrefetch : 0);
    set(offset + 4 * i, 4, type);
    allow(offset + 4 * i, 4, static_cast<uint32_t>(mask));
    if (wide) allow(offset + 4 * ++i, 4, static_cast<uint32_t>(mask >> 32));
  }
}

void ConfigSpace::addMsi(unsigned offset, unsigned vectors) {
  const unsigned at = addCapability(capMsi, offset, 14);
  set(at + msiFlags, 2, msi64 | std::bit_width(vectors - 1) << 1);
  allow(at + msiFlags, 2, msiEnable | msiEnabledMask);
  allow(at + msiAddress, 4, 0xfffffffc);
  allow(at + msiAddressHigh, 4, 0xffffffff);
  allow(at + msiData64, 2, 0xffff);
}

void ConfigSpace::addMsix(unsigned offset, const devices::MsixTable& table) {
  const unsigned at = addCapability(capMsix, offset, 12);
  set(at + msixFlags, 2, table.vectors - 1);
  allow(at + msixFlags, 2, msixEnable | msixMaskAll);
  set(at + msixTable, 4, table.table | table.bar);
  set(at + msixPending, 4, table.pending | table.bar);
}

void ConfigSpace::addExpress(unsigned offset, const devices::Description& description) {
  const bool functionReset = description.functionReset;
  const unsigned at = addCapability(capExpress, offset, expressLength);
  // Version 2; root and downstream ports have a slot.
  const uint8_t type = description.expressType;
  set(at + expressFlags, 2, 0x0002U | unsigned{type} << 4 | (type == 4 || type == 6 ? 0x0100U : 0U));
  set(at + expressDeviceCapabilities, 4, 0x8000 | (functionReset ? expressHasFlr : 0));
  allow(at + expressDeviceControl, 2, 0x7fff | (functionReset ? expressStartFlr : 0));
  set(at + expressDeviceControl, 2, 0x2810);
  allow(at + expressDeviceControl2, 2, 0xffff);
}

void ConfigSpace::addPower(unsigned offset) {
  const unsigned at = addCapability(capPower, offset, 8);
  set(at + powerCapabilities, 2, powerVersion);
  set(at + powerControl, 2, powerKeepsState);
  allow(at + powerControl, 2, powerStateMask);
}

void ConfigSpace::addVendorSpecific(unsigned offset, const devices::VendorCapabilities& capabilities) {
  const uint8_t* from = capabilities.bytes.data();
  for (const uint8_t length : capabilities.lengths) {
    if (length == 0) return;
    const unsigned at = addCapability(capVendor, offset, vendorBytes + length);
    set(at + vendorLength, 1, vendorBytes + length);
    std::copy_n(from, length, bytes_.begin() + at + vendorBytes);
    from += length;
    offset += (vendorBytes + length + 3) / 4 * 4;
  }
}

unsigned ConfigSpace::addExtended(uint16_t id, unsigned length) {
  const unsigned at = endOfExtended_;
  endOfExtended_ += length;
  for (auto* part : {&bytes_, &writable_, &clearable_}) part->resize(endOfExtended_);
  set(at, 4, id | 1U << 16);
  if (lastExtended_ != 0) set(lastExtended_, 4, (read(lastExtended_, 4) & 0x000fffff) | at << 20);
  lastExtended_ = at;
  return at;
}

unsigned ConfigSpace::findExtended(uint16_t id) const {
  for (unsigned at = lastExtended_ == 0 ? 0U : unsigned{conventionalSize}; at != 0; at = read(at, 4) >> 20) {
    if (read(at, 2) == id) return at;
  }
  return 0;
}

void ConfigSpace::addSriov(const SriovSpec& sriov) {
  const unsigned at = addExtended(extendedSriov, sriovLength);
  allow(at + sriovControl, 2, sriovEnable | sriovMemory);
  set(at + sriovInitialVfs, 2, sriov.totalVfs);
  set(at + sriovTotalVfs, 2, sriov.totalVfs);
  allow(at + sriovNumVfs, 2, 0xffff);
  set(at + sriovOffset, 2, sriov.offset);
  set(at + sriovStride, 2, sriov.stride);
  set(at + sriovDevice, 2, sriov.description.device);
  constexpr uint32_t allSizes = 0x553;
  set(at + sriovPageSizes, 4, allSizes);
  set(at + sriovPageSizes + 4, 4, 1);  // 4 KiB
  allow(at + sriovPageSizes + 4, 4, allSizes);
  addBars(at + sriovBar0, sriov.description.bars);
  for (unsigned i = 0; i < sriov.placed.size(); ++i) {
    if (sriov.placed[i] == 0) continue;
    write(at + sriovBar0 + 4 * i, 4, static_cast<uint32_t>(sriov.placed[i]));
    if (sriov.description.bars[i].kind == devices::BarKind::memory64)
      write(at + sriovBar0 + 4 * i + 4, 4, static_cast<uint32_t>(sriov.placed[i] >> 32));
  }
  seal();
}

void ConfigSpace::makeVirtual() {
  set(regVendor, 2, 0xffff);
  set(regDevice, 2, 0xffff);
  allow(regCommand, 2, commandMaster);
  for (unsigned i = 0; i < 6; ++i) {
    set(regBar0 + 4 * i, 4, 0);
    allow(regBar0 + 4 * i, 4, 0);
  }
  allow(regInterruptLine, 1, 0);
  seal();
}

void ConfigSpace::addAcs(bool port) {
  constexpr uint32_t validation = 0x01, requests = 0x04, completions = 0x08, upstream = 0x10, direct = 0x40;
  const uint32_t wanted = requests | completions | (port ? validation | upstream : 0);
  const unsigned at = addExtended(extendedAcs, 8);
  set(at + 4, 2, wanted | direct);
  set(at + 6, 2, wanted);
  allow(at + 6, 2, wanted | direct);
  seal();
}

void ConfigSpace::addPasid(unsigned bits) {
  const unsigned at = addExtended(extendedPasid, 8);
  set(at + pasidCapabilities, 2, bits << pasidWidth);
  allow(at + pasidControl, 2, pasidEnable);
  const unsigned express = findCapability(capExpress) + expressDeviceCapabilities2;
  set(express, 4, read(express, 4) | expressHasPrefixes);
  seal();
}

void ConfigSpace::addPageRequests(bool withPasid) {
  constexpr uint32_t mostRequests = 512;
  const unsigned ats = addExtended(extendedAts, 8);
  set(ats + atsCapabilities, 2, atsPageAligned);
  allow(ats + atsControl, 2, atsControlMask);
  const unsigned pri = addExtended(extendedPri, 16);
  allow(pri + priControl, 2, priEnable);
  set(pri + priStatus, 2, priStopped | (withPasid ? priNeedsPasid : 0));
  set(pri + priCapacity, 4, mostRequests);
  allow(pri + priAllocation, 4, 0xffffffff);
  seal();
}

uint32_t ConfigSpace::read(unsigned offset, unsigned width) const {
  uint32_t value = 0;
  for (unsigned i = 0; i < width; ++i) {
    const size_t at = offset + i;
    const uint32_t byte = at < bytes_.size() ? bytes_[at] : at < size_ ? 0 : 0xff;
    value |= byte << 8 * i;
  }
  return value;
}

void ConfigSpace::write(unsigned offset, unsigned width, uint32_t value) {
  for (unsigned i = 0; i < width && offset + i < bytes_.size(); ++i) {
    const auto byte = static_cast<uint8_t>(value >> 8 * i);
    const uint8_t writable = writable_[offset + i];
    const uint8_t clear = byte & clearable_[offset + i];
    auto& stored = bytes_[offset + i];
    stored = static_cast<uint8_t>(((stored & ~writable) | (byte & writable)) & ~clear);
  }
}

void ConfigSpace::set(unsigned offset, unsigned width, uint32_t value) {
  for (unsigned i = 0; i < width; ++i) bytes_[offset + i] = static_cast<uint8_t>(value >> 8 * i);
}

void ConfigSpace::allow(unsigned offset, unsigned width, uint32_t writable) {
  for (unsigned i = 0; i < width; ++i) writable_[offset + i] = static_cast<uint8_t>(writable >> 8 * i);
}

void ConfigSpace::allowClear(unsigned offset, unsigned width, uint32_t clearable) {
  for (unsigned i = 0; i < width; ++i) clearable_[offset + i] = static_cast<uint8_t>(clearable >> 8 * i);
}

unsigned ConfigSpace::addCapability(uint8_t id, unsigned offset, unsigned length) {
  std::fill_n(bytes_.begin() + offset, length, uint8_t{0});
  std::fill_n(writable_.begin() + offset, length, uint8_t{0});
  set(offset, 1, id);
  set(lastCapability_ == 0 ? static_cast<unsigned>(regCapabilities) : lastCapability_ + 1, 1, offset);
  set(regStatus, 2, read(regStatus, 2) | statusCapabilities);
  lastCapability_ = offset;
  return offset;
}

unsigned ConfigSpace::findCapability(uint8_t id) const {
  if ((read(regStatus, 2) & statusCapabilities) == 0) return 0;
  unsigned at = read(regCapabilities, 1) & ~3U;
  for (unsigned steps = 0; at >= headerEnd && steps < 48; ++steps) {
    if (read(at, 1) == id) return at;
    at = read(at + 1, 1) & ~3U;
  }
  return 0;
}

}  // namespace vfio::soft::pci
