// See eventfd.h.
#include "eventfd.h"

#include <fcntl.h>
#include <poll.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <cstdint>
#include <cstdio>
#include <string_view>

namespace vfio::soft::cdev {

int EventFd::get(int fd, std::shared_ptr<EventFd>& out) {
  auto held = std::make_shared<EventFd>();
  const int copy = fcntl(fd, F_DUPFD_CLOEXEC, 0);
  if (copy < 0) return -errno;
  held->fd_ = copy;
  std::array<char, 32> link;
  std::snprintf(link.data(), link.size(), "/proc/self/fd/%d", copy);
  std::array<char, 32> kind;
  const auto length = ::readlink(link.data(), kind.data(), kind.size());
  constexpr std::string_view wanted = "anon_inode:[eventfd]";
  if (length < 0 || std::string_view(kind.data(), static_cast<size_t>(length)) != wanted) return -EINVAL;
  out = std::move(held);
  return 0;
}

EventFd::~EventFd() {
  if (fd_ >= 0) ::close(fd_);
}

void EventFd::signal() const {
  // A write to a full counter of a blocking eventfd would wait with the host's lock held.
  pollfd state{fd_, POLLOUT, 0};
  if (poll(&state, 1, 0) != 1 || (state.revents & POLLOUT) == 0) return;
  const uint64_t one = 1;
  if (::write(fd_, &one, sizeof one) < 0) return;  // it became full meanwhile: it is signalled already
}

}  // namespace vfio::soft::cdev
