// The config space of a function as the hardware has it: bytes, and for each bit whether a write from the bus
// changes it or clears it. Nothing here reacts to a write; pci::Function does.
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
  // Accesses over the bus: width 1, 2 or 4, naturally aligned. Past the end there is nothing: all ones.
  [[nodiscard]] uint32_t read(unsigned offset, unsigned width) const;
  void write(unsigned offset, unsigned width, uint32_t value);
  // The device or the firmware setting a value, read-only or not.
  void set(unsigned offset, unsigned width, uint32_t value);
  void reset() { bytes_ = initial_; }
  // Firmware's and the device maker's settings so far are what a reset goes back to.
  void seal() { initial_ = bytes_; }

  void allow(unsigned offset, unsigned width, uint32_t writable);
  void allowClear(unsigned offset, unsigned width, uint32_t clearable);
  // Appends a capability to the list; its bytes start as read-only zeros.
  unsigned addCapability(uint8_t id, unsigned offset, unsigned length);
  [[nodiscard]] unsigned findCapability(uint8_t id) const;  // 0: none
  [[nodiscard]] unsigned findExtended(uint16_t id) const;   // 0: none
  // Access control services, as the kernel turns them on.
  void addAcs(bool port);
  // Virtual functions that a physical one can have.
  void addSriov(const SriovSpec& sriov);
  // What is different in the header of a virtual function: who it is and where its BARs are says the physical
  // one.
  void makeVirtual();

 private:
  void addBars(unsigned offset, const std::array<devices::Bar, 6>& bars);
  unsigned addExtended(uint16_t id, unsigned length);
  void addMsi(unsigned offset, unsigned vectors);
  void addMsix(unsigned offset, const devices::MsixTable& table);
  void addExpress(unsigned offset, const devices::Description& description);

  size_t size_;
  // Up to the last capability: the rest of the extended space is read-only zeros, and most of a large
  // machine.
  std::vector<uint8_t> bytes_;
  std::vector<uint8_t> writable_;
  std::vector<uint8_t> clearable_;
  std::vector<uint8_t> initial_;
  unsigned lastCapability_ = 0;
  unsigned lastExtended_ = 0;
  unsigned endOfExtended_ = conventionalSize;
};

}  // namespace vfio::soft::pci
