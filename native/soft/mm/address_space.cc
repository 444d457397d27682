#include "address_space.h"

#include <fcntl.h>
#include <poll.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <optional>
#include <string>

#include "../../guard/guard.h"
#include "memory.h"

namespace vfio::soft::mm {
namespace {

constexpr int kPopulateRead = 22;  // MADV_POPULATE_READ and MADV_POPULATE_WRITE, Linux 5.14
constexpr int kPopulateWrite = 23;

void* pointer(uint64_t address) { return reinterpret_cast<void*>(address); }
uint64_t pageOf(uint64_t address) { return address & ~(pageSize() - 1); }

// Which pages of a process are present, by /proc/PID/pagemap. Without that file (a container may hide it) all
// pages count as present: the copy itself brings them in then.
class Presence {
 public:
  explicit Presence(const std::string& path) : fd_(::open(path.c_str(), O_RDONLY | O_CLOEXEC)) {}
  ~Presence() {
    if (fd_ >= 0) ::close(fd_);
  }
  Presence(const Presence&) = delete;
  Presence& operator=(const Presence&) = delete;

  // Is the memory there that the file was opened for? A process that has replaced its program (exec) has
  // another memory, and so has one that ended.
  [[nodiscard]] bool isThere() const {
    uint64_t entry;
    return fd_ < 0 || pread(fd_, &entry, sizeof entry, 0) == sizeof entry;
  }

  [[nodiscard]] uint64_t from(uint64_t address, uint64_t limit) const {
    if (fd_ < 0) return limit;
    std::array<uint64_t, 512> entries;
    const uint64_t first = address / pageSize();
    const uint64_t end = address + std::min(limit, UINT64_MAX - address);
    const uint64_t pages = std::min<uint64_t>((end - 1) / pageSize() - first + 1, entries.size());
    const ssize_t got =
        pread(fd_, entries.data(), pages * sizeof entries[0], static_cast<off_t>(first * sizeof entries[0]));
    const uint64_t known = got > 0 ? static_cast<uint64_t>(got) / sizeof entries[0] : 0;
    constexpr uint64_t kPresent = uint64_t{1} << 63;
    uint64_t count = 0;
    while (count < known && (entries[count] & kPresent) != 0) ++count;
    if (count == 0) return 0;
    return std::min(limit, (first + count) * pageSize() - address);
  }

 private:
  const int fd_;
};

struct Area {
  bool exists = false;
  bool readable = false;
  bool writable = false;
  bool executable = false;
};

// The areas of a process, by its `maps`. The open file belongs to the memory that the process had then.
class Areas {
 public:
  explicit Areas(const std::string& path) : maps_(fopen(path.c_str(), "re")) {}
  ~Areas() {
    if (maps_ != nullptr) fclose(maps_);
  }
  Areas(const Areas&) = delete;
  Areas& operator=(const Areas&) = delete;

  // Nothing: they can't be read.
  [[nodiscard]] std::optional<Area> at(uint64_t address) const {
    if (maps_ == nullptr) return std::nullopt;
    Area found;
    rewind(maps_);
    char* line = nullptr;
    size_t size = 0;
    while (getline(&line, &size, maps_) > 0) {
      unsigned long start = 0;
      unsigned long end = 0;
      char rights[5] = {};
      if (sscanf(line, "%lx-%lx %4s", &start, &end, rights) != 3 || address >= end) continue;
      if (address >= start) found = {true, rights[0] == 'r', rights[1] == 'w', rights[2] == 'x'};
      break;
    }
    free(line);
    return found;
  }

 private:
  FILE* const maps_;
};

// ---------------------------------------------------------------- this process

bool canPopulate() {
  static const bool known = [] {
    const int here = 0;
    return madvise(pointer(pageOf(reinterpret_cast<uint64_t>(&here))), pageSize(), kPopulateRead) == 0;
  }();
  return known;
}

class OwnSpace final : public AddressSpace {
 public:
  explicit OwnSpace(Memory& memory)
      : AddressSpace(getpid()), memory_(memory), presence_("/proc/self/pagemap") {}

  [[nodiscard]] uint64_t present(uint64_t address, uint64_t limit) const override {
    const uint64_t there = presence_.from(address, limit);
    // A pinned page that the program has unmapped is still mapped, but not to the program.
    if (there == 0 || !memory_.anyUnmapped(address, there)) return there;
    const uint64_t inPage = std::min(there, pageOf(address) + pageSize() - address);
    return memory_.anyUnmapped(address, inPage) ? 0 : inPage;
  }

  [[nodiscard]] size_t read(void* into, uint64_t address, size_t size) const override {
    return Memory::copyInSome(into, address, size);
  }

  [[nodiscard]] size_t write(uint64_t address, const void* from, size_t size) const override {
    return Memory::copyOutSome(address, from, size);
  }

  [[nodiscard]] FaultIn faultIn(uint64_t address, bool write, bool execute) const override {
    if (memory_.anyUnmapped(address, 1)) return FaultIn::noArea;
    if (execute) {
      // Rare, so the file is not kept open.
      const std::optional<Area> area = Areas("/proc/self/maps").at(address);
      if (area && !area->exists) return FaultIn::noArea;
      if (!area || !area->executable) return FaultIn::notPermitted;
    }
    void* const page = pointer(pageOf(address));
    // Unlike an access by the processor, neither of these grows the stack.
    if (!canPopulate()) {
      unsigned char resident;
      if (mincore(page, pageSize(), &resident) != 0) return FaultIn::noArea;
      const bool there = guard::probe(pageOf(address), 1, pageSize(), write) == 0;
      return there ? FaultIn::done : FaultIn::notPermitted;
    }
    for (;;) {
      if (madvise(page, pageSize(), write ? kPopulateWrite : kPopulateRead) == 0) return FaultIn::done;
      switch (errno) {
        case EINTR:
        case EAGAIN:
          continue;
        case ENOMEM: {
          // No area there, or no memory to be had.
          unsigned char resident;
          return mincore(page, pageSize(), &resident) == 0 ? FaultIn::noMemory : FaultIn::noArea;
        }
        case EINVAL:
          return FaultIn::notPermitted;
        default:
          return FaultIn::noMemory;
      }
    }
  }

 private:
  Memory& memory_;
  const Presence presence_;
};

// ---------------------------------------------------------------- another process

class OtherSpace final : public AddressSpace {
 public:
  OtherSpace(pid_t its, int pidfd)
      : AddressSpace(its),
        pidfd_(pidfd),
        presence_("/proc/" + std::to_string(its) + "/pagemap"),
        areas_("/proc/" + std::to_string(its) + "/maps") {}
  ~OtherSpace() override { ::close(pidfd_); }
  OtherSpace(const OtherSpace&) = delete;
  OtherSpace& operator=(const OtherSpace&) = delete;

  [[nodiscard]] int ending() const override { return pidfd_; }

  // The number of a process is given again once its parent has waited for it. So each access checks first
  // that this process has not ended.
  [[nodiscard]] bool isAlive() const override {
    pollfd ended{pidfd_, POLLIN, 0};
    return poll(&ended, 1, 0) == 0 && presence_.isThere();
  }

  [[nodiscard]] int permitted() const override {
    char byte;
    if (transfer(process_vm_readv, &byte, pageSize(), 1) >= 0 || errno == EFAULT) return 0;
    return -errno;
  }

  [[nodiscard]] uint64_t present(uint64_t address, uint64_t limit) const override {
    return presence_.from(address, limit);
  }

  [[nodiscard]] size_t read(void* into, uint64_t address, size_t size) const override {
    return moved(process_vm_readv, into, address, size);
  }

  [[nodiscard]] size_t write(uint64_t address, const void* from, size_t size) const override {
    return moved(process_vm_writev, const_cast<void*>(from), address, size);
  }

  // Reading one byte brings the page in. Writing it back would make the page writable too, but could undo a
  // write that the other process makes meanwhile. So the device's own write does that.
  [[nodiscard]] FaultIn faultIn(uint64_t address, bool write, bool execute) const override {
    if (!isAlive()) return FaultIn::ended;
    const std::optional<Area> area = areas_.at(address);
    // Where the areas can't be read, the access itself shows what is allowed, but for executing.
    if (!area) return execute ? FaultIn::notPermitted : FaultIn::done;
    if (!area->exists) return FaultIn::noArea;
    if (write ? !area->writable : !area->readable) return FaultIn::notPermitted;
    if (execute && !area->executable) return FaultIn::notPermitted;
    char byte;
    if (!area->readable || transfer(process_vm_readv, &byte, address, 1) == 1) return FaultIn::done;
    return errno == ESRCH ? FaultIn::ended : FaultIn::noMemory;
  }

 private:
  using Call = ssize_t (*)(pid_t, const iovec*, unsigned long, const iovec*, unsigned long, unsigned long);

  ssize_t transfer(Call call, void* here, uint64_t there, size_t size) const {
    const iovec local{here, size};
    const iovec remote{pointer(there), size};
    return call(pid, &local, 1, &remote, 1, 0);
  }

  size_t moved(Call call, void* here, uint64_t there, size_t size) const {
    if (!isAlive()) return 0;
    // The call stops at the first page that can't be accessed.
    const ssize_t got = transfer(call, here, there, size);
    return got > 0 ? static_cast<size_t>(got) : 0;
  }

  const int pidfd_;
  const Presence presence_;
  const Areas areas_;
};

}  // namespace

std::shared_ptr<AddressSpace> AddressSpace::ofSelf(Memory& memory) {
  return std::make_shared<OwnSpace>(memory);
}

int AddressSpace::ofProcess(pid_t pid, std::shared_ptr<AddressSpace>& out) {
  // The descriptor comes first: what is opened by number after it belongs to the same process if that is
  // still alive at the end.
  const int pidfd = static_cast<int>(syscall(SYS_pidfd_open, pid, 0));
  if (pidfd < 0) return errno == EINVAL ? -ESRCH : -errno;
  const auto space = std::make_shared<OtherSpace>(pid, pidfd);
  if (const int refused = space->permitted()) return refused;
  if (!space->isAlive()) return -ESRCH;
  out = space;
  return 0;
}

}  // namespace vfio::soft::mm
