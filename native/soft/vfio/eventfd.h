// A reference to an eventfd of the program. The host owns a duplicate of the descriptor, so the program may
// close its own at any time.
//
// Life: made by `get`; shared by those that signal it or wait for it. The last of them closes the duplicate.
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

  void signal() const;  // adds one; a full counter stays full; never blocks
  [[nodiscard]] int fd() const { return fd_; }

 private:
  int fd_ = -1;
};

}  // namespace vfio::soft::cdev
