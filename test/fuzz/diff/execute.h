// Runs a sequence on one side and says what it answered: one line a call, the result and every byte that
// changed.
//
// Each sequence runs in a child of its own: it starts with fresh memory, descriptors, limits and, on the
// software side, a fresh machine, and what crashes or hangs is a line of the transcript like any other.
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "../../../native/backend.h"
#include "sequence.h"

namespace vfio::fuzz {

// One of the two sides.
struct Side {
  // In the child: the host, ready for this kind of sequence.
  std::function<std::unique_ptr<Backend>(const std::string& kind)> open;
  // In the child, before a sequence: makes the devices what they are after power-on, if what ran before used
  // them.
  std::function<void(const std::string& kind)> wash;
  // Waits until the device behind a descriptor has finished what it was told to do.
  std::function<void(Backend&, int fd)> settle;
  // Waits as long as an interrupt may be on its way.
  std::function<void()> pause;
  // What to get wrong after an ioctl: for the fuzzer's own test. Empty: nothing.
  std::function<void(uint64_t request, int result, uint64_t argument)> lie = {};
};

[[nodiscard]] Side kernelSide();
// `plant`: with the mistake that VFIO_FUZZ_PLANT names, if any.
[[nodiscard]] Side softwareSide(bool plant);

// Makes the devices of a kind ready, by sysfs: they are bound to vfio-pci in the order of their nodes.
void prepare(Backend& host, const std::string& kind);

using Transcript = std::vector<std::string>;
[[nodiscard]] Transcript run(const Side& side, const Case& what);

// The capabilities that this process lacks.
[[nodiscard]] uint64_t lackedCapabilities();

// Where two transcripts part, or -1.
[[nodiscard]] long firstDifference(const Transcript& one, const Transcript& other);

}  // namespace vfio::fuzz
