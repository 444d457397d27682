// Where devices do their work: one thread with a queue of jobs ordered by due time, started at the first job.
// A job runs with the host's lock held, so it sees the machine as a system call does. Jobs of a device are
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
  explicit Engine(std::mutex& hostLock) : lock_(hostLock) {}
  ~Engine();  // the host's lock is not held; jobs that have not begun are dropped

  // With the host's lock held:
  void post(const void* owner, std::chrono::nanoseconds delay, std::function<void()> job);
  void cancel(const void* owner);

  // Without it: returns once no job is waiting or running.
  void settle();

 private:
  void run();
  using Clock = std::chrono::steady_clock;
  struct Job {
    const void* owner;
    std::function<void()> run;
  };
  std::mutex& lock_;
  std::condition_variable wake_;
  std::condition_variable idle_;
  std::multimap<Clock::time_point, Job> jobs_;
  bool running_ = false;
  bool stopping_ = false;
  std::thread thread_;
};

}  // namespace vfio::soft
