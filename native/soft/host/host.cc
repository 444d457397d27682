// System calls arrive here. Each finds its file, takes the lock and calls the file. The files decide what a
// call means.
#include "host.h"

#include <fcntl.h>
#include <linux/capability.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <climits>
#include <utility>

#include "../../base/lack.h"
#include "../../base/reserve.h"
#include "../core/capable.h"
#include "../core/engine.h"
#include "../iommu/endpoint.h"
#include "../machine/machine.h"
#include "../mm/memory.h"
#include "../topology/catalogue.h"
#include "host_lock.h"

namespace vfio::soft {

namespace {

constexpr size_t pageSize = 4096;
constexpr size_t maxTransfer = 0x7ffff000;  // the most bytes that one read or write moves, on any Linux

// Copies a path from a program as the kernel does. Returns 0, -EFAULT or -ENAMETOOLONG.
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

}  // namespace

Host::Host(std::shared_ptr<mm::Memory> memory, HostOptions options,
           std::shared_ptr<const topology::Catalogue> models)
    : options_(std::move(options)),
      memory_(std::move(memory)),
      traps_(*memory_),
      engine_(std::make_unique<Engine>(
          mutex_,
          [this](const char* trouble) {
            reportFault({"", 0, 0, false, trouble});
          },
          options_.deterministic ? std::optional(options_.seed) : std::nullopt)) {
  if (!Reserve::fill()) throw std::bad_alloc();
  // The built-in models belong to nobody who could destroy them.
  if (!models) models = {std::shared_ptr<void>(), &topology::builtinModels()};
  const std::lock_guard hold(mutex_);  // from here on a model may have threads of its own
  machine_ = std::make_unique<machine::Machine>(*this, tree_, std::move(models));
}

Host::~Host() {
  // First the thread is stopped, then the files are closed (closing a device touches the machine), then the
  // machine is destroyed.
  engine_->stop();
  const Inside hold(*this, Refusable::no);
  descriptors_.clear();
  traps_.clear();
  finish();
  machine_.reset();
}

// ---------------------------------------------------------------- descriptors

std::shared_ptr<File> Host::file(int fd) {
  const auto* found = descriptors_.known(fd);
  return found ? found->file : nullptr;
}

int Host::install(std::shared_ptr<File> file, FdKind kind, int flags) {
  return descriptors_.install(std::move(file), kind, flags);
}

void Host::uninstall(int fd) { descriptors_.uninstall(fd); }

// Handles files that were closed behind our back, and the work that their closing leaves.
void Host::reap() {
  descriptors_.reap();
  finish();
}

void Host::setReadable(const File& file, bool readable) { descriptors_.setReadable(file, readable); }

// ---------------------------------------------------------------- fork

void Host::beforeFork() { mutex_.lock(); }

void Host::afterFork(bool inChild) {
  if (inChild) {
    engine_->afterFork();
    descriptors_.separate();
    sva_.afterFork();
  }
  mutex_.unlock();
}

bool Host::owns(int fd) {
  const Inside hold(*this, Refusable::no);
  return descriptors_.find(fd) != nullptr;
}

int Host::open(const char* path, int flags) try {
  std::string copy;
  if (const int failed = copyPath(path, copy)) return failed;
  const Inside hold(*this);
  engine_->drain();
  reap();
  std::shared_ptr<File> opened;
  if (const int failed = tree_.open(copy, flags, opened)) return failed;
  const File& file = *opened;
  const int fd = install(std::move(opened), FdKind::plain, flags);
  if (fd >= 0) files::Descriptors::setPath(file, std::move(copy));
  return fd;
} catch (...) {
  return lack();
}

int Host::close(int fd) {
  const Inside hold(*this, Refusable::no);
  try {
    engine_->drain();
  } catch (...) {
    (void)lack();  // the next call tries again
  }
  const auto* found = descriptors_.find(fd);
  if (!found) return -EBADF;
  const int failed = ::close(fd) == 0 ? 0 : -errno;
  descriptors_.forget(fd);
  if (found->closed()) reap();
  return failed;
}

int Host::dup(int fd) try {
  const Inside hold(*this);
  if (!descriptors_.find(fd)) return -EBADF;
  const int copy = fcntl(fd, F_DUPFD_CLOEXEC, 0);
  return copy < 0 ? -errno : copy;
} catch (...) {
  return lack();
}

int Host::ioctl(int fd, unsigned long request, uintptr_t argument) try {
  const Inside hold(*this);
  engine_->drain();
  const auto target = file(fd);
  // The kernel's ioctl takes the low 32 bits of the request.
  return target ? target->ioctl(static_cast<uint32_t>(request), argument) : -EBADF;
} catch (...) {
  return lack();
}

// Makes the checks that no file has to make itself, in the kernel's order; then calls the file.
int64_t Host::transfer(int fd, bool write, const void* buffer, size_t size,
                       std::optional<uint64_t> offset) try {
  if (offset && *offset > INT64_MAX) return -EINVAL;
  const Inside hold(*this);
  engine_->drain();
  const auto* found = descriptors_.known(fd);
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
  const auto* found = descriptors_.find(fd);
  return found ? found->file->kind() : FileKind::unknown;
}

std::string Host::nameOf(int fd) {
  const std::lock_guard hold(mutex_);
  const auto* found = descriptors_.find(fd);
  return found ? found->path : "";
}

std::optional<bool> Host::same(int one, int other) {
  const std::lock_guard hold(mutex_);
  const auto* first = descriptors_.find(one);
  const auto* second = descriptors_.find(other);
  if (!first && !second) return std::nullopt;  // neither descriptor is the host's, so it can't tell
  return first == second;
}

int64_t Host::readlink(const char* path, char* buffer, size_t size) try {
  if (size == 0 || size > INT_MAX) return -EINVAL;
  std::string copy;
  if (const int failed = copyPath(path, copy)) return failed;
  const Inside hold(*this);
  std::string target;
  if (const int failed = tree_.readlink(copy, target)) return failed;
  const size_t length = std::min(size, target.size());
  if (mm::Memory::copyOut(reinterpret_cast<uint64_t>(buffer), target.data(), length) != 0) return -EFAULT;
  return static_cast<int64_t>(length);
} catch (...) {
  return lack();
}

int Host::status(const char* path, bool follow, files::Status& out) try {
  std::string copy;
  if (const int failed = copyPath(path, copy)) return failed;
  const Inside hold(*this);
  return tree_.status(copy, follow, out);
} catch (...) {
  return lack();
}

int64_t Host::lseek(int fd, int64_t offset, int whence) try {
  const Inside hold(*this, Refusable::no);
  const auto* found = descriptors_.known(fd);
  return found ? found->file->seek(offset, whence) : -EBADF;
} catch (...) {
  return lack();
}

int Host::list(const char* path, std::vector<std::string>& names) try {
  std::string copy;
  if (const int failed = copyPath(path, copy)) return failed;
  const Inside hold(*this);
  return tree_.list(copy, names);
} catch (...) {
  return lack();
}

int64_t Host::readText(const char* path, std::string& text) try {
  const Inside hold(*this);
  engine_->drain();
  const int failed = tree_.readText(path, text);
  return failed ? failed : static_cast<int64_t>(text.size());
} catch (...) {
  return lack();
}

int Host::ownership(const char* path, Ownership& out) try {
  const Inside hold(*this);
  return tree_.ownership(path, out);
} catch (...) {
  return lack();
}

int Host::own(const char* path, uint32_t uid, uint32_t mode) try {
  const Inside hold(*this);
  return tree_.own(path, uid, mode);
} catch (...) {
  return lack();
}

uint32_t Host::user() const {
  const std::lock_guard hold(mutex_);
  return tree_.user;
}

bool Host::mayDoRawIo() const { return tree_.user == 0 && capable(CAP_SYS_RAWIO); }

void Host::become(uint32_t uid) {
  const Inside hold(*this, Refusable::no);
  tree_.user = uid;
  tree_.permissions = true;
}

// A host lives in one process: only this process can have a file of it open.
int Host::openers(const char* path, std::vector<int>& pids) try {
  const Inside hold(*this);
  reap();
  if (descriptors_.isOpen(path)) pids.push_back(getpid());
  return 0;
} catch (...) {
  return lack();
}

int Host::descriptors(const char* path, std::vector<int>& fds) {
  const Inside hold(*this, Refusable::no);
  reap();
  return descriptors_.list(path, fds);
}

std::string Host::release() const { return options_.kernel.text(); }

uint64_t Host::pinned() const { return memory_->charges.pinnedPages() * mm::pageSize(); }

// ---------------------------------------------------------------- memory

int64_t Host::mmap(void* hint, size_t length, int protection, int flags, int fd, uint64_t offset) try {
  // A program that closes a file may map anonymous memory over the file's mapping to release it, so that
  // call is never refused.
  const bool replaces = (flags & (MAP_ANONYMOUS | MAP_FIXED)) == (MAP_ANONYMOUS | MAP_FIXED);
  const Inside hold(*this, replaces ? Refusable::no : Refusable::yes);
  engine_->drain();
  const files::Description* found = (flags & MAP_ANONYMOUS) == 0 ? descriptors_.find(fd) : nullptr;
  int64_t result;
  if (found) {
    // These checks come in the order of the kernel's mmap, before the file is called.
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
      traps_.drop(static_cast<uintptr_t>(result), length);
    }
  }
  return result;
} catch (...) {
  return lack();
}

int Host::munmap(void* address, size_t length) try {
  const Inside hold(*this, Refusable::no);
  const auto start = reinterpret_cast<uintptr_t>(address);
  if (start % pageSize != 0 || length == 0) return -EINVAL;
  const size_t whole = (length + pageSize - 1) / pageSize * pageSize;
  const int failed = memory_->unmap(start, whole);
  if (failed == 0) traps_.drop(start, whole);
  return failed;
} catch (...) {
  return lack();
}

int64_t Host::mapTrap(void* hint, int flags, Trap trap) {
  return traps_.mapTrap(hint, flags, std::move(trap));
}

int64_t Host::mapFile(void* hint, int protection, int flags, int fd, uint64_t offset, Trap trap) {
  return traps_.mapFile(hint, protection, flags, fd, offset, std::move(trap));
}

bool Host::trapped(const void* mapping) const {
  const std::lock_guard hold(mutex_);
  const auto trap = traps_.find(mapping, 1).trap;
  return trap && trap->read;
}

int Host::registerRead(const void* address, unsigned width, uint64_t& value) try {
  const Inside hold(*this, Refusable::no);
  engine_->drain();
  const auto [trap, offset] = traps_.find(address, width);
  if (!trap || !trap->read) return -EIO;
  if (!trap->answers()) return -EIO;
  value = trap->read(offset, width);
  return 0;
} catch (...) {
  return lack();
}

int Host::registerWrite(void* address, unsigned width, uint64_t value) try {
  const Inside hold(*this, Refusable::no);
  engine_->drain();
  const auto [trap, offset] = traps_.find(address, width);
  if (!trap || !trap->write) return -EIO;
  if (!trap->answers()) return -EIO;
  trap->write(offset, width, value);
  return 0;
} catch (...) {
  return lack();
}

}  // namespace vfio::soft
