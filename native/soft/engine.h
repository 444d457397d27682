// Where devices do their work: one thread with a queue of jobs ordered by due time, and a set of eventfds
// whose signals are work too (an INTx unmask eventfd, an ioeventfd). Started at the first of either. Work
// runs with the host's lock held, so it sees the machine as a system call does. Jobs of a device are
// cancelled when the device is reset or removed.
#pragma once

#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <functional>
#include <map>
#include <mutex>
#include <thread>

namespace vfio::soft {

class Engine {
 public:
  explicit Engine(std::mutex& hostLock);
  ~Engine();  // the host's lock is not held; jobs that have not begun are dropped
  Engine(const Engine&) = delete;
  Engine& operator=(const Engine&) = delete;

  // With the host's lock held:
  void post(const void* owner, std::chrono::nanoseconds delay, std::function<void()> job);
  void cancel(const void* owner);

  // Calls `handler` each time that `fd`, an eventfd, has been signalled; the count is taken from it first, as
  // the kernel's listeners do. The descriptor stays the caller's and must outlive the watch.
  [[nodiscard]] uint64_t watch(int fd, std::function<void()> handler);
  void unwatch(uint64_t id);
  // Handles what has been signalled so far. The kernel reacts inside the write to the eventfd; called at the
  // start of every system call, this makes the next call see the same.
  void drain() {
    if (restart_) {
      restart_ = false;
      start();
    }
    if (!watches_.empty()) handleSignals();
  }

  // In the child of a fork, whose only thread this is: the engine's starts again with the next call.
  void afterFork();

  // Without it: returns once no job is waiting or running.
  void settle();

 private:
  using Clock = std::chrono::steady_clock;
  struct Job {
    const void* owner;
    std::function<void()> run;
  };
  struct Watch {
    int fd;
    std::function<void()> handler;
  };
  void start();
  void run();
  void sleep(std::unique_lock<std::mutex>& hold);
  void wake();
  void handleSignals();

  std::mutex& lock_;
  std::condition_variable idle_;
  std::multimap<Clock::time_point, Job> jobs_;
  std::map<uint64_t, Watch> watches_;
  uint64_t nextWatch_ = 1;
  int wakeFd_ = -1;
  bool restart_ = false;
  bool asleep_ = false;
  bool stopping_ = false;
  std::thread thread_;
};

}  // namespace vfio::soft
