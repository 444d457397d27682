// The faults that were injected between the devices and the machine.
//
// Life: part of the host, whose lock guards it. A fault belongs to whoever injected it; it is listed here
// weakly.
#pragma once

#include <algorithm>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "../../controls.h"

namespace vfio::soft {

class DeviceFaults {
 public:
  explicit DeviceFaults(uint64_t seed) : seed_(seed) {}

  // What a fault does to one interrupt, transfer or page request.
  struct Strike {
    DeviceFault::Kind kind;
    std::chrono::nanoseconds delay;
    uint64_t number;  // any: which bit is wrong
  };
  enum class Of { interrupt, dma, pageRequest };

  [[nodiscard]] std::shared_ptr<void> inject(DeviceFault fault) {
    auto rule = std::make_shared<Rule>(std::move(fault), seed_ + injected_);
    rules_.push_back(rule);
    ++injected_;
    return rule;
  }

  // Asked once for each interrupt, transfer and page request of a device. `delayable`: can it wait? If
  // several faults strike it, the one that was injected first does.
  [[nodiscard]] std::optional<Strike> strike(Of what, const std::string& bdf, bool delayable = true) {
    if (rules_.empty()) return std::nullopt;
    std::erase_if(rules_, [](const auto& rule) { return rule.expired(); });
    std::optional<Strike> first;
    for (const auto& weak : rules_) {
      const auto rule = weak.lock();
      if (!rule || what != kindOf(rule->fault.kind)) continue;
      if (!rule->fault.bdf.empty() && rule->fault.bdf != bdf) continue;
      if (rule->fault.kind == DeviceFault::Kind::dmaDelayed && !delayable) continue;
      if (!rule->trigger.strikes() || first) continue;
      first = {rule->fault.kind, rule->fault.delay, rule->trigger.numbers()()};
      if (rule->fault.struck) rule->fault.struck(nameOf(what));
    }
    return first;
  }

 private:
  struct Rule {
    Rule(DeviceFault given, uint64_t seed) : fault(std::move(given)), trigger(fault.when, seed) {}
    const DeviceFault fault;
    Trigger trigger;
  };
  static constexpr Of kindOf(DeviceFault::Kind kind) {
    using Kind = DeviceFault::Kind;
    switch (kind) {
      case Kind::dmaDelayed:
      case Kind::dmaDropped:
      case Kind::dmaCorrupted:
        return Of::dma;
      case Kind::pageRequestSilent:
        return Of::pageRequest;
      default:
        return Of::interrupt;
    }
  }
  static constexpr const char* nameOf(Of what) {
    return what == Of::interrupt ? "interrupt" : what == Of::dma ? "dma" : "page request";
  }

  const uint64_t seed_;
  uint64_t injected_ = 0;
  std::vector<std::weak_ptr<Rule>> rules_;
};

}  // namespace vfio::soft
