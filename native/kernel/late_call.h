// A read or write of a sysfs file that may wait for ever: a write to `unbind` waits until nobody has the
// device open, and meanwhile every call that needs the device's lock waits too. A thread that waits there
// cannot be killed. It prevents its process from ending, and with it the release of descriptors and memory,
// and so of the device itself. So a separate process makes the call. It shares only a pipe for the result
// with this process, and continues when this process ends.
//
// Life: from its start until the object is destroyed. The process lives until the kernel has finished the
// call, even if the object is destroyed before. This object or a later one waits for it (waitpid).
#pragma once

#include <sys/types.h>

#include <cstdint>
#include <list>
#include <memory>
#include <string>

namespace vfio {

class LateCall {
 public:
  // Creates the object with the pipe for the result: 0, or -errno.
  [[nodiscard]] static int make(std::unique_ptr<LateCall>& out);
  ~LateCall();
  LateCall(const LateCall&) = delete;
  LateCall& operator=(const LateCall&) = delete;

  // Starts its only call: 0, or -errno if the process cannot be created. Fast, except for copying the page
  // tables.
  [[nodiscard]] int write(const std::string& path, const std::string& text);
  [[nodiscard]] int read(const std::string& path);
  // Ends the call with this result, without a process. For hosts whose writes never wait.
  void over(int64_t result);

  [[nodiscard]] int fd() const { return ends_[0]; }  // readable when the call has ended
  [[nodiscard]] bool wait(int milliseconds) const;   // has it ended by then?
  // Only after the call has ended: the value that the call returned, or -errno. -EIO: the process was killed,
  // so the result is unknown.
  [[nodiscard]] int64_t result();
  [[nodiscard]] std::string text();  // the text that was read; call after result()

 private:
  LateCall() = default;
  [[nodiscard]] int start(const std::string& path, const std::string* text);
  void end();

  int ends_[2] = {-1, -1};  // read end, and, until the start, write end
  bool reads_ = false;
  // The process. It is in a list, so that ending allocates no memory. 0: there is none, or it was waited for.
  std::list<pid_t> process_{0};
};

// Can calls wait at all? Not if native/preload replaces the C library's calls: then a software host in this
// process answers them.
[[nodiscard]] bool callsMayWait();

}  // namespace vfio
