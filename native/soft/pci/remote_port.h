// The port of a model that lives elsewhere. The model calls it from threads of its own, without the host's
// lock, so each call takes the lock. While the model handles a reset, the port does nothing: a chip that is
// held in reset neither reads memory nor raises interrupts.
//
// Life: created with the function, and destroyed after the model. The function may be destroyed earlier:
// from then on every call does nothing.
#pragma once

#include <functional>

#include "../devices/device.h"

namespace vfio::soft {
class Services;
}

namespace vfio::soft::pci {

class Function;

class RemotePort final : public devices::Port {
 public:
  RemotePort(Services& host, Function& function) : host_(host), function_(&function) {}

  // --- called by the function, with the lock held
  void detach() { function_ = nullptr; }
  void beginReset() { ++resets_; }
  void endReset() { --resets_; }
  [[nodiscard]] bool inReset() const { return resets_ != 0; }

  // --- Port, called without the lock. `done` is called without the lock too, on the engine.
  bool dmaRead(uint64_t iova, void* into, size_t size, std::optional<uint32_t> pasid) override;
  bool dmaWrite(uint64_t iova, const void* from, size_t size, std::optional<uint32_t> pasid) override;
  [[nodiscard]] std::optional<bool> dmaReadAlone(uint64_t iova, void* into, size_t size,
                                                 std::optional<uint32_t> pasid) override;
  [[nodiscard]] std::optional<bool> dmaWriteAlone(uint64_t iova, const void* from, size_t size,
                                                  std::optional<uint32_t> pasid) override;
  bool peek(uint64_t iova, void* into, size_t size, std::optional<uint32_t> pasid) override;
  void startRead(uint64_t iova, void* into, size_t size, devices::Requester by, Done done) override;
  void startWrite(uint64_t iova, const void* from, size_t size, devices::Requester by, Done done) override;
  void refuseDma(uint64_t iova, uint64_t length, bool write, std::string reason) override;
  [[nodiscard]] bool messagesEnabled() const override;
  void sendMessage(unsigned vector) override;
  void setLine(bool asserted) override;
  bool post(std::chrono::nanoseconds delay, std::function<void()> job) override;
  void vanish() override;
  [[nodiscard]] uint8_t* memory(unsigned bar) override;
  [[nodiscard]] std::shared_ptr<devices::BarMemory> sharedMemory(unsigned bar) override;

 private:
  // Runs `call` with the lock held, if the function still exists and is not in reset.
  void enter(const std::function<void(Function&)>& call) const;

  Services& host_;
  Function* function_;
  unsigned resets_ = 0;  // number of resets that the model is handling
};

}  // namespace vfio::soft::pci
