// Runs a sequence on one side and returns a transcript: a line for each call, with the result and every byte
// that changed.
//
// Each sequence runs in a separate child: it starts with fresh memory, descriptors, limits and, on the
// software side, a fresh machine. A crash or a hang is a line of the transcript, like a result.
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
  // In the child, before a sequence: brings the devices into the state after power-on, if an earlier sequence
  // used them.
  std::function<void(const std::string& kind)> wash;
  // Waits until the device of this descriptor has finished its work.
  std::function<void(Backend&, int fd)> settle;
  // Waits as long as the delivery of an interrupt may take.
  std::function<void()> pause;
  // For the fuzzer's own test: makes the answer of an ioctl wrong. Empty: no answer is changed.
  std::function<void(uint64_t request, int result, uint64_t argument)> lie = {};
};

[[nodiscard]] Side kernelSide();
// `plant`: the side makes the error that VFIO_FUZZ_PLANT names, if it is set.
[[nodiscard]] Side softwareSide(bool plant);

// Binds the devices of a kind to vfio-pci through sysfs, in the order of their nodes.
void prepare(Backend& host, const std::string& kind);

using Transcript = std::vector<std::string>;
[[nodiscard]] Transcript run(const Side& side, const Case& what);

// The capabilities that this process lacks.
[[nodiscard]] uint64_t lackedCapabilities();

// The index of the first line in which two transcripts differ, or -1.
[[nodiscard]] long firstDifference(const Transcript& one, const Transcript& other);

}  // namespace vfio::fuzz
