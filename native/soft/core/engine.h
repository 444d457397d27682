// The engine: where devices do their work. It is one thread with a queue of jobs, ordered by due time, and a
// set of eventfds whose signals cause work too (an INTx unmask eventfd, an ioeventfd). Work runs with the
// host's lock held, so it sees the machine as a system call does. The jobs of a device are cancelled when
// the device is reset or removed.
//
// Life: the first job or the first watched eventfd starts the thread; stop() ends it.
//
// If no thread can be started, the work is not lost: the next system calls run the due jobs, until one of
// them can start a thread. settle() then runs all jobs.
//
// With virtual time there is no thread. The clock stands, jobs run in step() and settle() only, and signals
// of eventfds are handled there and at the start of each system call.
#pragma once

#include <algorithm>
#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <functional>
#include <map>
#include <mutex>
#include <optional>
#include <random>
#include <thread>

namespace vfio::soft {

class Engine {
 public:
  // Calls `report`, with the host's lock held, for work that could not be done properly. `seed`: time is
  // virtual. Jobs of different owners that are due at the same time then run in an order that the seed
  // decides; 0: in the order in which they were posted, as the jobs of one owner always do.
  Engine(std::mutex& hostLock, std::function<void(const char*)> report, std::optional<uint64_t> seed = {});
  ~Engine();
  Engine(const Engine&) = delete;
  Engine& operator=(const Engine&) = delete;

  // Stops the engine for good. The caller does not hold the host's lock. Jobs that have not begun are
  // dropped, and no more are accepted.
  void stop();

  // The caller of these holds the host's lock.
  //
  // Returns false if no thread can be started. The job then waits for the next calls.
  [[nodiscard]] bool post(const void* owner, std::chrono::nanoseconds delay, std::function<void()> job);
  void cancel(const void* owner);

  using Clock = std::chrono::steady_clock;
  // With virtual time: how far the program has advanced it.
  [[nodiscard]] Clock::time_point now() const { return virtual_ ? virtual_->now : Clock::now(); }
  [[nodiscard]] bool hasVirtualTime() const { return virtual_.has_value(); }
  // With virtual time only: runs the next job, if it is due by `until`, and moves the clock to its time.
  // Returns false if there is none.
  [[nodiscard]] bool step(Clock::time_point until = Clock::time_point::max());
  // The time after a delay; the last one that there is, if that comes first.
  [[nodiscard]] Clock::time_point after(std::chrono::nanoseconds delay) const {
    return delay > Clock::time_point::max() - now() ? Clock::time_point::max() : now() + delay;
  }
  // With virtual time only, when no job is due by then.
  void moveTo(Clock::time_point time) { virtual_->now = std::max(virtual_->now, time); }

  // Calls `handler` each time that `fd`, an eventfd, has been signalled. Before that it reads and clears the
  // count, as the kernel's listeners do. The caller still owns the descriptor, which must outlive the watch.
  // Throws std::system_error if no thread can be started.
  [[nodiscard]] uint64_t watch(int fd, std::function<void()> handler);
  // Calls `handler` once, when `fd` has become readable. It reads nothing. The rest is as for `watch`, but a
  // lack of threads is no error: the next system calls look then.
  [[nodiscard]] uint64_t watchOnce(int fd, std::function<void()> handler);
  void unwatch(uint64_t id);
  // Handles all signals so far. The kernel reacts within the write to the eventfd. Every system call calls
  // drain() at its start, so the next call after a signal sees the same as with the kernel.
  void drain() {
    if (restart_) restart();
    if (!watches_.empty()) handleSignals();
  }

  // For the child of a fork, which has only the calling thread. The next call starts the engine's thread
  // again.
  void afterFork();

  // The caller does not hold the lock. Returns once no job is waiting or running.
  void settle();

 private:
  struct Job {
    const void* owner;
    std::function<void()> run;
  };
  struct Watch {
    int fd;
    std::function<void()> handler;
    bool once = false;
  };
  struct VirtualTime {
    Clock::time_point now;
    uint64_t seed;
    std::mt19937_64 numbers;
  };
  using Jobs = std::multimap<Clock::time_point, Job>;
  void start();
  void restart();
  void runDue();
  void runJob(Jobs::iterator at);
  [[nodiscard]] Jobs::iterator next();
  void run();
  void sleep(std::unique_lock<std::mutex>& hold);
  void wake();
  uint64_t add(Watch watch);
  void handleSignals();

  std::mutex& lock_;
  const std::function<void(const char*)> report_;
  std::condition_variable idle_;
  std::optional<VirtualTime> virtual_;
  Jobs jobs_;
  std::map<uint64_t, Watch> watches_;
  uint64_t nextWatch_ = 1;
  int wakeFd_ = -1;
  bool restart_ = false;  // there is work, but no thread yet
  bool asleep_ = false;
  bool stopping_ = false;
  unsigned running_ = 0;  // jobs that are running: a remote model's job runs without the lock
  std::thread thread_;
};

}  // namespace vfio::soft
