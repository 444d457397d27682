// Where devices do their work: one thread with a queue of jobs ordered by due time, and a set of eventfds
// whose signals are work too (an INTx unmask eventfd, an ioeventfd). Started at the first of either. Work
// runs with the host's lock held, so it sees the machine as a system call does. Jobs of a device are
// cancelled when the device is reset or removed.
//
// Where no thread can be had, the work is not lost: the next system calls do what is due, until one of them
// gets a thread, and settle() does all of it.
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
  // `report` is told, with the host's lock held, of work that could not be done as it should.
  Engine(std::mutex& hostLock, std::function<void(const char*)> report);
  ~Engine();
  Engine(const Engine&) = delete;
  Engine& operator=(const Engine&) = delete;

  // For good; the host's lock is not held. Jobs that have not begun are dropped, and no more are taken.
  void stop();

  // With the host's lock held:
  // False: no thread can be had. The job waits for the next calls then.
  [[nodiscard]] bool post(const void* owner, std::chrono::nanoseconds delay, std::function<void()> job);
  void cancel(const void* owner);

  // Calls `handler` each time that `fd`, an eventfd, has been signalled; the count is taken from it first, as
  // the kernel's listeners do. The descriptor stays the caller's and must outlive the watch.
  // Throws std::system_error where no thread can be had.
  [[nodiscard]] uint64_t watch(int fd, std::function<void()> handler);
  void unwatch(uint64_t id);
  // Handles what has been signalled so far. The kernel reacts inside the write to the eventfd; called at the
  // start of every system call, this makes the next call see the same.
  void drain() {
    if (restart_) restart();
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
  void restart();
  void runDue();
  void runFirst();
  void run();
  void sleep(std::unique_lock<std::mutex>& hold);
  void wake();
  void handleSignals();

  std::mutex& lock_;
  const std::function<void(const char*)> report_;
  std::condition_variable idle_;
  std::multimap<Clock::time_point, Job> jobs_;
  std::map<uint64_t, Watch> watches_;
  uint64_t nextWatch_ = 1;
  int wakeFd_ = -1;
  bool restart_ = false;  // there is work, and no thread yet
  bool asleep_ = false;
  bool stopping_ = false;
  unsigned running_ = 0;  // jobs: a remote model's runs without the lock
  std::thread thread_;
};

}  // namespace vfio::soft
