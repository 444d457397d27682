// Whose a descriptor is: a table by number, so that a call on a descriptor of the program's costs one load.
//
// Life: static; entries follow open, dup and close, wherever they happen (wrapped.cc sees those of the
// software host itself).
#pragma once

#include <array>
#include <atomic>
#include <cstddef>
#include <cstdint>

struct stat;

namespace vfio::preload {

enum class Owner : uint8_t {
  program,   // the kernel's business
  host,      // leads to a file of the software host
  internal,  // one that the software host needs for itself: the program can neither use nor close it
};

class Descriptors {
 public:
  // As many as a process can have, unless the system was told otherwise (fs.nr_open). Where there are more,
  // files of the host get no number behind these: EMFILE.
  static constexpr size_t most = size_t{1} << 20;

  [[nodiscard]] Owner owner(int fd) const {
    const auto index = static_cast<size_t>(fd);
    return fd < 0 || index >= most ? Owner::program : owners_[index].load(std::memory_order_relaxed);
  }
  void set(int fd, Owner owner) {
    const auto index = static_cast<size_t>(fd);
    if (fd >= 0 && index < most) owners_[index].store(owner, std::memory_order_relaxed);
  }

 private:
  std::array<std::atomic<Owner>, most> owners_{};
};

extern constinit Descriptors descriptors;

// Does it lead to a file of this process's software host? (Not in a child of vfork: it has the parent's
// memory, but its descriptors are its own.)
[[nodiscard]] bool isHosts(int fd);

}  // namespace vfio::preload
