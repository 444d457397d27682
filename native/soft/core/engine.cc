// The engine's thread: runs what is due, then sleeps until the next due time, a signalled eventfd, or a wake.
// It releases the lock between two jobs, so that system calls can run.
#include "engine.h"

#include <poll.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include <algorithm>
#include <memory>
#include <system_error>
#include <utility>
#include <vector>

#include "../../base/lack.h"
#include "../../base/reserve.h"

namespace vfio::soft {

namespace {

bool readable(int fd) {
  pollfd ready{fd, POLLIN, 0};
  return poll(&ready, 1, 0) == 1 && (ready.revents & POLLIN) != 0;
}

// Reads and clears an eventfd's count. Returns false if the count was 0. Never blocks.
bool take(int fd) {
  uint64_t count;
  return readable(fd) && ::read(fd, &count, sizeof count) > 0;
}

}  // namespace

Engine::Engine(std::mutex& hostLock, std::function<void(const char*)> report, std::optional<uint64_t> seed)
    : lock_(hostLock), report_(std::move(report)), wakeFd_(eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)) {
  if (seed) virtual_ = {{}, *seed, std::mt19937_64(*seed)};
  if (wakeFd_ < 0) throw std::system_error(errno, std::generic_category(), "eventfd");
}

Engine::~Engine() {
  stop();
  ::close(wakeFd_);
}

void Engine::stop() {
  {
    const std::lock_guard hold(lock_);
    stopping_ = true;
    wake();
  }
  if (thread_.joinable()) thread_.join();
}

void Engine::start() {
  if (virtual_) return;
  if (!thread_.joinable() && !stopping_) thread_ = std::thread(&Engine::run, this);
}

// Tries again to start the thread, after an earlier attempt failed. The call that gets here runs the due
// jobs itself.
void Engine::restart() {
  try {
    start();
    restart_ = false;
  } catch (...) {
    (void)lack();
  }
  runDue();
}

void Engine::afterFork() {
  ::close(wakeFd_);
  wakeFd_ = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
  asleep_ = false;
  running_ = 0;  // other threads were running them
  restart_ = !virtual_ && (!jobs_.empty() || !watches_.empty());
  // The old objects belong to a thread that doesn't exist in this process: they can be neither joined nor
  // destroyed.
  std::construct_at(&idle_);
  std::construct_at(&thread_);
}

void Engine::wake() {
  if (!asleep_) return;
  asleep_ = false;
  const uint64_t one = 1;
  // This write can't fail: the counter is emptied at each waking.
  if (::write(wakeFd_, &one, sizeof one) < 0) return;
}

bool Engine::post(const void* owner, std::chrono::nanoseconds delay, std::function<void()> job) {
  const auto due = jobs_.emplace(after(delay), Job{owner, std::move(job)});
  if (due == jobs_.begin()) wake();
  try {
    start();
    return true;
  } catch (...) {
    (void)lack();
    restart_ = true;
    return false;
  }
}

void Engine::cancel(const void* owner) {
  std::erase_if(jobs_, [owner](const auto& job) { return job.second.owner == owner; });
  if (jobs_.empty()) idle_.notify_all();
}

uint64_t Engine::watch(int fd, std::function<void()> handler) {
  start();
  return add({fd, std::move(handler)});
}

uint64_t Engine::watchOnce(int fd, std::function<void()> handler) {
  const uint64_t id = add({fd, std::move(handler), true});
  try {
    start();
  } catch (...) {
    (void)lack();
    restart_ = true;
  }
  return id;
}

uint64_t Engine::add(Watch watch) {
  const uint64_t id = nextWatch_++;
  watches_.emplace(id, std::move(watch));
  wake();
  return id;
}

void Engine::unwatch(uint64_t id) {
  watches_.erase(id);
  wake();  // the sleeping thread polls a descriptor that is about to close
}

void Engine::handleSignals() {
  // A handler may end its own watch or another one: look up each watch again.
  std::vector<uint64_t> ids;
  ids.reserve(watches_.size());
  for (const auto& [id, watch] : watches_) ids.push_back(id);
  for (const uint64_t id : ids) {
    const auto found = watches_.find(id);
    if (found == watches_.end()) continue;
    const Watch& watch = found->second;
    if (watch.once ? !readable(watch.fd) : !take(watch.fd)) continue;
    const auto handler = watch.handler;
    if (watch.once) watches_.erase(found);
    handler();
  }
}

void Engine::runJob(Jobs::iterator at) {
  const Job job = std::move(jobs_.extract(at).mapped());
  ++running_;
  try {
    job.run();
  } catch (...) {
    (void)lack();
    report_("no memory for the work of a device (ENOMEM): it is not done");
  }
  if (--running_ == 0) idle_.notify_all();
}

void Engine::runDue() {
  while (!jobs_.empty() && jobs_.begin()->first <= Clock::now()) runJob(jobs_.begin());
}

// Of the jobs that are due first, the first one of each owner can be next.
Engine::Jobs::iterator Engine::next() {
  if (virtual_->seed == 0) return jobs_.begin();
  std::vector<Jobs::iterator> firsts;
  const auto [begin, end] = jobs_.equal_range(jobs_.begin()->first);
  for (auto at = begin; at != end; ++at) {
    const auto same = [&at](const auto& other) { return other->second.owner == at->second.owner; };
    if (std::ranges::none_of(firsts, same)) firsts.push_back(at);
  }
  return firsts.size() == 1 ? firsts.front() : firsts[virtual_->numbers() % firsts.size()];
}

bool Engine::step(Clock::time_point until) {
  drain();
  if (stopping_ || jobs_.empty() || jobs_.begin()->first > until) return false;
  const auto job = next();
  moveTo(job->first);
  runJob(job);
  return true;
}

void Engine::settle() {
  const Reserve::Use use;
  std::unique_lock hold(lock_);
  drain();
  if (virtual_) {
    while (step()) {
      hold.unlock();
      hold.lock();
    }
    idle_.wait(hold, [this] { return running_ == 0 || stopping_; });
    return;
  }
  while ((!jobs_.empty() || running_ != 0) && !stopping_) {
    if (thread_.joinable() || jobs_.empty()) {
      idle_.wait(hold);
    } else {
      idle_.wait_until(hold, jobs_.begin()->first);
      drain();
    }
  }
}

void Engine::sleep(std::unique_lock<std::mutex>& hold) {
  std::vector<pollfd> fds{{wakeFd_, POLLIN, 0}};
  for (const auto& [id, watch] : watches_) fds.push_back({watch.fd, POLLIN, 0});
  timespec timeout{};
  const bool timed = !jobs_.empty();
  if (timed) {
    const auto left = std::max(jobs_.begin()->first - Clock::now(), Clock::duration::zero());
    const auto seconds = std::chrono::duration_cast<std::chrono::seconds>(left);
    timeout.tv_sec = seconds.count();
    timeout.tv_nsec = std::chrono::nanoseconds(left - seconds).count();
  }
  // Without a wake descriptor (a fork may have found none free) nobody can wake the thread: it wakes by
  // itself, often.
  constexpr timespec often{0, 10'000'000};
  if (wakeFd_ < 0 && (!timed || timeout.tv_sec != 0 || timeout.tv_nsec > often.tv_nsec)) timeout = often;
  asleep_ = true;
  hold.unlock();
  ppoll(fds.data(), fds.size(), timed || wakeFd_ < 0 ? &timeout : nullptr, nullptr);
  hold.lock();
  asleep_ = false;
  if (wakeFd_ >= 0) take(wakeFd_);
}

void Engine::run() {
  const Reserve::Use use;
  std::unique_lock hold(lock_);
  while (!stopping_) {
    (void)Reserve::fill();
    try {
      drain();
      if (jobs_.empty() || jobs_.begin()->first > Clock::now()) {
        sleep(hold);
        continue;
      }
    } catch (...) {
      (void)lack();
      // Even the reserve has too little memory: try again later.
      hold.unlock();
      std::this_thread::sleep_for(std::chrono::milliseconds(1));
      hold.lock();
      continue;
    }
    runJob(jobs_.begin());
    hold.unlock();
    hold.lock();
  }
  idle_.notify_all();
}

}  // namespace vfio::soft
