// The admin commands Get Features and Set Features. Most features are kept and change nothing.
#include <algorithm>

#include "controller.h"

namespace vfio::soft::devices::nvme {

namespace {

enum Feature : uint32_t {
  featureArbitration = 0x01,
  featurePower = 0x02,
  featureTemperature = 0x04,
  featureErrorRecovery = 0x05,
  featureWriteCache = 0x06,
  featureQueues = 0x07,
  featureCoalescing = 0x08,
  featureVector = 0x09,
  featureAtomicity = 0x0a,
  featureEvents = 0x0b,
};

constexpr uint32_t vectorMask = 0xffff;

uint32_t queuesResult(uint32_t queues) { return (queues - 1) << 16 | (queues - 1); }

// The threshold that a command is about; null: there is none. Only the temperature of the whole can be
// watched.
uint32_t* threshold(Features& features, uint32_t argument) {
  if ((argument >> 16 & 15) != 0) return nullptr;
  switch (argument >> 20 & 3) {
    case 0:
      return &features.hot;
    case 1:
      return &features.cold;
    default:
      return nullptr;
  }
}

}  // namespace

Features Controller::initialFeatures() {
  Features features{.hot = 273 + 70, .writeCache = 1, .queues = queuePairs - 1};
  for (uint32_t vector = 0; vector < queuePairs; ++vector) features.vectors[vector] = vector;
  return features;
}

Outcome Controller::getFeature(const Command& command) {
  if ((command.dw10 >> 8 & 7) != 0) return Status::invalidField;  // the current value only
  switch (command.dw10 & 0xff) {
    case featureArbitration:
      return Outcome(features_.arbitration);
    case featurePower:
      return Outcome(features_.power);
    case featureTemperature: {
      const uint32_t* value = threshold(features_, command.dw11);
      return value ? Outcome(*value) : Outcome(Status::invalidField);
    }
    case featureErrorRecovery:
      return Outcome(features_.errorRecovery);
    case featureWriteCache:
      return Outcome(features_.writeCache);
    case featureQueues:
      return Outcome(queuesResult(features_.queues));
    case featureCoalescing:
      return Outcome(features_.coalescing);
    case featureVector:
      if ((command.dw11 & vectorMask) >= queuePairs) return Status::invalidField;
      return Outcome(features_.vectors[command.dw11 & vectorMask]);
    case featureAtomicity:
      return Outcome(features_.atomicity);
    case featureEvents:
      return Outcome(features_.events);
    default:
      return Status::invalidField;
  }
}

Outcome Controller::setFeature(const Command& command) {
  if (command.dw10 >> 31 != 0) return Status::notSaveable;
  const uint32_t value = command.dw11;
  const uint32_t feature = command.dw10 & 0xff;
  // No feature belongs to a namespace.
  const auto set = [&command, value](uint32_t& to) -> Outcome {
    if (command.nsid != 0 && command.nsid != broadcast) return Status::notNamespaceSpecific;
    to = value;
    return Status::success;
  };
  switch (feature) {
    case featureArbitration:
      return set(features_.arbitration);
    case featurePower:
      if ((value & 31) != 0) return Status::invalidField;  // there is only state 0
      return set(features_.power);
    case featureTemperature: {
      uint32_t* to = threshold(features_, value);
      if (!to) return Status::invalidField;
      const Outcome done = set(*to);
      *to &= 0xffff;
      return done;
    }
    case featureErrorRecovery:
      return set(features_.errorRecovery);
    case featureWriteCache:
      // QEMU's driver names the namespace, and devices take that.
      if (command.nsid > theNamespace && command.nsid != broadcast) return Status::invalidNamespace;
      features_.writeCache = value & 1;
      return Status::success;
    case featureQueues: {
      const uint32_t submissions = value & 0xffff;
      const uint32_t completions = value >> 16;
      if (submissions == 0xffff || completions == 0xffff) return Status::invalidField;
      const auto exists = [](const auto& queue) { return queue.size != 0; };
      if (std::any_of(completions_.begin() + 1, completions_.end(), exists)) return Status::sequenceError;
      features_.queues = std::min(std::max(submissions, completions) + 1, queuePairs - 1);
      return Outcome(queuesResult(features_.queues));
    }
    case featureCoalescing:
      return set(features_.coalescing);
    case featureVector:
      if ((value & vectorMask) >= queuePairs) return Status::invalidField;
      return set(features_.vectors[value & vectorMask]);
    case featureAtomicity:
      return set(features_.atomicity);
    case featureEvents:
      return set(features_.events);
    default:
      return Status::invalidField;
  }
}

}  // namespace vfio::soft::devices::nvme
