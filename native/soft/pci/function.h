// One PCI function: its config space, BARs and interrupt logic, with a device model behind them and an IOMMU
// endpoint that its DMA passes through. It also stores the records of system software about it (driver,
// driver_override, the VFIO device).
//
// Life: created with the machine's topology or when it is plugged in later; destroyed when it is unplugged
// or the machine is destroyed.
#pragma once

#include <array>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "../core/device_faults.h"
#include "../devices/device.h"
#include "../iommu/endpoint.h"
#include "config.h"
#include "holder.h"
#include "isolation.h"
#include "remote_port.h"
#include "specs.h"

namespace vfio::soft {
class Services;
}

namespace vfio::soft::machine {
class Driver;
}

namespace vfio::soft::pci {

class Function;

struct Bus {
  uint8_t number = 0;
  Function* bridge = nullptr;  // null: a root bus
  std::vector<Function*> functions;
};

// Receives a function's interrupts: the driver that holds the function.
class InterruptHandler {
 public:
  virtual void message(unsigned vector) = 0;
  virtual void line() = 0;  // the pin is asserted and not disabled

 protected:
  ~InterruptHandler() = default;
};

// A BAR as firmware placed it. An `address` of 0 means that there is no BAR.
struct Resource {
  uint64_t address = 0;
  uint64_t size = 0;
  devices::BarKind kind = devices::BarKind::none;
  bool prefetchable = false;
  uint64_t flags = 0;  // as the kernel prints them in `resource`
};

// The virtual functions of a physical one.
struct Sriov {
  SriovSpec spec;
  unsigned count = 0;  // as many as system software enabled
  bool autoprobe = true;
  std::vector<Function*> functions{};  // null: unplugged meanwhile
};

// The kernel's flags for a BAR, as it shows them in sysfs.
[[nodiscard]] uint64_t resourceFlags(const devices::Bar& bar);

class Function final : public devices::Port {
 public:
  struct Place {
    Bus* bus;
    uint8_t devfn;
    // The ID that the IOMMU sees: a bridge to a conventional bus uses its own for all functions behind it.
    uint16_t requesterId;
    unsigned interrupt;  // the line that firmware routed
    std::array<uint64_t, 6> addresses;
    uint16_t command;                  // as firmware left it
    Isolation isolation{};             // how it is isolated; its bridge is the bus's
    const SriovSpec* sriov = nullptr;  // the virtual functions that it can have
    Function* physical = nullptr;      // the physical function that this virtual one belongs to
    std::string name{};                // empty: named by its place on the bus
    unsigned pasidBits = 0;
    bool pageRequests = false;  // it can request pages
  };
  Function(Services& host, const Place& place, std::unique_ptr<devices::Device> model, iommu::Unit& unit,
           iommu::Group& group);
  ~Function() override;
  Function(const Function&) = delete;
  Function& operator=(const Function&) = delete;

  // --- the bus side: what the processor can do to the function
  [[nodiscard]] uint32_t configRead(unsigned offset, unsigned width) const;
  void configWrite(unsigned offset, unsigned width, uint32_t value);
  [[nodiscard]] bool decodes(unsigned bar) const;  // does the function answer to the BAR's addresses?
  // Has the device left the bus, though the function is still known? Then every load gives all ones.
  [[nodiscard]] bool gone() const { return gone_; }
  [[nodiscard]] uint64_t barRead(unsigned bar, uint64_t offset, unsigned width);
  void barWrite(unsigned bar, uint64_t offset, unsigned width, uint64_t value);
  [[nodiscard]] int memoryFd(unsigned bar) const;  // the memory behind a BAR; -1: it has none
  // Does to the hardware what any reset of the function does. Config space is reset too.
  void reset(devices::ResetKind kind = devices::ResetKind::function);

  // --- the driver side
  void setInterruptHandler(InterruptHandler* handler);
  [[nodiscard]] bool lineAsserted() const { return line_; }
  // Sends the messages that a mask held back, once the mask is lifted.
  void flushPending();
  // Programs and unmasks an MSI-X vector, or masks it. The host owns the table, so the command register
  // doesn't matter.
  void setVector(unsigned vector, bool enabled);
  // False for a function that the hardware can't reset alone.
  [[nodiscard]] bool hasFunctionReset() const { return description().functionReset; }
  // What a reset of this function alone is in hardware.
  [[nodiscard]] devices::ResetKind resetKind() const {
    return hasFunctionReset() || isMediated() ? devices::ResetKind::function : devices::ResetKind::bus;
  }
  // pci_reset_function. Returns 0, or -ENOTTY if no method works. Config space has its earlier content again
  // afterwards.
  [[nodiscard]] int tryReset();
  // Config space, and the MSI-X table, of which system software keeps a copy.
  struct State {
    std::vector<uint32_t> config;
    std::vector<uint8_t> msixTable;
  };
  [[nodiscard]] State saveState() const;
  void restoreState(const State& state);

  // --- the state of the model, as devices::Device has it
  [[nodiscard]] std::vector<uint8_t> saveModel();
  [[nodiscard]] bool loadModel(std::span<const uint8_t> state);

  // --- a model that lives elsewhere
  // Is a call of its model under way, or a transfer to the registers of another such model? Then the
  // function can't be destroyed.
  [[nodiscard]] bool busy() const { return busy_ != 0; }
  // Has its model not yet finished handling a reset?
  [[nodiscard]] bool inReset() const { return remote_ && remote_->inReset(); }

  [[nodiscard]] const devices::Description& description() const { return model_->description(); }
  [[nodiscard]] bool isBridge() const;
  // A mediated device: a share of a parent. To the program it looks like a function of its own.
  [[nodiscard]] bool isMediated() const { return endpoint->group.by == iommu::Confinement::driver; }
  [[nodiscard]] uint16_t command() const;

  // --- Port
  // Would an access reach registers of a neighbour?
  [[nodiscard]] bool reachesNeighbour(uint64_t iova, size_t size, std::optional<uint32_t> pasid);
  bool dmaRead(uint64_t iova, void* into, size_t size, std::optional<uint32_t> pasid) override;
  bool dmaWrite(uint64_t iova, const void* from, size_t size, std::optional<uint32_t> pasid) override;
  void startRead(uint64_t iova, void* into, size_t size, devices::Requester by, Done done) override;
  void startWrite(uint64_t iova, const void* from, size_t size, devices::Requester by, Done done) override;
  void refuseDma(uint64_t iova, uint64_t length, bool write, std::string reason) override;
  [[nodiscard]] bool messagesEnabled() const override;
  void sendMessage(unsigned vector) override;
  void setLine(bool asserted) override;
  [[nodiscard]] bool peek(uint64_t iova, void* into, size_t size, std::optional<uint32_t> pasid) override;
  bool post(std::chrono::nanoseconds delay, std::function<void()> job) override;
  void vanish() override;
  [[nodiscard]] uint8_t* memory(unsigned bar) override;
  [[nodiscard]] std::shared_ptr<devices::BarMemory> sharedMemory(unsigned bar) override;

  Services& host;
  Bus& bus;
  const uint8_t devfn;
  const std::string bdf;
  uint64_t life = 0;  // tells apart the functions that have had this address one after the other
  unsigned interrupt;
  std::array<Resource, 6> resources{};
  ConfigSpace config;
  Isolation isolation;
  Bus* secondary = nullptr;      // a bridge only: the bus behind it
  std::unique_ptr<Sriov> sriov;  // a physical function only
  Function* const physical;      // set for a virtual function only: its physical one
  std::unique_ptr<iommu::Endpoint> endpoint;
  // False: no IOMMU translates its DMA, and system software knows no group of it.
  bool translated = true;
  bool isParent = false;  // a parent of mediated devices
  UseSpec use;            // how its host driver uses it, while one is bound to it

  // --- kept by system software
  machine::Driver* driver = nullptr;
  std::optional<std::string> driverOverride;
  std::string path;  // in sysfs: /sys/devices/pci0000:00/...
  unsigned enableCount = 0;
  std::vector<std::string> resetMethods;                 // the methods that the function has
  std::optional<std::vector<std::string>> chosenResets;  // the methods that a user chose from these
  [[nodiscard]] const std::vector<std::string>& resets() const {
    return chosenResets ? *chosenResets : resetMethods;
  }
  std::unique_ptr<Holder> vfio;  // set while a driver of VFIO is bound to the function

 private:
  // Memory behind a BAR. The constructor throws std::system_error, with the errno, if there is no memory.
  struct Memory : devices::BarMemory {
    explicit Memory(size_t bytesOfBar);
    ~Memory();
    Memory(const Memory&) = delete;
    Memory& operator=(const Memory&) = delete;
    int fd = -1;
  };
  // A stretch of bus addresses, and where a request of this function to it arrives: at the BAR of a
  // neighbour (`peer`) that takes the request before it reaches the IOMMU, or, with a null `peer`, at the
  // IOMMU.
  struct Reach {
    Function* peer = nullptr;
    unsigned bar = 0;
    uint64_t offset = 0;
    size_t size = 0;
  };
  [[nodiscard]] Reach reach(uint64_t address, size_t size, std::optional<uint32_t> pasid);
  // Calls `found` for each function that a request of this function can reach without passing the IOMMU.
  void eachPeer(const std::function<void(Function&)>& found);
  // Return false if this function was reset meanwhile, which drops its transfer.
  [[nodiscard]] bool peerRead(const Reach& reach, uint8_t* into);
  [[nodiscard]] bool peerWrite(const Reach& reach, const uint8_t* from);
  // Keeps the function from being destroyed while the lock may be released.
  class Busy {
   public:
    explicit Busy(Function& function) : function_(function) { ++function_.busy_; }
    ~Busy() { --function_.busy_; }
    Busy(const Busy&) = delete;
    Busy& operator=(const Busy&) = delete;

   private:
    Function& function_;
  };
  // Runs a call of the model: without the lock if the model lives elsewhere, otherwise with it.
  template <typename Call>
  void callModel(const Call& call);
  void resetModel(devices::ResetKind kind);
  [[nodiscard]] bool asleep() const;  // in a state of power management in which it does nothing
  [[nodiscard]] bool mayMaster(uint64_t address, uint64_t length, bool write, std::optional<uint32_t> pasid);
  // The DMA of the port, without injected faults.
  bool readMemory(uint64_t iova, void* into, size_t size, std::optional<uint32_t> pasid);
  bool writeMemory(uint64_t iova, const void* from, size_t size, std::optional<uint32_t> pasid);
  void beginRead(uint64_t iova, void* into, size_t size, devices::Requester by, Done done);
  void beginWrite(uint64_t iova, const void* from, size_t size, devices::Requester by, Done done);
  // The same with a fault: faults.cc
  using Strike = DeviceFaults::Strike;
  bool faultyRead(const Strike& strike, uint64_t iova, void* into, size_t size,
                  std::optional<uint32_t> pasid);
  bool faultyWrite(const Strike& strike, uint64_t iova, const void* from, size_t size,
                   std::optional<uint32_t> pasid);
  void deliverMessage(unsigned vector);
  void deliverFaulty(const Strike& strike, unsigned vector);
  // Runs `job` on the engine, with the lock. A reset of the function drops it.
  void later(std::chrono::nanoseconds delay, std::function<void()> job);
  [[nodiscard]] bool begins(uint64_t iova, uint64_t length, bool write, std::optional<uint32_t> pasid);
  // Has it memory behind a BAR, whose stores nobody sees?
  [[nodiscard]] bool hasMemory() const;
  // Tells a sanitizer of a store to a register, and of a message that nobody hears of.
  void noteStore();
  void noteLost(unsigned vector, const char* reason);
  void noteMessages();
  void noteMasked();
  void updateLine();
  [[nodiscard]] bool inMsixTable(unsigned bar, uint64_t offset) const;
  [[nodiscard]] bool vectorMasked(unsigned vector) const;

  std::shared_ptr<devices::Device> model_;
  // The port of a model that lives elsewhere; null: the function is its port.
  std::shared_ptr<RemotePort> remote_;
  unsigned busy_ = 0;
  bool gone_ = false;
  uint64_t resets_ = 0;
  std::array<std::shared_ptr<Memory>, 6> memory_{};  // null: no memory is behind the BAR
  uint64_t storedIn_ = 0;                            // as `resets_` was at the last store to a register
  bool hadMessages_ = false;                         // messages have been enabled since the last reset
  std::optional<unsigned> unheard_;                  // a message from before that
  InterruptHandler* handler_ = nullptr;
  bool line_ = false;
  std::vector<uint8_t> msixTable_;
  std::vector<bool> msixPending_;
  std::vector<unsigned> overtaken_;  // vectors of messages that wait for the next one (interruptReordered)
};

}  // namespace vfio::soft::pci
