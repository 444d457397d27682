// Config space as a program sees it through VFIO: the hardware's, with some bits virtual. The kernel acts on
// some writes (command register, MSI control, power state, function level reset); this class acts on the
// same ones.
//
// Life: made and destroyed with the session (session.h) that owns it.
#pragma once

#include <cstdint>
#include <vector>

#include "access.h"
#include "permissions.h"

namespace vfio::soft::pci {
class Function;
}

namespace vfio::soft::cdev {

class Interrupts;

class ConfigView {
 public:
  ConfigView(pci::Function& function, Interrupts& interrupts);

  // `offset` counts from the start of the region. Returns the number of bytes moved, -EFAULT for an access
  // that ends outside config space, or the error of `put` or `fetch` that ended it.
  [[nodiscard]] int64_t read(uint64_t offset, size_t size, const Put& put);
  [[nodiscard]] int64_t write(uint64_t offset, size_t size, const Fetch& fetch);

  [[nodiscard]] bool memoryEnabled() const;
  [[nodiscard]] uint8_t interruptPin() const;
  [[nodiscard]] bool powered() const;  // not in D3hot

 private:
  static constexpr uint8_t unassigned = 0xff;
  struct Chunk {
    unsigned offset, width;  // in config space
    unsigned start;          // where its capability starts
    const Permissions* permissions;
  };
  void addCapabilities();
  void addExtended();
  void fill(unsigned offset, unsigned length);
  [[nodiscard]] unsigned variableLength(uint8_t id, unsigned offset) const;
  [[nodiscard]] Chunk chunk(unsigned offset, size_t left) const;
  [[nodiscard]] uint32_t load(const Chunk& chunk);
  void store(const Chunk& chunk, uint32_t value);
  void storeMixed(const Chunk& chunk, uint32_t value);
  void fixBars();
  void afterCommand(const Chunk& chunk, uint32_t value);
  void afterMsi(const Chunk& chunk);
  void afterReset(const Chunk& chunk);
  [[nodiscard]] uint32_t get(unsigned offset, unsigned width) const;
  void put(unsigned offset, unsigned width, uint32_t value);

  pci::Function& function_;
  Interrupts& interrupts_;
  std::vector<uint8_t> shadow_;  // holds the virtual bits
  std::vector<uint8_t> owner_;   // per byte: index into permissions_, or unassigned
  std::vector<Permissions> permissions_;
  std::vector<uint8_t> ids_;      // capability ids, parallel to permissions_; 0 is the header
  std::vector<unsigned> starts_;  // where each capability starts; parallel to permissions_
  Permissions unassigned_;
  std::vector<uint32_t> realBars_;  // to restore them after a reset that we did not make
  bool barsDirty_ = true;
};

}  // namespace vfio::soft::cdev
