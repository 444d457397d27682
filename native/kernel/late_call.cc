#include "late_call.h"

#include <dlfcn.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <climits>
#include <csignal>
#include <cstddef>
#include <cstring>
#include <list>
#include <mutex>
#include <utility>

#include "../base/sanitizers.h"

#ifndef SYS_close_range
#define SYS_close_range 436
#endif

// For functions that run in the new process: the code that sanitizers add needs memory that the new process
// unmaps.
#define VFIO_BARE __attribute__((noinline, no_sanitize("address", "thread", "undefined")))
#define VFIO_KEEPS_MEMORY (VFIO_ASAN || VFIO_TSAN)

namespace vfio {
namespace {

// The input of the new process. It is on the stack of the thread that starts the process, and that stack is
// copied.
struct Job {
  char path[PATH_MAX];
  char text[256];
  size_t size;
  bool writes;  // true: it writes the text; false: it reads
  int pipe;
  uintptr_t thread;  // an address inside the C library's data for this thread
};

// The message that comes through the pipe.
struct Answer {
  int64_t result;
  char text[4096];  // text of an attribute, which is one page at most
};

// From here to child(): code of the new process. It is a copy of one thread of many, so locks may stay held
// for ever, and it unmaps its own memory. So it makes only system calls. For them it uses functions of the C
// library (syscall, and the one behind errno) that start() has already bound by calling them.

VFIO_BARE void closeFrom(unsigned first) {
  if (::syscall(SYS_close_range, first, ~0U, 0) == 0) return;  // Linux 5.9
  rlimit limit{};
  ::syscall(SYS_prlimit64, 0, RLIMIT_NOFILE, nullptr, &limit);
  for (rlim_t fd = first; fd < limit.rlim_cur; ++fd) ::syscall(SYS_close, fd);
}

// A line of /proc/self/maps as it is read: "start-end rw-p offset device inode   path".
struct Line {
  uintptr_t bounds[2];
  unsigned field;  // 0 start, 1 end, 2 permissions, 3 to 5 others, 6 path
  bool isPrivate;
  bool inField;
  char path[6];  // the beginning of the path
  unsigned length;
};

VFIO_BARE bool beginsWith(const Line& line, const char* text) {
  unsigned at = 0;
  for (; text[at] != '\0'; ++at)
    if (at >= line.length || line.path[at] != text[at]) return false;
  return true;
}

VFIO_BARE bool has(const Line& line, uintptr_t address) {
  return line.bounds[0] <= address && address < line.bounds[1];
}

// True: the new process unmaps this mapping. A mapping of a device would keep the device in use, and other
// memory of the parent would be held without any use. The program and its libraries stay, because they are
// running; so do the stack and the thread's own memory.
VFIO_BARE bool goes(const Line& line, const Job& job) {
  if (beginsWith(line, "/dev/") || beginsWith(line, "anon_i")) return true;
  if (VFIO_KEEPS_MEMORY != 0) return false;
  if (has(line, reinterpret_cast<uintptr_t>(&job)) || has(line, job.thread)) return false;
  return !(line.isPrivate && beginsWith(line, "/"));
}

VFIO_BARE void take(Line& line, char character) {
  if (line.field < 2) {
    if (character == '-' || character == ' ') {
      ++line.field;
      return;
    }
    const int digit = character <= '9' ? character - '0' : character - 'a' + 10;
    line.bounds[line.field] = line.bounds[line.field] << 4 | static_cast<uintptr_t>(digit);
  } else if (line.field < 6) {
    if (character == 'p' && line.field == 2) line.isPrivate = true;
    if (character != ' ') {
      line.inField = true;
    } else if (line.inField) {
      line.inField = false;
      ++line.field;
    }
  } else if (line.length < sizeof line.path && (character != ' ' || line.length > 0)) {
    line.path[line.length++] = character;
  }
}

VFIO_BARE void dropMemory(const Job& job) {
  const long maps = ::syscall(SYS_openat, AT_FDCWD, "/proc/self/maps", O_RDONLY);
  char piece[1024];
  Line line;
  line = {};
  for (;;) {
    const long size = ::syscall(SYS_read, maps, piece, sizeof piece);
    if (size <= 0) break;
    for (long i = 0; i < size; ++i) {
      if (piece[i] != '\n') {
        take(line, piece[i]);
        continue;
      }
      if (goes(line, job)) ::syscall(SYS_munmap, line.bounds[0], line.bounds[1] - line.bounds[0]);
      line.bounds[0] = line.bounds[1] = 0;
      line.field = line.length = 0;
      line.isPrivate = line.inField = false;
    }
  }
  ::syscall(SYS_close, maps);
}

[[noreturn]] VFIO_BARE void child(const Job& job) {
  ::syscall(SYS_prctl, PR_SET_NAME, "vfio-change", 0, 0, 0);
  ::syscall(SYS_setsid);
  ::syscall(SYS_chdir, "/");
  if (job.pipe != 0) ::syscall(SYS_dup3, job.pipe, 0, 0);
  closeFrom(1);
  dropMemory(job);
  Answer answer;
  const long fd = ::syscall(SYS_openat, AT_FDCWD, job.path, job.writes ? O_WRONLY : O_RDONLY);
  answer.result = fd < 0       ? fd
                  : job.writes ? ::syscall(SYS_write, fd, job.text, job.size)
                               : ::syscall(SYS_read, fd, answer.text, sizeof answer.text);
  const size_t more = job.writes || answer.result < 0 ? 0 : static_cast<size_t>(answer.result);
  if (answer.result < 0) answer.result = -errno;
  ::syscall(SYS_write, 0, &answer, offsetof(Answer, text) + more);
  for (;;) ::syscall(SYS_exit_group, 0);
}

// Like fork, but without fork handlers (pthread_atfork), and without a SIGCHLD when the process ends.
VFIO_BARE long launch(const Job& job) {
  const long process = ::syscall(SYS_clone, 0, nullptr, nullptr, nullptr, nullptr);
  if (process == 0) child(job);
  return process;
}

// Processes that are still running after their objects were destroyed.
std::mutex lock;
std::list<pid_t>& left() {
  static std::list<pid_t> processes;
  return processes;
}

void reap() {
  const std::lock_guard hold(lock);
  left().remove_if([](pid_t process) { return ::waitpid(process, nullptr, WNOHANG | __WALL) != 0; });
}

void closeOnce(int& fd) {
  if (fd >= 0) ::close(std::exchange(fd, -1));
}

}  // namespace

bool callsMayWait() {
  static const bool real = [] {
    Dl_info from{};
    const void* const open = ::dlsym(RTLD_DEFAULT, "open");
    return open == nullptr || ::dladdr(open, &from) == 0 || from.dli_fname == nullptr ||
           std::strstr(from.dli_fname, "vfio-soft-preload") == nullptr;
  }();
  return real;
}

int LateCall::make(std::unique_ptr<LateCall>& out) {
  std::unique_ptr<LateCall> made(new LateCall);
  if (::pipe2(made->ends_, O_CLOEXEC) != 0) return -errno;
  out = std::move(made);
  return 0;
}

int LateCall::write(const std::string& path, const std::string& text) { return start(path, &text); }

int LateCall::read(const std::string& path) { return start(path, nullptr); }

int LateCall::start(const std::string& path, const std::string* text) {
  Job job;
  job.writes = text != nullptr;
  reads_ = !job.writes;
  job.size = text ? text->size() : 0;
  if (path.size() >= sizeof job.path) return -ENAMETOOLONG;
  if (job.size > sizeof job.text) return -E2BIG;
  std::memcpy(job.path, path.c_str(), path.size() + 1);
  if (text) std::memcpy(job.text, text->data(), text->size());
  job.thread = static_cast<uintptr_t>(pthread_self());
  job.pipe = ends_[1];
  reap();
  // The new process keeps the signals blocked: no blockable signal ends it, and no handler of this process
  // runs in it.
  sigset_t all, before;
  sigfillset(&all);
  pthread_sigmask(SIG_SETMASK, &all, &before);
  errno = 0;
  const long process = launch(job);
  const int failed = process < 0 ? -errno : 0;
  pthread_sigmask(SIG_SETMASK, &before, nullptr);
  closeOnce(ends_[1]);
  if (failed == 0) process_.front() = static_cast<pid_t>(process);
  return failed;
}

void LateCall::over(int64_t result) {
  // A new pipe has room. If the write failed, the reader would treat it like a killed process.
  (void)!::write(ends_[1], &result, sizeof result);
  closeOnce(ends_[1]);
}

LateCall::~LateCall() {
  closeOnce(ends_[0]);
  closeOnce(ends_[1]);
  if (process_.front() == 0) return;
  {
    const std::lock_guard hold(lock);
    left().splice(left().end(), process_);
  }
  reap();
}

bool LateCall::wait(int milliseconds) const {
  pollfd pipe{ends_[0], POLLIN, 0};
  int ready;
  while ((ready = ::poll(&pipe, 1, milliseconds)) < 0 && errno == EINTR) {
  }
  return ready > 0;
}

std::string LateCall::text() {
  std::string text;
  char piece[4096];
  for (ssize_t got; (got = ::read(ends_[0], piece, sizeof piece)) > 0;)
    text.append(piece, static_cast<size_t>(got));
  end();
  return text;
}

int64_t LateCall::result() {
  int64_t result = -EIO;
  if (::read(ends_[0], &result, sizeof result) != sizeof result) result = -EIO;
  if (result < 0 || !reads_) end();
  return result;
}

// The process has sent its result and has only to end.
void LateCall::end() {
  if (process_.front() != 0) ::waitpid(process_.front(), nullptr, __WALL);
  process_.front() = 0;
}

}  // namespace vfio
