// A read or write of a file of sysfs that may wait for ever: a write to `unbind` waits until nobody has the
// device open, and what looks at the device's lock meanwhile waits with it. A thread that waits there can't
// be killed, and keeps its process (descriptors and memory, so the device itself too) from ending. So a
// process of its own does the call. It has nothing of this process but a pipe for the result, and goes on
// when this process ends.
//
// Life: from its start until the object goes. The process lives until the kernel has done the call, whatever
// becomes of the object, and is waited for with the object or by a later one.
#pragma once

#include <sys/types.h>

#include <cstdint>
#include <list>
#include <memory>
#include <string>

namespace vfio {

class LateCall {
 public:
  // 0 and the pipe that the result will come through, or -errno.
  [[nodiscard]] static int make(std::unique_ptr<LateCall>& out);
  ~LateCall();
  LateCall(const LateCall&) = delete;
  LateCall& operator=(const LateCall&) = delete;

  // Starts the one call that it is for: 0, or -errno of the process that can't be had. Fast, but for copying
  // the page tables.
  [[nodiscard]] int write(const std::string& path, const std::string& text);
  [[nodiscard]] int read(const std::string& path);
  // Nothing is to be waited for: this is the result. For hosts whose writes never wait.
  void over(int64_t result);

  [[nodiscard]] int fd() const { return ends_[0]; }  // readable once it is over
  [[nodiscard]] bool wait(int milliseconds) const;   // whether it is over by then
  // Once it is over: what the call returned, or -errno. -EIO: the process was killed, the result isn't known.
  [[nodiscard]] int64_t result();
  [[nodiscard]] std::string text();  // what was read, after result()

 private:
  LateCall() = default;
  [[nodiscard]] int start(const std::string& path, const std::string* text);
  void end();

  int ends_[2] = {-1, -1};  // to read from, and, until it is started, to write to
  bool reads_ = false;
  // The process, in a list so that ending takes no memory; 0: none, or it was waited for.
  std::list<pid_t> process_{0};
};

// May calls wait at all? Not if the C library's are those of native/preload: then a software host in this
// process answers them.
[[nodiscard]] bool callsMayWait();

}  // namespace vfio
