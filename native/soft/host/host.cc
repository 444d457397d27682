// System calls arrive here: find the file, hold the lock, call it. What a call means is up to the files.
#include "host.h"

#include <dirent.h>
#include <fcntl.h>
#include <linux/capability.h>
#include <poll.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <climits>
#include <cstdlib>

#include "../core/capable.h"
#include "../core/engine.h"
#include "../core/lack.h"
#include "../core/reserve.h"
#include "../iommu/endpoint.h"
#include "../machine/machine.h"
#include "../mm/memory.h"

namespace vfio::soft {

namespace {

constexpr size_t pageSize = 4096;
constexpr size_t maxTransfer = 0x7ffff000;  // what one read or write moves at most, on any Linux

// A path as the kernel takes it from a program: 0, -EFAULT or -ENAMETOOLONG.
int copyPath(const char* user, std::string& path) {
  auto address = reinterpret_cast<uint64_t>(user);
  while (path.size() < PATH_MAX) {
    std::array<char, pageSize> chunk;
    const size_t size = pageSize - address % pageSize;
    if (mm::Memory::copyIn(chunk.data(), address, size) != 0) return -EFAULT;
    const char* begin = chunk.data();
    const char* end = std::find(begin, begin + size, '\0');
    path.append(begin, end);
    if (end != begin + size) return path.size() < PATH_MAX ? 0 : -ENAMETOOLONG;
    address += size;
  }
  return -ENAMETOOLONG;
}

// From here on poll says that the descriptor can't be written to: nobody reads what fills it.
void fill(int fd) {
  constexpr int least = 1;
  setsockopt(fd, SOL_SOCKET, SO_SNDBUF, &least, sizeof(least));
  const char byte = 0;
  while (send(fd, &byte, sizeof(byte), MSG_DONTWAIT | MSG_NOSIGNAL) > 0) {
  }
}

// In the host, by a call. One that may be refused is, if the reserve is short; the others are not.
enum class Refusable : bool { no, yes };
class Inside {
 public:
  explicit Inside(std::mutex& lock, Refusable refusable = Refusable::yes) : hold_(lock) {
    if (!Reserve::fill() && refusable == Refusable::yes) throw std::bad_alloc();
  }

 private:
  const std::lock_guard<std::mutex> hold_;
  const Reserve::Use use_;
};

// Shows the process's descriptors until `visit` says that it is enough; all numbers there can be where they
// can't be listed, for lack of one.
template <typename Visit>
void eachDescriptor(const Visit& visit) {
  if (DIR* table = opendir("/proc/self/fd")) {
    while (const dirent* entry = ::readdir(table)) {
      const int fd = std::atoi(entry->d_name);
      if (fd > 0 && fd != dirfd(table) && visit(fd)) break;
    }
    closedir(table);
    return;
  }
  rlimit limit{};
  getrlimit(RLIMIT_NOFILE, &limit);
  constexpr rlim_t most = 1 << 20;
  for (int fd = 1; static_cast<rlim_t>(fd) < std::min(limit.rlim_cur, most); ++fd) {
    if (visit(fd)) break;
  }
}

}  // namespace

struct Description {
  std::shared_ptr<File> file;
  Inode inode;
  std::string path;  // that it was opened by; empty: by no path
  int flags;
  int fd;    // the number that it was given first
  int peer;  // our end
  bool readable;

  [[nodiscard]] bool closed() const {
    pollfd state{peer, 0, 0};
    return poll(&state, 1, 0) == 1 && (state.revents & POLLHUP) != 0;
  }
};

Host::Host(std::shared_ptr<mm::Memory> memory, HostOptions options)
    : options_(std::move(options)),
      memory_(std::move(memory)),
      engine_(std::make_unique<Engine>(mutex_, [this](const char* trouble) {
        reportFault({"", 0, 0, false, trouble});
      })) {
  if (!Reserve::fill()) throw std::bad_alloc();
  machine_ = machine::makeMachine(*this);
}

Host::~Host() {
  // First the thread, then the files (closing a device touches the machine), then the machine.
  engine_->stop();
  const Inside hold(mutex_, Refusable::no);
  for (auto& [inode, description] : descriptions_) {
    const int fd = number(*description);
    if (fd >= 0) ::close(fd);
    ::close(description->peer);
    description->file->description_ = nullptr;
    description->file.reset();
  }
  descriptions_.clear();
  for (const auto& [address, part] : traps_) ::munmap(reinterpret_cast<void*>(address), part.length);
  traps_.clear();
  machine_.reset();
}

// ---------------------------------------------------------------- descriptors

Description* Host::description(int fd) {
  const auto number = static_cast<size_t>(fd);
  if (fd >= 0 && number < numbers_.size()) numbers_[number] = nullptr;
  struct stat status {};
  if (fstat(fd, &status) != 0) return nullptr;
  const auto found = descriptions_.find({status.st_dev, status.st_ino});
  if (found == descriptions_.end()) return nullptr;
  try {
    if (numbers_.size() <= number) numbers_.resize(number + 1);
    numbers_[number] = found->second.get();
  } catch (const std::bad_alloc&) {
    // It is looked for again the next time.
  }
  return found->second.get();
}

Description* Host::known(int fd) {
  const auto number = static_cast<size_t>(fd);
  if (fd >= 0 && number < numbers_.size() && numbers_[number]) return numbers_[number];
  return description(fd);
}

std::shared_ptr<File> Host::file(int fd) {
  const auto* found = known(fd);
  return found ? found->file : nullptr;
}

int Host::install(std::shared_ptr<File> file, FdKind kind, int flags) {
  // All that needs memory comes before the descriptors.
  auto added = std::make_unique<Description>(Description{std::move(file), {}, {}, flags, -1, -1, false});
  std::map<Inode, std::unique_ptr<Description>> place;
  place.emplace(Inode{}, nullptr);
  std::array<int, 2> ends{};
  if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends.data()) != 0) return -errno;
  struct stat status {};
  fstat(ends[0], &status);
  if ((flags & O_CLOEXEC) == 0) fcntl(ends[0], F_SETFD, 0);
  added->inode = {status.st_dev, status.st_ino};
  added->fd = ends[0];
  added->peer = ends[1];
  const File& installed = *added->file;
  added->file->description_ = added.get();
  auto node = place.extract(place.begin());
  node.key() = added->inode;
  node.mapped() = std::move(added);
  descriptions_.insert(std::move(node));
  if (kind == FdKind::plain) setReadable(installed, true);
  if (kind == FdKind::readable) fill(ends[0]);
  return ends[0];
}

void Host::uninstall(int fd) {
  ::close(fd);
  reap();
}

void Host::setReadable(const File& file, bool readable) {
  Description* const description = file.description_;
  if (!description || description->readable == readable) return;
  description->readable = readable;
  // This fails if all duplicates are closed: nobody is left to poll.
  char byte = 0;
  if (readable) {
    (void)send(description->peer, &byte, 1, MSG_DONTWAIT | MSG_NOSIGNAL);
  } else {
    (void)recv(number(*description), &byte, 1, MSG_DONTWAIT);
  }
}

// A number that the program has for this description: the first one, or whichever duplicate is left.
int Host::number(Description& description) {
  const auto leadsHere = [&inode = description.inode](int fd) {
    struct stat status {};
    return fstat(fd, &status) == 0 && Inode{status.st_dev, status.st_ino} == inode;
  };
  if (leadsHere(description.fd)) return description.fd;
  int found = -1;
  eachDescriptor([&](int fd) {
    if (!leadsHere(fd)) return false;
    found = description.fd = fd;
    return true;
  });
  return found;
}

// Drops the files whose last descriptor has gone.
void Host::reap() {
  for (auto it = descriptions_.begin(); it != descriptions_.end();) {
    if (!it->second->closed()) {
      ++it;
      continue;
    }
    const auto gone = std::move(it->second);
    it = descriptions_.erase(it);
    gone->file->description_ = nullptr;
    std::replace(numbers_.begin(), numbers_.end(), gone.get(), static_cast<Description*>(nullptr));
    ::close(gone->peer);
  }
}

// ---------------------------------------------------------------- fork

void Host::beforeFork() { mutex_.lock(); }

void Host::afterFork(bool inChild) {
  if (inChild) {
    engine_->afterFork();
    separate();
  }
  mutex_.unlock();
}

// The socket pairs are the parent's too: each description gets a new one, under the same numbers.
void Host::separate() {
  std::multimap<Inode, int> numbers;
  eachDescriptor([&numbers](int fd) {
    struct stat status {};
    if (fstat(fd, &status) == 0) numbers.emplace(Inode{status.st_dev, status.st_ino}, fd);
    return false;
  });
  auto old = std::move(descriptions_);
  descriptions_.clear();
  numbers_.clear();
  for (auto& [inode, description] : old) {
    ::close(description->peer);
    std::array<int, 2> ends{};
    if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends.data()) != 0) {
      description->file->description_ = nullptr;
      continue;
    }
    const auto [first, last] = numbers.equal_range(inode);
    for (auto it = first; it != last; ++it) {
      const int kept = fcntl(it->second, F_GETFD);
      dup3(ends[0], it->second, (kept & FD_CLOEXEC) != 0 ? O_CLOEXEC : 0);
    }
    struct stat status {};
    fstat(ends[0], &status);
    ::close(ends[0]);
    description->inode = {status.st_dev, status.st_ino};
    description->peer = ends[1];
    const File& file = *description->file;
    const bool readable = std::exchange(description->readable, false);
    const Inode now = description->inode;
    descriptions_[now] = std::move(description);
    if (readable) setReadable(file, true);
  }
}

bool Host::owns(int fd) {
  const Inside hold(mutex_, Refusable::no);
  return description(fd) != nullptr;
}

int Host::open(const char* path, int flags) try {
  std::string copy;
  if (const int failed = copyPath(path, copy)) return failed;
  const Inside hold(mutex_);
  engine_->drain();
  reap();
  std::shared_ptr<File> opened;
  if (const int failed = machine_->open(copy, flags, opened)) return failed;
  const File& file = *opened;
  const int fd = install(std::move(opened), FdKind::plain, flags);
  if (fd >= 0) file.description_->path = std::move(copy);
  return fd;
} catch (...) {
  return lack();
}

int Host::close(int fd) {
  const Inside hold(mutex_, Refusable::no);
  try {
    engine_->drain();
  } catch (...) {
    (void)lack();  // the next call does it
  }
  const auto* found = description(fd);
  if (!found) return -EBADF;
  const int failed = ::close(fd) == 0 ? 0 : -errno;
  if (static_cast<size_t>(fd) < numbers_.size()) numbers_[static_cast<size_t>(fd)] = nullptr;
  if (found->closed()) reap();
  return failed;
}

int Host::dup(int fd) try {
  const Inside hold(mutex_);
  if (!description(fd)) return -EBADF;
  const int copy = fcntl(fd, F_DUPFD_CLOEXEC, 0);
  return copy < 0 ? -errno : copy;
} catch (...) {
  return lack();
}

int Host::ioctl(int fd, unsigned long request, uintptr_t argument) try {
  const Inside hold(mutex_);
  engine_->drain();
  const auto target = file(fd);
  // The kernel's ioctl takes the low 32 bits of the request.
  return target ? target->ioctl(static_cast<uint32_t>(request), argument) : -EBADF;
} catch (...) {
  return lack();
}

// What every file is spared, in the kernel's order; then the file.
int64_t Host::transfer(int fd, bool write, const void* buffer, size_t size,
                       std::optional<uint64_t> offset) try {
  if (offset && *offset > INT64_MAX) return -EINVAL;
  const Inside hold(mutex_);
  engine_->drain();
  const auto* found = known(fd);
  if (!found) return -EBADF;
  const auto target = found->file;
  const File::Calls calls = target->calls();
  if (offset && !calls.positions) return -ESPIPE;
  if ((found->flags & O_ACCMODE) == (write ? O_RDONLY : O_WRONLY)) return -EBADF;
  if (!(write ? calls.writes : calls.reads)) return -EINVAL;
  const auto user = reinterpret_cast<UserAddress>(buffer);
  if (!mm::Memory::inUserSpace(user, size)) return -EFAULT;
  if (offset && size > INT64_MAX - *offset) return -EINVAL;
  const size_t most = std::min(size, maxTransfer);
  if (offset) return write ? target->pwrite(user, most, *offset) : target->pread(user, most, *offset);
  return write ? target->write(user, most) : target->read(user, most);
} catch (...) {
  return lack();
}

int64_t Host::read(int fd, void* buffer, size_t size) { return transfer(fd, false, buffer, size, {}); }

int64_t Host::write(int fd, const void* buffer, size_t size) { return transfer(fd, true, buffer, size, {}); }

int64_t Host::pread(int fd, void* buffer, size_t size, uint64_t offset) {
  return transfer(fd, false, buffer, size, offset);
}

int64_t Host::pwrite(int fd, const void* buffer, size_t size, uint64_t offset) {
  return transfer(fd, true, buffer, size, offset);
}

FileKind Host::kindOf(int fd) {
  const std::lock_guard hold(mutex_);
  const auto* found = description(fd);
  return found ? found->file->kind() : FileKind::unknown;
}

std::string Host::nameOf(int fd) {
  const std::lock_guard hold(mutex_);
  const auto* found = description(fd);
  return found ? found->path : "";
}

std::optional<bool> Host::same(int one, int other) {
  const std::lock_guard hold(mutex_);
  const auto* first = description(one);
  const auto* second = description(other);
  if (!first && !second) return std::nullopt;  // neither is ours to tell
  return first == second;
}

int64_t Host::readlink(const char* path, char* buffer, size_t size) try {
  if (size == 0 || size > INT_MAX) return -EINVAL;
  std::string copy;
  if (const int failed = copyPath(path, copy)) return failed;
  const Inside hold(mutex_);
  std::string target;
  if (const int failed = machine_->readlink(copy, target)) return failed;
  const size_t length = std::min(size, target.size());
  if (mm::Memory::copyOut(reinterpret_cast<uint64_t>(buffer), target.data(), length) != 0) return -EFAULT;
  return static_cast<int64_t>(length);
} catch (...) {
  return lack();
}

int Host::status(const char* path, bool follow, files::Status& out) try {
  std::string copy;
  if (const int failed = copyPath(path, copy)) return failed;
  const Inside hold(mutex_);
  return machine_->status(copy, follow, out);
} catch (...) {
  return lack();
}

int64_t Host::lseek(int fd, int64_t offset, int whence) try {
  const Inside hold(mutex_, Refusable::no);
  const auto* found = known(fd);
  return found ? found->file->seek(offset, whence) : -EBADF;
} catch (...) {
  return lack();
}

int Host::list(const char* path, std::vector<std::string>& names) try {
  std::string copy;
  if (const int failed = copyPath(path, copy)) return failed;
  const Inside hold(mutex_);
  return machine_->list(copy, names);
} catch (...) {
  return lack();
}

int64_t Host::readText(const char* path, std::string& text) try {
  const Inside hold(mutex_);
  engine_->drain();
  const int failed = machine_->readText(path, text);
  return failed ? failed : static_cast<int64_t>(text.size());
} catch (...) {
  return lack();
}

int Host::ownership(const char* path, Ownership& out) try {
  const Inside hold(mutex_);
  return machine_->ownership(path, out);
} catch (...) {
  return lack();
}

int Host::own(const char* path, uint32_t uid, uint32_t mode) try {
  const Inside hold(mutex_);
  return machine_->own(path, uid, mode);
} catch (...) {
  return lack();
}

uint32_t Host::user() const {
  const std::lock_guard hold(mutex_);
  return machine_->user();
}

bool Host::mayDoRawIo() const { return machine_->user() == 0 && capable(CAP_SYS_RAWIO); }

void Host::become(uint32_t uid) {
  const Inside hold(mutex_, Refusable::no);
  machine_->become(uid);
}

// A host lives in one process: whoever has it open is this one.
int Host::openers(const char* path, std::vector<int>& pids) try {
  const Inside hold(mutex_);
  reap();
  const auto opened = [path](const auto& each) { return each.second->path == path; };
  if (std::any_of(descriptions_.begin(), descriptions_.end(), opened)) pids.push_back(getpid());
  return 0;
} catch (...) {
  return lack();
}

int Host::descriptors(const char* path, std::vector<int>& fds) {
  const std::lock_guard hold(mutex_);
  reap();
  DIR* table = opendir("/proc/self/fd");
  if (!table) return -errno;
  while (const dirent* entry = ::readdir(table)) {
    struct stat status {};
    const int fd = std::atoi(entry->d_name);
    if (fstat(fd, &status) != 0) continue;
    const auto found = descriptions_.find({status.st_dev, status.st_ino});
    if (found != descriptions_.end() && found->second->path == path) fds.push_back(fd);
  }
  closedir(table);
  return 0;
}

std::string Host::release() const { return options_.kernel.text(); }

uint64_t Host::pinned() const { return memory_->charges.pinnedPages() * mm::pageSize(); }

// ---------------------------------------------------------------- memory

int64_t Host::mmap(void* hint, size_t length, int protection, int flags, int fd, uint64_t offset) try {
  // Memory in the place of a file's is how who closes lets go of it.
  const bool replaces = (flags & (MAP_ANONYMOUS | MAP_FIXED)) == (MAP_ANONYMOUS | MAP_FIXED);
  const Inside hold(mutex_, replaces ? Refusable::no : Refusable::yes);
  engine_->drain();
  Description* found = (flags & MAP_ANONYMOUS) == 0 ? description(fd) : nullptr;
  int64_t result;
  if (found) {
    // The order of checks is that of the kernel's mmap, before the file is asked.
    if (offset % pageSize != 0 || length == 0) return -EINVAL;
    if (length > (uint64_t{1} << 47)) return -ENOMEM;
    const int mode = found->flags & O_ACCMODE;
    const int type = flags & MAP_TYPE;
    if (type != MAP_PRIVATE && type != MAP_SHARED && type != MAP_SHARED_VALIDATE) return -EINVAL;
    if (mode == O_WRONLY) return -EACCES;
    if (type != MAP_PRIVATE && (protection & PROT_WRITE) != 0 && mode != O_RDWR) return -EACCES;
    // A shared mapping through a descriptor that can't write counts as private, as in the kernel.
    if (mode != O_RDWR && type != MAP_PRIVATE) flags = (flags & ~MAP_TYPE) | MAP_PRIVATE;
    const auto target = found->file;
    const size_t whole = (length + pageSize - 1) / pageSize * pageSize;
    result = target->mmap(hint, whole, protection, flags, offset);
  } else {
    void* mapped = ::mmap(hint, length, protection, flags, fd, static_cast<off_t>(offset));
    result = mapped == MAP_FAILED ? -errno : static_cast<int64_t>(reinterpret_cast<intptr_t>(mapped));
    // MAP_FIXED over registers replaces them.
    if (result >= 0) {
      memory_->mapped(static_cast<uint64_t>(result), length, false);
      dropTraps(static_cast<uintptr_t>(result), length);
    }
  }
  return result;
} catch (...) {
  return lack();
}

int Host::munmap(void* address, size_t length) try {
  const Inside hold(mutex_, Refusable::no);
  const auto start = reinterpret_cast<uintptr_t>(address);
  if (start % pageSize != 0 || length == 0) return -EINVAL;
  const size_t whole = (length + pageSize - 1) / pageSize * pageSize;
  const int failed = memory_->unmap(start, whole);
  if (failed == 0) dropTraps(start, whole);
  return failed;
} catch (...) {
  return lack();
}

int64_t Host::mapTrap(void* hint, int flags, Trap trap) {
  const int kept = flags & (MAP_FIXED | MAP_FIXED_NOREPLACE);
  return mapFile(hint, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | kept, -1, 0, std::move(trap));
}

int64_t Host::mapFile(void* hint, int protection, int flags, int fd, uint64_t offset, Trap trap) {
  const size_t length = trap.length;
  void* mapped = ::mmap(hint, length, protection, flags, fd, static_cast<off_t>(offset));
  if (mapped == MAP_FAILED) return -errno;
  const auto address = reinterpret_cast<uintptr_t>(mapped);
  dropTraps(address, length);
  memory_->mapped(address, length, true);
  traps_.emplace(address, TrapPart{length, 0, std::make_shared<Trap>(std::move(trap))});
  return static_cast<int64_t>(address);
}

// Takes [address, address + length) out of the traps, cutting those that it touches.
void Host::dropTraps(uintptr_t address, size_t length) {
  const uintptr_t end = address + length;
  auto it = traps_.upper_bound(address);
  if (it != traps_.begin()) --it;
  while (it != traps_.end() && it->first < end) {
    const auto [start, part] = *it;
    if (start + part.length <= address) {
      ++it;
      continue;
    }
    it = traps_.erase(it);
    if (start < address) traps_.emplace(start, TrapPart{address - start, part.offset, part.trap});
    const uintptr_t last = start + part.length;
    if (last > end) traps_.emplace(end, TrapPart{last - end, part.offset + (end - start), part.trap});
  }
}

std::pair<const Host::TrapPart*, uint64_t> Host::findTrap(const void* address, size_t length) const {
  const auto wanted = reinterpret_cast<uintptr_t>(address);
  auto it = traps_.upper_bound(wanted);
  if (it == traps_.begin()) return {nullptr, 0};
  --it;
  const uint64_t inside = wanted - it->first;
  if (inside >= it->second.length || length > it->second.length - inside) return {nullptr, 0};
  return {&it->second, it->second.offset + inside};
}

bool Host::trapped(const void* mapping) const {
  const std::lock_guard hold(mutex_);
  const auto* part = findTrap(mapping, 1).first;
  return part && part->trap->read;
}

int Host::registerRead(const void* address, unsigned width, uint64_t& value) try {
  const Inside hold(mutex_, Refusable::no);
  engine_->drain();
  const auto [part, offset] = findTrap(address, width);
  if (!part || !part->trap->read) return -EIO;
  const auto trap = part->trap;
  if (!trap->answers()) return -EIO;
  value = trap->read(offset, width);
  return 0;
} catch (...) {
  return lack();
}

int Host::registerWrite(void* address, unsigned width, uint64_t value) try {
  const Inside hold(mutex_, Refusable::no);
  engine_->drain();
  const auto [part, offset] = findTrap(address, width);
  if (!part || !part->trap->write) return -EIO;
  const auto trap = part->trap;
  if (!trap->answers()) return -EIO;
  trap->write(offset, width, value);
  return 0;
} catch (...) {
  return lack();
}

// ---------------------------------------------------------------- controls

std::vector<DmaFault> Host::takeFaults() {
  const Inside hold(mutex_, Refusable::no);
  return std::exchange(faults_, {});
}

void Host::settle() { engine_->settle(); }

void Host::addDevice(const std::string& device) {
  const Inside hold(mutex_);
  machine_->addDevice(device);
}

uint64_t Host::life(const std::string& bdf) {
  const std::lock_guard hold(mutex_);
  return machine_->life(bdf);
}

int Host::removeDevice(const std::string& bdf, uint64_t life) try {
  const Inside hold(mutex_);
  reap();
  return life == machine_->life(bdf) ? machine_->removeDevice(bdf) : -ENODEV;
} catch (...) {
  return lack();
}

int Host::bindDriver(const std::string& bdf, const std::string& driver, bool exclusive) try {
  const Inside hold(mutex_);
  reap();
  return machine_->bindDriver(bdf, driver, exclusive);
} catch (...) {
  return lack();
}

int Host::dmaOwner(int id, DmaOwner& out) try {
  const Inside hold(mutex_);
  reap();
  const iommu::Group* group = machine_->iommuGroup(id);
  if (!group) return -ENODEV;
  out = {};
  if (group->ownerCount != 0) {
    out = {DmaOwner::Kind::user, group->ownerCount, -1};
    for (auto& [inode, description] : descriptions_) {
      if (dynamic_cast<const void*>(description->file.get()) == group->owner) out.fd = number(*description);
    }
  } else if (group->kernelDrivers != 0) {
    out = {DmaOwner::Kind::kernel, group->kernelDrivers, -1};
  }
  return 0;
} catch (...) {
  return lack();
}

void Host::reportFault(DmaFault fault) {
  // A device in a loop must not fill memory: hardware logs overflow too. The oldest are what a test wants.
  constexpr size_t most = 4096;
  try {
    if (faults_.size() < most) faults_.push_back(std::move(fault));
  } catch (const std::bad_alloc&) {
    // As an overflow: what can't be kept is lost, and nothing else.
  }
}

}  // namespace vfio::soft
