// See config_view.h. Like the kernel, this file cuts an access into aligned pieces, each inside one
// capability. Each piece has its own side effects, so the cut is visible to a program.
#include "config_view.h"

#include <algorithm>
#include <cerrno>

#include "../pci/function.h"
#include "../pci/registers.h"
#include "interrupts.h"

namespace vfio::soft::cdev {

using namespace pci;

ConfigView::ConfigView(Function& function, Interrupts& interrupts)
    : function_(function),
      interrupts_(interrupts),
      shadow_(function.config.size()),
      owner_(function.config.size(), unassigned),
      unassigned_(unassignedPermissions()) {
  std::fill_n(owner_.begin(), headerEnd, uint8_t{0});
  permissions_.push_back(headerPermissions());
  ids_.push_back(0);
  starts_.push_back(0);
  fill(0, headerEnd);
  for (unsigned at = regBar0; at < regBar0 + 24; at += 4) realBars_.push_back(get(at, 4));
  if (function_.physical) {
    // A virtual function lacks these in hardware: its vendor and device ids, and the bit that enables memory
    // decoding. That bit reads as set.
    put(regVendor, 2, function_.description().vendor);
    put(regDevice, 2, function_.description().device);
    put(regInterruptPin, 1, 0);
    put(regCommand, 2, get(regCommand, 2) | commandMemory);
  }
  addCapabilities();
  addExtended();
}

void ConfigView::fill(unsigned offset, unsigned length) {
  for (unsigned i = 0; i < length; ++i) {
    shadow_[offset + i] = static_cast<uint8_t>(function_.configRead(offset + i, 1));
  }
}

uint32_t ConfigView::get(unsigned offset, unsigned width) const {
  uint32_t value = 0;
  for (unsigned i = 0; i < width; ++i) value |= uint32_t{shadow_[offset + i]} << 8 * i;
  return value;
}

void ConfigView::put(unsigned offset, unsigned width, uint32_t value) {
  for (unsigned i = 0; i < width; ++i) shadow_[offset + i] = static_cast<uint8_t>(value >> 8 * i);
}

unsigned ConfigView::variableLength(uint8_t id, unsigned offset) const {
  const uint16_t flags = static_cast<uint16_t>(function_.configRead(offset + 2, 2));
  switch (id) {
    case capMsi:
      return 10 + ((flags & msi64) != 0 ? 4 : 0) + ((flags & msiMaskBits) != 0 ? 10 : 0);
    case capVendor:
      return flags & 0xff;
    case capExpress:
      return (flags & 0xf) < 2 ? 20 : 44;
    default:
      return 0;
  }
}

// To hide a capability, the pointer before it is set to the capability after it.
void ConfigView::addCapabilities() {
  if ((function_.configRead(regStatus, 2) & statusCapabilities) == 0) return;
  unsigned at = function_.configRead(regCapabilities, 1);
  unsigned previous = regCapabilities;
  bool any = false;
  for (unsigned steps = 0; at != 0 && steps < (conventionalSize - headerEnd) / 4; ++steps) {
    const auto id = static_cast<uint8_t>(function_.configRead(at, 1));
    const unsigned next = function_.configRead(at + 1, 1);
    unsigned length = capabilityLength(id);
    if (length == variable) length = variableLength(id, at);
    length = std::min<unsigned>(length, conventionalSize - at);
    if (length == 0) {
      put(previous, 1, next);
      at = next;
      continue;
    }
    std::fill_n(owner_.begin() + at, length, static_cast<uint8_t>(permissions_.size()));
    const auto flags = static_cast<uint16_t>(function_.configRead(at + 2, 2));
    permissions_.push_back(capabilityPermissions(id, length, flags));
    ids_.push_back(id);
    starts_.push_back(at);
    fill(at, length);
    if (id == capPower) {  // only the host handles power management events
      put(at + powerCapabilities, 2, get(at + powerCapabilities, 2) & 0x07ff);
      put(at + powerControl, 2, get(at + powerControl, 2) & 0x7eff);
    }
    previous = at + 1;
    at = next;
    any = true;
  }
  if (!any) put(regStatus, 2, get(regStatus, 2) & ~uint32_t{statusCapabilities});
}

void ConfigView::addExtended() {
  if (function_.config.size() <= conventionalSize) return;
  unsigned at = conventionalSize;
  unsigned previous = 0;
  bool any = false;
  for (unsigned steps = 0; at >= conventionalSize && steps < (extendedSize - conventionalSize) / 4; ++steps) {
    const uint32_t head = function_.configRead(at, 4);
    const auto id = static_cast<uint16_t>(head);
    const unsigned next = head >> 20 & 0xffc;
    unsigned length = extendedLength(id);
    if (length == 0 && previous != 0) {
      put(previous, 4, (get(previous, 4) & 0x000fffff) | next << 20);
      at = next;
      continue;
    }
    // If the first capability is hidden, its header stays as the start of the list, without its id.
    const bool anchor = length == 0;
    if (anchor) length = 4;
    length = std::min<unsigned>(length, extendedSize - at);
    std::fill_n(owner_.begin() + at, length, static_cast<uint8_t>(permissions_.size()));
    permissions_.push_back(extendedPermissions(anchor ? 0 : id, length));
    ids_.push_back(0xfe);  // no side effects in the extended space
    starts_.push_back(at);
    fill(at, length);
    if (anchor) {
      put(at, 4, get(at, 4) & 0xffc00000);
    } else {
      any = true;
    }
    previous = at;
    at = next;
  }
  if (!any) put(conventionalSize, 4, 0);
}

// ---------------------------------------------------------------- accesses

ConfigView::Chunk ConfigView::chunk(unsigned offset, size_t left) const {
  const uint8_t owner = owner_[offset];
  unsigned run = 1;
  while ((offset + run) % 4 != 0 && owner_[offset + run] == owner) ++run;
  const size_t most = std::min<size_t>(left, run);
  const unsigned width = most >= 4 && offset % 4 == 0 ? 4 : most >= 2 && offset % 2 == 0 ? 2 : 1;
  if (owner == unassigned) return {offset, width, offset, &unassigned_};
  return {offset, width, starts_[owner], &permissions_[owner]};
}

int64_t ConfigView::read(uint64_t offset, size_t size, const Put& put) {
  if (offset >= shadow_.size() || size > shadow_.size() - offset) return -EFAULT;
  for (size_t done = 0; done < size;) {
    const Chunk piece = chunk(static_cast<unsigned>(offset + done), size - done);
    const uint32_t value = load(piece);
    if (const int failed = put(done, {reinterpret_cast<const uint8_t*>(&value), piece.width})) return failed;
    done += piece.width;
  }
  return static_cast<int64_t>(size);
}

int64_t ConfigView::write(uint64_t offset, size_t size, const Fetch& fetch) {
  if (offset >= shadow_.size() || size > shadow_.size() - offset) return -EFAULT;
  for (size_t done = 0; done < size;) {
    const Chunk piece = chunk(static_cast<unsigned>(offset + done), size - done);
    uint32_t value = 0;
    if (piece.permissions->write != Permissions::Write::none) {
      if (const int failed = fetch(done, {reinterpret_cast<uint8_t*>(&value), piece.width})) return failed;
      store(piece, value);
    }
    done += piece.width;
  }
  return static_cast<int64_t>(size);
}

uint32_t ConfigView::load(const Chunk& chunk) {
  const uint32_t hardware = function_.configRead(chunk.offset, chunk.width);
  const unsigned inside = chunk.offset - chunk.start;
  const auto& permissions = *chunk.permissions;
  if (permissions.read == Permissions::Read::raw) return hardware;
  if (permissions.read == Permissions::Read::hardware) {
    // All bytes come from the device, except those that link the list.
    const unsigned linked = chunk.offset < conventionalSize ? 2 : 4;
    uint32_t value = hardware;
    for (unsigned i = 0; i < chunk.width && inside + i < linked; ++i) {
      value = (value & ~(uint32_t{0xff} << 8 * i)) | uint32_t{shadow_[chunk.offset + i]} << 8 * i;
    }
    return value;
  }
  const bool isBar = (chunk.offset >= regBar0 && chunk.offset < regBar0 + 24) ||
                     (chunk.offset >= regRom && chunk.offset < regRom + 4);
  if (isBar && chunk.start == 0) fixBars();
  uint32_t value = 0;
  for (unsigned i = 0; i < chunk.width; ++i) {
    const uint8_t bits = permissions.virtualBits[inside + i];
    const auto real = static_cast<uint8_t>(hardware >> 8 * i);
    value |= static_cast<uint32_t>((shadow_[chunk.offset + i] & bits) | (real & ~bits)) << 8 * i;
  }
  if (function_.physical && chunk.start == 0 && chunk.offset == regCommand)
    value |= get(regCommand, 2) & commandMemory;
  return value;
}

void ConfigView::storeMixed(const Chunk& chunk, uint32_t value) {
  const unsigned inside = chunk.offset - chunk.start;
  uint32_t toHardware = 0;
  uint32_t hardware = function_.configRead(chunk.offset, chunk.width);
  for (unsigned i = 0; i < chunk.width; ++i) {
    const uint8_t virtualBits = chunk.permissions->virtualBits[inside + i];
    const uint8_t writable = chunk.permissions->writableBits[inside + i];
    const auto byte = static_cast<uint8_t>(value >> 8 * i);
    auto& shadow = shadow_[chunk.offset + i];
    const uint8_t mine = writable & virtualBits;
    shadow = static_cast<uint8_t>((shadow & ~mine) | (byte & mine));
    toHardware |= static_cast<uint32_t>(writable & ~virtualBits & 0xff) << 8 * i;
  }
  if (toHardware == 0) return;
  hardware = (hardware & ~toHardware) | (value & toHardware);
  function_.configWrite(chunk.offset, chunk.width, hardware);
}

void ConfigView::store(const Chunk& chunk, uint32_t value) {
  if (chunk.permissions->write == Permissions::Write::raw) {
    function_.configWrite(chunk.offset, chunk.width, value);
    return;
  }
  const unsigned inside = chunk.offset - chunk.start;
  const uint8_t id = ids_[owner_[chunk.offset]];
  if (id == 0 && chunk.offset == regCommand) {
    // If decoding is on in our copy but off in the device, the device was reset without our knowledge.
    const auto before = function_.command();
    const uint32_t lost = value & get(regCommand, 2) & ~uint32_t{before} & (commandIo | commandMemory);
    // The BARs are then written again. A virtual function has no BARs of its own.
    for (unsigned i = 0; lost != 0 && !function_.physical && i < realBars_.size(); ++i) {
      function_.configWrite(regBar0 + 4 * i, 4, realBars_[i]);
    }
  }
  storeMixed(chunk, value);
  if (id == 0) {
    if (chunk.offset >= regCommand && chunk.offset < regStatus) afterCommand(chunk, value);
    if (chunk.offset >= regBar0 && chunk.offset < regRom + 4) barsDirty_ = true;
  } else if (id == capMsi) {
    if (inside <= msiFlags && inside + chunk.width >= msiFlags) afterMsi(chunk);
  } else if (id == capExpress || id == capAdvanced) {
    afterReset(chunk);
  } else if (id == capPower && inside == powerControl) {
    // A program can't write the state bits itself; the host changes the power state for it.
    const uint32_t control = function_.configRead(chunk.offset, 2);
    function_.configWrite(chunk.offset, 2, (control & ~uint32_t{powerStateMask}) | (value & powerStateMask));
  }
}

void ConfigView::afterCommand(const Chunk& chunk, uint32_t value) {
  if (chunk.offset == regCommand) {
    constexpr uint32_t decode = commandIo | commandMemory;
    put(regCommand, 2, (get(regCommand, 2) & ~decode) | (value & decode));
  }
  interrupts_.setDisabled((get(regCommand, 2) & commandIntxDisable) != 0);
}

void ConfigView::afterMsi(const Chunk& chunk) {
  const unsigned at = chunk.start + msiFlags;
  uint32_t flags = get(at, 2);
  // Only SET_IRQS turns MSI on, and a program can't use more vectors than SET_IRQS granted it.
  if (!interrupts_.messagesActive()) flags &= ~uint32_t{msiEnable};
  if ((flags & msiEnabledMask) >> 4 > interrupts_.grantedLog2()) {
    flags = (flags & ~uint32_t{msiEnabledMask}) | interrupts_.grantedLog2() << 4;
  }
  put(at, 2, flags);
  function_.configWrite(at, 2, flags);
}

// The bit that starts a function level reset reads as zero. The reset itself preserves config space.
void ConfigView::afterReset(const Chunk& chunk) {
  const bool express = ids_[owner_[chunk.offset]] == capExpress;
  const unsigned at = chunk.start + (express ? expressDeviceControl : 4);
  const uint32_t bit = express ? expressStartFlr : 1;
  const uint32_t control = get(at, express ? 2 : 1);
  if ((control & bit) == 0) return;
  put(at, express ? 2 : 1, control & ~bit);
  if (function_.hasFunctionReset() && function_.tryReset() != 0) return;
}

// Makes the virtual BARs answer to sizing, and hides BARs to which the host gave no address.
void ConfigView::fixBars() {
  if (!barsDirty_) return;
  barsDirty_ = false;
  for (unsigned i = 0; i < function_.resources.size(); ++i) {
    const auto& resource = function_.resources[i];
    const unsigned at = regBar0 + 4 * i;
    if (resource.address == 0) {
      put(at, 4, 0);
      continue;
    }
    const uint64_t mask = ~(resource.size - 1);
    const bool wide = resource.kind == devices::BarKind::memory64;
    const uint32_t type = resource.kind == devices::BarKind::io
                              ? barIo
                              : (resource.prefetchable ? barPrefetch : 0) | (wide ? bar64 : 0);
    put(at, 4, (get(at, 4) & static_cast<uint32_t>(mask)) | type);
    if (wide) {
      put(at + 4, 4, get(at + 4, 4) & static_cast<uint32_t>(mask >> 32));
      ++i;
    }
  }
  put(regRom, 4, 0);  // no function here has an option ROM
}

bool ConfigView::powered() const {
  const unsigned at = function_.config.findCapability(capPower);
  return at == 0 || function_.gone() || (function_.configRead(at + powerControl, 2) & powerStateMask) != 3;
}

bool ConfigView::memoryEnabled() const {
  return (function_.physical || (get(regCommand, 2) & commandMemory) != 0) && powered();
}

uint8_t ConfigView::interruptPin() const { return shadow_[regInterruptPin]; }

}  // namespace vfio::soft::cdev
