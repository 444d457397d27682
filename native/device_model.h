// Defines a device model and what it can do to the machine. A model knows its registers; the port knows
// where the model is plugged in (config space, IOMMU, interrupts).
//
// Life: a model is created with its PCI function and destroyed with it. The port outlives the model.
// Everything runs with the host's lock held; work that takes time is posted, and runs on the engine.
//
// A model that lives elsewhere, in another thread or in JavaScript, can't answer under that lock: its answer
// may need a call of the host. `remote` returns true for such a model, and its calls come without the lock:
// `read`, `write`, `reset`, `save`, `load`, posted work, outcomes of transfers, and its destructor. They
// come from several threads at a time. The model uses its port without the lock too, from any thread and in
// any of these calls. It must not use the port in `plug`, which, like `description`, has to answer at once.
// Until `reset` returns, the port does nothing for the model. The function is not destroyed while a call is
// under way; to unplug it fails with -EBUSY until then.
#pragma once

#include <array>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

namespace vfio::devices {

enum class BarKind { none, memory32, memory64, io };

// A part of a BAR.
struct Area {
  uint64_t offset = 0;
  uint64_t size = 0;
};

struct Bar {
  static constexpr size_t kMostAreas = 8;

  BarKind kind = BarKind::none;
  uint64_t size = 0;  // a power of two
  bool prefetchable = false;
  bool backed = false;  // plain memory: loads and stores don't reach the model
  // The parts that are plain memory if the whole BAR is not: whole pages, in order. A size of 0 ends the
  // list. A driver can map these parts only.
  std::array<Area, kMostAreas> areas{};
  bool mappable = true;  // false: a driver can't map the BAR

  [[nodiscard]] constexpr bool sparse() const { return areas[0].size != 0; }
  [[nodiscard]] constexpr bool hasMemory() const { return backed || sparse(); }
  // Are all these bytes plain memory, and, in a sparse BAR, of one area?
  [[nodiscard]] constexpr bool isMemory(uint64_t offset, uint64_t length) const {
    if (backed) return true;
    for (const Area& area : areas) {
      if (offset >= area.offset && offset - area.offset < area.size &&
          length <= area.size - (offset - area.offset))
        return true;
    }
    return false;
  }
};

// The memory behind a BAR.
struct BarMemory {
  uint8_t* bytes = nullptr;
  size_t size = 0;
};

// A second-generation message-signalled interrupt table, inside a BAR of registers.
struct MsixTable {
  unsigned vectors = 0;  // 0: no table
  unsigned bar = 0;
  uint32_t table = 0;    // offset in the BAR
  uint32_t pending = 0;  // offset in the BAR
};

// Vendor-specific capabilities: the bytes of one behind those of the other.
struct VendorCapabilities {
  static constexpr size_t kMost = 8;
  std::array<uint8_t, kMost> lengths{};  // of the bytes behind the capability's length; 0 ends the list
  std::array<uint8_t, 128> bytes{};

  // Bytes of config space that they take.
  [[nodiscard]] constexpr unsigned size() const {
    unsigned total = 0;
    for (const unsigned length : lengths) total += length == 0 ? 0 : (length + 3 + 3) / 4 * 4;
    return total;
  }
};

struct Description {
  uint16_t vendor;
  uint16_t device;
  uint16_t subsystemVendor = 0;
  uint16_t subsystem = 0;
  uint32_t classCode;
  uint8_t revision = 0;
  std::array<Bar, 6> bars{};
  uint8_t interruptPin = 0;  // 1 is INTA
  unsigned msiVectors = 0;
  MsixTable msix{};
  bool express = false;        // has a PCI Express capability and 4 KiB of config space
  bool functionReset = false;  // FLR; needs `express`
  bool power = false;          // has a power management capability, with the states D0 and D3hot
  VendorCapabilities vendorSpecific{};
  // The type of port: 0 an endpoint, 4 a root port, 5 and 6 a switch's ports, 7 a bridge.
  uint8_t expressType = 0;
};

// Whose access it is, and which rights its page requests ask for besides reading or writing. The bus has bits
// for these rights only beside a PASID.
struct Requester {
  std::optional<uint32_t> pasid{};
  bool execute = false;
  bool privileged = false;  // as the supervisor
};

// The model's side of its slot.
class Port : public std::enable_shared_from_this<Port> {
 public:
  virtual ~Port() = default;

  // DMA. Returns true if every byte moved. Bytes that did not move are recorded in the host's fault log.
  virtual bool dmaRead(uint64_t iova, void* into, size_t size, std::optional<uint32_t> pasid) = 0;
  virtual bool dmaWrite(uint64_t iova, const void* from, size_t size, std::optional<uint32_t> pasid) = 0;
  // The same, unless the access would reach registers of a neighbour: then nothing is done, and the answer is
  // null. So no other model is called meanwhile, which could take the memory away. The default always answers
  // null.
  [[nodiscard]] virtual std::optional<bool> dmaReadAlone(uint64_t /*iova*/, void* /*into*/, size_t /*size*/,
                                                         std::optional<uint32_t> /*pasid*/) {
    return std::nullopt;
  }
  [[nodiscard]] virtual std::optional<bool> dmaWriteAlone(uint64_t /*iova*/, const void* /*from*/,
                                                          size_t /*size*/,
                                                          std::optional<uint32_t> /*pasid*/) {
    return std::nullopt;
  }
  // Reads memory for a sanitizer. It is no access of the device: no injected fault strikes it. Registers of a
  // neighbour are not read: false.
  [[nodiscard]] virtual bool peek(uint64_t /*iova*/, void* /*into*/, size_t /*size*/,
                                  std::optional<uint32_t> /*pasid*/) {
    return false;
  }
  // DMA of a device that can wait until a missing page is there, if the machine lets the device ask
  // for one. `done` is called with the outcome, at once or later on the engine. Until then the memory
  // belongs to the transfer. A reset of the function drops the transfer.
  using Done = std::function<void(bool)>;
  virtual void startRead(uint64_t iova, void* into, size_t size, Requester by, Done done) = 0;
  virtual void startWrite(uint64_t iova, const void* from, size_t size, Requester by, Done done) = 0;
  // Reports a transfer that the device itself can't do, with the reason in words.
  virtual void refuseDma(uint64_t iova, uint64_t length, bool write, std::string reason) = 0;

  // Interrupts: messages if system software has enabled them, otherwise a level on the INTx pin.
  [[nodiscard]] virtual bool messagesEnabled() const = 0;
  virtual void sendMessage(unsigned vector) = 0;
  virtual void setLine(bool asserted) = 0;

  // Posts work to run later, on the engine. A reset of the function drops it. False: the port does nothing
  // for the model now.
  virtual bool post(std::chrono::nanoseconds delay, std::function<void()> job) = 0;

  // The device leaves the bus without a word (surprise removal): loads from it give all ones, stores go
  // nowhere, and the port does nothing any more. System software still has to remove the function.
  virtual void vanish() = 0;

  // The memory behind a BAR that has some (Bar::hasMemory), as the model reaches it; null: there is none. Of
  // a sparse BAR, the bytes outside its areas are nobody's.
  [[nodiscard]] virtual uint8_t* memory(unsigned bar) = 0;
  // The same memory for whoever may outlive the device: it stays as long as this pointer.
  [[nodiscard]] virtual std::shared_ptr<BarMemory> sharedMemory(unsigned bar) = 0;
};

// What resets a function: a reset of its own, or one of its bus.
enum class ResetKind : uint8_t { function, bus };

class Device {
 public:
  virtual ~Device() = default;
  [[nodiscard]] virtual const Description& description() const = 0;
  // Called once, before any other call.
  virtual void plug(Port& port) = 0;
  // Does the model live elsewhere? The answer never changes.
  [[nodiscard]] virtual bool remote() const { return false; }
  // Accesses of the width that came over the bus (1, 2, 4 or 8), naturally aligned, inside the BAR.
  [[nodiscard]] virtual uint64_t read(unsigned bar, uint64_t offset, unsigned width) = 0;
  virtual void write(unsigned bar, uint64_t offset, unsigned width, uint64_t value) = 0;
  // The function is reset. Posted work is already dropped, and the line is low. It does not throw.
  virtual void reset() = 0;
  // The same, for a model that wants to know the kind.
  virtual void resetBy(ResetKind) { reset(); }

  // --- the state of the model, to be loaded into another device of the same model
  //
  // Returns everything that a program could observe through the registers, and the work under way. The
  // default has no state.
  [[nodiscard]] virtual std::vector<uint8_t> save() const { return {}; }
  // Called on a device with no work under way: new, or reset. The device continues the work in the state,
  // and drives its line anew. Returns false if the state is damaged or another model's; then nothing has
  // changed.
  [[nodiscard]] virtual bool load(std::span<const uint8_t> state) { return state.empty(); }
};

// Makes the model of a device with this description.
using Maker = std::function<std::unique_ptr<Device>(const Description&)>;

}  // namespace vfio::devices
