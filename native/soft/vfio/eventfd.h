// A reference to somebody's eventfd: our own duplicate, so that its owner may close it at any time.
#pragma once

#include <memory>

namespace vfio::soft::cdev {

class EventFd {
 public:
  // 0, -EBADF (not open) or -EINVAL (not an eventfd).
  [[nodiscard]] static int get(int fd, std::shared_ptr<EventFd>& out);
  explicit EventFd(int owned) : fd_(owned) {}
  ~EventFd();
  EventFd(const EventFd&) = delete;
  EventFd& operator=(const EventFd&) = delete;

  void signal() const;  // adds one; a full counter stays full, it never blocks
  [[nodiscard]] int fd() const { return fd_; }

 private:
  const int fd_;
};

}  // namespace vfio::soft::cdev
