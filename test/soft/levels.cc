// Which commands a host has, by the release that it answers as, and how large their structs are there.
#include <utility>

#include "iommufd_harness.h"

namespace vfio::soft::check {
namespace {

// The highest number of a command that this release has. Given a wild pointer, a command that it has fails
// with EFAULT; any other with ENOTTY.
unsigned lastKnown(Host& host) {
  Fd fd(host);
  unsigned last = 0;
  for (unsigned nr = 0x80; nr < 0x100; ++nr) {
    if (fd.file->ioctl(0x3b00 | nr, 8) == -EFAULT) last = nr;
  }
  return last;
}

void commands(const std::shared_ptr<mm::Memory>& memory) {
  const std::pair<KernelVersion, unsigned> kLast[] = {
      {{6, 6}, 0x8a},  {{6, 7}, 0x8c},  {{6, 8}, 0x8d},  {{6, 10}, 0x8d}, {{6, 11}, 0x8e}, {{6, 12}, 0x8e},
      {{6, 13}, 0x92}, {{6, 14}, 0x92}, {{6, 15}, 0x93}, {{6, 17}, 0x94}, {{7, 2}, 0x94},  {{7, 3}, 0x95}};
  for (const auto& [kernel, last] : kLast) {
    const std::string name = std::to_string(kernel.major) + "." + std::to_string(kernel.minor);
    Host host(memory, {.kernel = kernel});
    claim("the last command of " + name, last, lastKnown(host));
    Fd fd(host);
    uint64_t words[16] = {sizeof(words)};
    const auto pointer = reinterpret_cast<uint64_t>(words);
    claim("... and the number behind it is ENOTTY", -ENOTTY, fd.file->ioctl(0x3b00 | (last + 1), pointer));
    claim("... as is the test-only command", -ENOTTY, fd.file->ioctl(0x3ba0, pointer));
  }
  Host host(memory, {.kernel = {6, 12}, .selftest = true});
  claim("a kernel with its tests has a table up to 0xa0", 0xa0, lastKnown(host));
  Fd fd(host);
  uint64_t words[16] = {sizeof(words)};
  const auto pointer = reinterpret_cast<uint64_t>(words);
  claim("... with holes that take no request", -ENOTTY, fd.file->ioctl(0x3b8f, pointer));
  claim("... and none behind it", -ENOTTY, fd.file->ioctl(0x3ba1, 8));
  words[0] = 64;
  claim("... and whose struct has a smallest size", -EINVAL, fd.file->ioctl(0x3ba0, pointer));
}

void sizes(const std::shared_ptr<mm::Memory>& memory) {
  // No such device: ENOENT, unless the struct is refused before.
  struct {
    uint32_t size, flags, dev, pt, out, reserved, type, length;
    uint64_t data;
    uint32_t fault, reserved2;
  } hwpt = {48, 0, 99, 98, 0, 0, 0, 0, 0, 0, 0};
  for (const auto& [kernel, known] :
       {std::pair<KernelVersion, uint32_t>{{6, 6}, 24}, {{6, 7}, 40}, {{6, 11}, 48}}) {
    Host host(memory, {.kernel = kernel});
    Fd fd(host);
    const std::string name = "6." + std::to_string(kernel.minor);
    claim("HWPT_ALLOC of " + name + " takes a longer struct of zeroes", -ENOENT,
          fd.call(uapi::IOMMU_HWPT_ALLOC, hwpt));
    for (uint32_t at = 24; at < 48; at += 4) {
      auto wrong = hwpt;
      reinterpret_cast<uint32_t*>(&wrong)[at / 4] = 1;
      const bool tooBig = fd.call(uapi::IOMMU_HWPT_ALLOC, wrong) == -E2BIG;
      claim("... and something at " + std::to_string(at) + " is E2BIG exactly if it doesn't know the field",
            tooBig == (at >= known));
    }
    hwpt.size = 20;
    claim("... and less than its first form is EINVAL", -EINVAL, fd.call(uapi::IOMMU_HWPT_ALLOC, hwpt));
    hwpt.size = 48;
  }
}

}  // namespace
}  // namespace vfio::soft::check

int main() {
  const auto memory = std::make_shared<vfio::soft::mm::Memory>();
  vfio::soft::check::commands(memory);
  vfio::soft::check::sizes(memory);
  return vfio::soft::check::failures == 0 ? 0 : 1;
}
