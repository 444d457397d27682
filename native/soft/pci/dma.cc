// The DMA of a function: through the IOMMU, or to the BARs of a neighbour that takes a request before it
// reaches the IOMMU.
#include <algorithm>
#include <array>
#include <cstring>
#include <utility>

#include "../core/dma_watch.h"
#include "../core/services.h"
#include "function.h"
#include "registers.h"

namespace vfio::soft::pci {

namespace {

uint64_t load(const uint8_t* from, unsigned width) {
  uint64_t value = 0;
  std::memcpy(&value, from, width);
  return value;
}

unsigned dataPhase(uint64_t offset, size_t left) {
  unsigned width = 4;
  while (offset % width != 0 || width > left) width /= 2;
  return width;
}

}  // namespace

// A function without bus mastering, or asleep, does no transfer.
bool Function::mayMaster(uint64_t address, uint64_t length, bool write, std::optional<uint32_t> pasid) {
  const bool master = (command() & commandMaster) != 0;
  if (master && !asleep()) return true;
  host.reportFault({bdf, address, length, write, master ? "the device is in D3hot" : "bus mastering is off"},
                   pasid);
  return false;
}

// A transfer begins. A sanitizer wants to know of one that nobody can have asked for.
bool Function::begins(uint64_t iova, uint64_t length, bool write, std::optional<uint32_t> pasid) {
  if (!mayMaster(iova, length, write, pasid)) return false;
  DmaWatch* const watch = host.watcher();
  if (watch == nullptr || resets_ == storedIn_ || hasMemory()) return true;
  watch->report(
      {.kind = "after-reset", .fault = {bdf, iova, length, write, "after the reset"}, .pasid = pasid});
  return true;
}

bool Function::readMemory(uint64_t iova, void* into, size_t size, std::optional<uint32_t> pasid) {
  if (!begins(iova, size, false, pasid)) return false;
  auto* bytes = static_cast<uint8_t*>(into);
  bool whole = true;
  while (size != 0) {
    const Reach part = reach(iova, size, pasid);
    if (part.peer) {
      if (!peerRead(part, bytes)) return false;
    } else {
      whole &= endpoint->dma.read(iova, bytes, part.size, pasid);
    }
    iova += part.size;
    bytes += part.size;
    size -= part.size;
  }
  return whole;
}

bool Function::writeMemory(uint64_t iova, const void* from, size_t size, std::optional<uint32_t> pasid) {
  if (!begins(iova, size, true, pasid)) return false;
  const auto* bytes = static_cast<const uint8_t*>(from);
  bool whole = true;
  while (size != 0) {
    const Reach part = reach(iova, size, pasid);
    if (part.peer) {
      if (!peerWrite(part, bytes)) return false;
    } else {
      whole &= endpoint->dma.write(iova, bytes, part.size, pasid);
    }
    iova += part.size;
    bytes += part.size;
    size -= part.size;
  }
  return whole;
}

// The parts move one after the other: each begins when the part before it is done.
void Function::beginRead(uint64_t iova, void* into, size_t size, devices::Requester by, Done done) {
  if (!begins(iova, size, false, by.pasid)) return done(false);
  const Reach part = reach(iova, size, by.pasid);
  auto* bytes = static_cast<uint8_t*>(into);
  Done next = std::move(done);
  if (part.size < size) {
    next = [this, iova = iova + part.size, bytes = bytes + part.size, size = size - part.size, by,
            last = std::move(next)](bool moved) {
      beginRead(iova, bytes, size, by, [last, moved](bool rest) { last(moved && rest); });
    };
  }
  if (!part.peer)
    return endpoint->dma.startRead(iova, bytes, part.size, by.pasid, std::move(next),
                                   {by.execute, by.privileged});
  if (peerRead(part, bytes)) next(true);
}

void Function::beginWrite(uint64_t iova, const void* from, size_t size, devices::Requester by, Done done) {
  if (!begins(iova, size, true, by.pasid)) return done(false);
  const Reach part = reach(iova, size, by.pasid);
  const auto* bytes = static_cast<const uint8_t*>(from);
  Done next = std::move(done);
  if (part.size < size) {
    next = [this, iova = iova + part.size, bytes = bytes + part.size, size = size - part.size, by,
            last = std::move(next)](bool moved) {
      beginWrite(iova, bytes, size, by, [last, moved](bool rest) { last(moved && rest); });
    };
  }
  if (!part.peer)
    return endpoint->dma.startWrite(iova, bytes, part.size, by.pasid, std::move(next),
                                    {by.execute, by.privileged});
  if (peerWrite(part, bytes)) next(true);
}

// ---------------------------------------------------------------- neighbours

namespace {

void eachFrom(Function& top, const std::function<void(Function&)>& found) {
  found(top);
  if (!top.secondary) return;
  for (auto* below : top.secondary->functions) eachFrom(*below, found);
}

}  // namespace

// Goes upwards until a port redirects requests. All functions on a conventional bus, or inside a switch, see
// the requests there; elsewhere only the functions of one device see each other.
void Function::eachPeer(const std::function<void(Function&)>& found) {
  for (Function* at = this; at && !at->isolation.redirects(); at = at->bus.bridge) {
    if (at != this) found(*at);
    const Function* bridge = at->bus.bridge;
    const bool shared = bridge && (bridge->isolation.kind == PortKind::conventionalBridge ||
                                   bridge->isolation.kind == PortKind::upstreamPort);
    for (auto* other : at->bus.functions) {
      if (other != at && (shared || other->devfn >> 3 == at->devfn >> 3)) eachFrom(*other, found);
    }
  }
}

// A request with a PASID always belongs to the IOMMU, whatever its address. A request doesn't reach a
// neighbour either if ACS lets it through but the kernel has the neighbour in another group.
Function::Reach Function::reach(uint64_t address, size_t size, std::optional<uint32_t> pasid) {
  Reach result{.size = size};
  const auto& group = endpoint->group;
  if (pasid || group.members.size() == 1) return result;
  eachPeer([&](Function& peer) {
    if (&peer.endpoint->group != &group) return;
    for (unsigned bar = 0; bar < peer.resources.size() && !result.peer; ++bar) {
      const auto& window = peer.resources[bar];
      const bool memory = window.kind == devices::BarKind::memory32 ||  //
                          window.kind == devices::BarKind::memory64;
      if (window.address == 0 || !memory || !peer.decodes(bar)) continue;
      if (address - window.address < window.size) {
        const uint64_t offset = address - window.address;
        result = {&peer, bar, offset, static_cast<size_t>(std::min<uint64_t>(size, window.size - offset))};
      } else if (window.address - address < result.size) {
        result.size = static_cast<size_t>(window.address - address);
      }
    }
  });
  return result;
}

bool Function::reachesNeighbour(uint64_t iova, size_t size, std::optional<uint32_t> pasid) {
  const Reach first = reach(iova, size, pasid);
  return first.peer != nullptr || first.size != size;  // the stretch ends where a neighbour's begins
}

bool Function::peek(uint64_t iova, void* into, size_t size, std::optional<uint32_t> pasid) {
  return !reachesNeighbour(iova, size, pasid) && readMemory(iova, into, size, pasid);
}

// A data phase of the bus is four bytes at most.
bool Function::peerRead(const Reach& reach, uint8_t* into) {
  const Busy busy(*this);
  const uint64_t life = resets_;
  for (size_t at = 0; at < reach.size;) {
    const unsigned width = dataPhase(reach.offset + at, reach.size - at);
    const uint64_t value = reach.peer->barRead(reach.bar, reach.offset + at, width);
    if (resets_ != life) return false;
    std::memcpy(into + at, &value, width);
    at += width;
  }
  return true;
}

bool Function::peerWrite(const Reach& reach, const uint8_t* from) {
  const Busy busy(*this);
  const uint64_t life = resets_;
  for (size_t at = 0; at < reach.size;) {
    const unsigned width = dataPhase(reach.offset + at, reach.size - at);
    reach.peer->barWrite(reach.bar, reach.offset + at, width, load(from + at, width));
    if (resets_ != life) return false;
    at += width;
  }
  return true;
}

}  // namespace vfio::soft::pci
