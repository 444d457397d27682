#include "isolation.h"

namespace vfio::soft::pci {

namespace {

// Does every port from here to the root send requests upstream?
bool pathIsolates(const Isolation* isolation) {
  for (; isolation != nullptr; isolation = isolation->bridge) {
    if (!isolation->isolates()) return false;
  }
  return true;
}

}  // namespace

bool Isolation::isolates() const {
  if (!express) return acs;
  return acs || ((kind == PortKind::endpoint || kind == PortKind::upstreamPort) && !multifunction);
}

std::optional<int> Fabric::groupFor(const Isolation& newcomer) const {
  // A bridge to a conventional bus makes the requests of all functions behind it look like its own.
  const Isolation* at = &newcomer;
  for (const Isolation* bridge = newcomer.bridge; bridge != nullptr; bridge = bridge->bridge) {
    if (bridge->kind != PortKind::conventionalBridge) continue;
    at = bridge;
    if (bridge->group) return bridge->group;
  }
  // A port that lets requests through to neighbours has the functions behind it in its own group.
  for (const Isolation* bridge = at->bridge; bridge != nullptr && !pathIsolates(bridge);
       bridge = bridge->bridge) {
    at = bridge;
    if (bridge->group) return bridge->group;
  }
  if (!at->multifunction || at->isolates()) return std::nullopt;
  const auto slot = slots_.find(slotOf(*at));
  if (slot == slots_.end()) return std::nullopt;
  for (const Isolation* sibling : slot->second) {
    if (sibling != at && !sibling->isolates() && sibling->group) return sibling->group;
  }
  return std::nullopt;
}

}  // namespace vfio::soft::pci
