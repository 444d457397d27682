// The options of a software host: which kernel it answers as, and which machine it has.
#pragma once

#include <charconv>
#include <compare>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

namespace vfio::soft {

// The uAPI level: commands, flags and errors are those of this release. "6.12" is its long-term series, with
// the changes that were carried back into it (docs/software-host.md).
struct KernelVersion {
  unsigned major;
  unsigned minor;

  auto operator<=>(const KernelVersion&) const = default;

  [[nodiscard]] std::string text() const { return std::to_string(major) + "." + std::to_string(minor); }

  // Parses a text like "6.12"; no other form is a version.
  [[nodiscard]] static std::optional<KernelVersion> parse(std::string_view text) {
    KernelVersion version{};
    const char* const end = text.data() + text.size();
    const auto major = std::from_chars(text.data(), end, version.major);
    if (major.ec != std::errc() || major.ptr == end || *major.ptr != '.') return std::nullopt;
    const auto minor = std::from_chars(major.ptr + 1, end, version.minor);
    if (minor.ec != std::errc() || minor.ptr != end) return std::nullopt;
    return version;
  }
};

// The oldest release that a host answers as: the first with device files and page tables that a program
// makes itself.
inline constexpr KernelVersion kOldestKernel{6, 6};
inline constexpr KernelVersion kNewestKernel{7, 3};

// Does this release have the iommufd changes of June 2026: a bound for event queues, and EINVAL for reads
// that are too short? The changes were carried back into the series that were maintained then.
[[nodiscard]] constexpr bool hasFixesOf2026(KernelVersion kernel) {
  return kernel >= KernelVersion{7, 1} || kernel == KernelVersion{6, 12} || kernel == KernelVersion{6, 18};
}

// Did this release exist, and can a host answer as it? 7.0 followed 6.19.
[[nodiscard]] constexpr bool isKnown(KernelVersion kernel) {
  return kernel >= kOldestKernel && kernel <= kNewestKernel && (kernel.major != 6 || kernel.minor <= 19);
}

struct HostOptions {
  KernelVersion kernel = kNewestKernel;
  std::optional<std::string> topology;  // JSON text; without it, the default machine
  // Time is the program's (Controls::advance): no device works by itself.
  bool deterministic = false;
  // Of the order in which devices work at the same time, and of the probabilities of faults. 0: devices work
  // in the order in which their work was posted.
  uint64_t seed = 0;
  // Enables the kernel's test-only command and its mock devices, for the kernel's self-test.
  bool selftest = false;
};

}  // namespace vfio::soft
