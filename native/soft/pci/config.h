// The config space of a function as the hardware holds it: bytes, and for each bit whether a write from the
// bus changes it or clears it. Nothing here reacts to a write; pci::Function does.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <vector>

#include "../devices/device.h"
#include "registers.h"

namespace vfio::soft::pci {

struct SriovSpec;

class ConfigSpace {
 public:
  // What a device with this description shows after power-on.
  explicit ConfigSpace(const devices::Description& description);

  [[nodiscard]] size_t size() const { return size_; }
  // Accesses over the bus: width 1, 2 or 4, naturally aligned. Past the end of the space a read returns all
  // ones.
  [[nodiscard]] uint32_t read(unsigned offset, unsigned width) const;
  void write(unsigned offset, unsigned width, uint32_t value);
  // The device or the firmware sets a value, whether it is read-only or not.
  void set(unsigned offset, unsigned width, uint32_t value);
  void reset() { bytes_ = initial_; }
  // Keeps the present values, set by firmware and the device maker, as those that a reset restores.
  void seal() { initial_ = bytes_; }

  void allow(unsigned offset, unsigned width, uint32_t writable);
  void allowClear(unsigned offset, unsigned width, uint32_t clearable);
  // Appends a capability to the list; its bytes start as read-only zeros.
  unsigned addCapability(uint8_t id, unsigned offset, unsigned length);
  [[nodiscard]] unsigned findCapability(uint8_t id) const;  // 0: none
  [[nodiscard]] unsigned findExtended(uint16_t id) const;   // 0: none
  // Adds access control services, as the kernel enables them.
  void addAcs(bool port);
  // Adds process address space IDs of this many bits.
  void addPasid(unsigned bits);
  // Adds address translation services and page requests.
  void addPageRequests(bool withPasid);
  // Adds the virtual functions that a physical function can have.
  void addSriov(const SriovSpec& sriov);
  // Makes the header that of a virtual function. Its IDs and the places of its BARs are in the physical
  // function.
  void makeVirtual();

 private:
  void addBars(unsigned offset, const std::array<devices::Bar, 6>& bars);
  unsigned addExtended(uint16_t id, unsigned length);
  void addMsi(unsigned offset, unsigned vectors);
  void addMsix(unsigned offset, const devices::MsixTable& table);
  void addExpress(unsigned offset, const devices::Description& description);
  void addPower(unsigned offset);
  void addVendorSpecific(unsigned offset, const devices::VendorCapabilities& capabilities);

  size_t size_;
  // The bytes up to the last capability. The rest of the extended space is read-only zeros, and would be
  // most of the memory of a large machine.
  std::vector<uint8_t> bytes_;
  std::vector<uint8_t> writable_;
  std::vector<uint8_t> clearable_;
  std::vector<uint8_t> initial_;
  unsigned lastCapability_ = 0;
  unsigned lastExtended_ = 0;
  unsigned endOfExtended_ = conventionalSize;
};

}  // namespace vfio::soft::pci
