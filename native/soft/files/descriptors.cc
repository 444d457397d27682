#include "descriptors.h"

#include <dirent.h>
#include <fcntl.h>
#include <poll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstdlib>
#include <new>

namespace vfio::soft::files {

namespace {

// Fills the descriptor's send buffer, so that poll never reports it as writable: nobody reads from the peer.
void fill(int fd) {
  constexpr int least = 1;
  setsockopt(fd, SOL_SOCKET, SO_SNDBUF, &least, sizeof(least));
  const char byte = 0;
  while (send(fd, &byte, sizeof(byte), MSG_DONTWAIT | MSG_NOSIGNAL) > 0) {
  }
}

// Calls `visit` with each open descriptor of the process until it returns true. If no descriptor is free to
// list them, it is called with every possible number.
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

bool Description::closed() const {
  pollfd state{peer, 0, 0};
  return poll(&state, 1, 0) == 1 && (state.revents & POLLHUP) != 0;
}

Description* Descriptors::find(int fd) {
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
    // Not fatal: the number is looked up again the next time.
  }
  return found->second.get();
}

Description* Descriptors::known(int fd) {
  const auto number = static_cast<size_t>(fd);
  if (fd >= 0 && number < numbers_.size() && numbers_[number]) return numbers_[number];
  return find(fd);
}

int Descriptors::install(std::shared_ptr<File> file, FdKind kind, int flags) {
  // Memory is allocated before the descriptors are made, so that a failure has changed nothing.
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

void Descriptors::uninstall(int fd) {
  ::close(fd);
  reap();
}

void Descriptors::setReadable(const File& file, bool readable) {
  Description* const description = file.description_;
  if (!description || description->readable == readable) return;
  description->readable = readable;
  // This fails if all duplicates are closed; then nobody can poll them.
  char byte = 0;
  if (readable) {
    (void)send(description->peer, &byte, 1, MSG_DONTWAIT | MSG_NOSIGNAL);
  } else {
    (void)recv(number(*description), &byte, 1, MSG_DONTWAIT);
  }
}

int Descriptors::number(Description& description) {
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

void Descriptors::reap() {
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

void Descriptors::separate() {
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

void Descriptors::setPath(const File& file, std::string path) { file.description_->path = std::move(path); }

void Descriptors::forget(int fd) {
  if (static_cast<size_t>(fd) < numbers_.size()) numbers_[static_cast<size_t>(fd)] = nullptr;
}

void Descriptors::clear() {
  for (auto& [inode, description] : descriptions_) {
    const int fd = number(*description);
    if (fd >= 0) ::close(fd);
    ::close(description->peer);
    description->file->description_ = nullptr;
    description->file.reset();
  }
  descriptions_.clear();
}

bool Descriptors::isOpen(std::string_view path) const {
  return std::ranges::any_of(descriptions_, [path](const auto& each) { return each.second->path == path; });
}

int Descriptors::list(std::string_view path, std::vector<int>& fds) const {
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

int Descriptors::leadingTo(const void* object) const {
  int found = -1;
  for (const auto& [inode, description] : descriptions_) {
    if (dynamic_cast<const void*>(description->file.get()) == object) found = number(*description);
  }
  return found;
}

}  // namespace vfio::soft::files
