// A reference to somebody's eventfd: our own duplicate, so that its owner may close it at any time.
#pragma once

#include <memory>

namespace vfio::soft::cdev {

class EventFd {
 public:
  // 0, -EBADF (not open), -EINVAL (not an eventfd) or -EMFILE.
  [[nodiscard]] static int get(int fd, std::shared_ptr<EventFd>& out);
  EventFd() = default;
  ~EventFd();
  EventFd(const EventFd&) = delete;
  EventFd& operator=(const EventFd&) = delete;

  void signal() const;  // adds one; a full counter stays full, it never blocks
  [[nodiscard]] int fd() const { return fd_; }

 private:
  int fd_ = -1;
};

}  // namespace vfio::soft::cdev
