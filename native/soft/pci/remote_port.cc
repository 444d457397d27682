// See remote_port.h.
#include "remote_port.h"

#include <utility>

#include "../core/services.h"
#include "function.h"

namespace vfio::soft::pci {

namespace {

// The outcome of a transfer is delivered by a job on the engine, so `done` is never called with the lock
// held.
devices::Port::Done onEngine(Function& function, devices::Port::Done done) {
  return [&function, done = std::move(done)](bool moved) {
    function.post(std::chrono::nanoseconds::zero(), [done, moved] { done(moved); });
  };
}

}  // namespace

void RemotePort::enter(const std::function<void(Function&)>& call) const {
  host_.locked([&] {
    if (function_ != nullptr && !inReset()) call(*function_);
  });
}

bool RemotePort::dmaRead(uint64_t iova, void* into, size_t size, std::optional<uint32_t> pasid) {
  bool whole = false;
  enter([&](Function& function) { whole = function.dmaRead(iova, into, size, pasid); });
  return whole;
}

bool RemotePort::dmaWrite(uint64_t iova, const void* from, size_t size, std::optional<uint32_t> pasid) {
  bool whole = false;
  enter([&](Function& function) { whole = function.dmaWrite(iova, from, size, pasid); });
  return whole;
}

std::optional<bool> RemotePort::dmaReadAlone(uint64_t iova, void* into, size_t size,
                                             std::optional<uint32_t> pasid) {
  std::optional<bool> whole = false;
  enter([&](Function& function) {
    if (function.reachesNeighbour(iova, size, pasid)) {
      whole = std::nullopt;
    } else {
      whole = function.dmaRead(iova, into, size, pasid);
    }
  });
  return whole;
}

std::optional<bool> RemotePort::dmaWriteAlone(uint64_t iova, const void* from, size_t size,
                                              std::optional<uint32_t> pasid) {
  std::optional<bool> whole = false;
  enter([&](Function& function) {
    if (function.reachesNeighbour(iova, size, pasid)) {
      whole = std::nullopt;
    } else {
      whole = function.dmaWrite(iova, from, size, pasid);
    }
  });
  return whole;
}

bool RemotePort::peek(uint64_t iova, void* into, size_t size, std::optional<uint32_t> pasid) {
  bool whole = false;
  enter([&](Function& function) { whole = function.peek(iova, into, size, pasid); });
  return whole;
}

void RemotePort::startRead(uint64_t iova, void* into, size_t size, devices::Requester by, Done done) {
  enter([&](Function& function) {
    function.startRead(iova, into, size, by, onEngine(function, std::move(done)));
  });
}

void RemotePort::startWrite(uint64_t iova, const void* from, size_t size, devices::Requester by, Done done) {
  enter([&](Function& function) {
    function.startWrite(iova, from, size, by, onEngine(function, std::move(done)));
  });
}

void RemotePort::refuseDma(uint64_t iova, uint64_t length, bool write, std::string reason) {
  enter([&](Function& function) { function.refuseDma(iova, length, write, std::move(reason)); });
}

bool RemotePort::messagesEnabled() const {
  bool enabled = false;
  enter([&](Function& function) { enabled = function.messagesEnabled(); });
  return enabled;
}

void RemotePort::sendMessage(unsigned vector) {
  enter([vector](Function& function) { function.sendMessage(vector); });
}

void RemotePort::setLine(bool asserted) {
  enter([asserted](Function& function) { function.setLine(asserted); });
}

bool RemotePort::post(std::chrono::nanoseconds delay, std::function<void()> job) {
  bool posted = false;
  enter([&](Function& function) { posted = function.post(delay, std::move(job)); });
  return posted;
}

void RemotePort::vanish() {
  host_.locked([&] {
    if (function_ != nullptr) function_->vanish();
    function_ = nullptr;
  });
}

uint8_t* RemotePort::memory(unsigned bar) {
  const auto memory = sharedMemory(bar);
  return memory ? memory->bytes : nullptr;
}

std::shared_ptr<devices::BarMemory> RemotePort::sharedMemory(unsigned bar) {
  std::shared_ptr<devices::BarMemory> memory;
  host_.locked([&] {
    if (function_ != nullptr) memory = function_->sharedMemory(bar);
  });
  return memory;
}

}  // namespace vfio::soft::pci
