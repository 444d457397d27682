// A thread that signals an eventfd a short time after it was asked to, as a device would, so that the waiting
// thread is really asleep; and the baseline, which waits for it with epoll_wait.
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <chrono>
#include <condition_variable>
#include <mutex>
#include <random>
#include <thread>

#include "bench.h"

namespace vfio::bench {
namespace {

using Clock = std::chrono::steady_clock;

class Bell final : public Napi::ObjectWrap<Bell> {
 public:
  static Napi::Function define(Napi::Env env) {
    return DefineClass(env, "Bell",
                       {InstanceMethod<&Bell::ring>("ring"), InstanceMethod<&Bell::elapsed>("elapsed"),
                        InstanceMethod<&Bell::epoll>("epoll"), InstanceMethod<&Bell::dispose>("dispose")});
  }
  explicit Bell(const Napi::CallbackInfo& info) : ObjectWrap(info), thread_([this] { run(); }) {}
  ~Bell() override { stop(); }

 private:
  // (fd): the thread writes to it in 50 to 300 microseconds
  Napi::Value ring(const Napi::CallbackInfo& info) {
    ask(info[0].As<Napi::Number>().Int32Value());
    return info.Env().Undefined();
  }

  // () => nanoseconds from the last write to now
  Napi::Value elapsed(const Napi::CallbackInfo& info) { return Napi::Number::New(info.Env(), sinceWrite()); }

  // (times) => nanoseconds from write to the return of epoll_wait, each
  Napi::Value epoll(const Napi::CallbackInfo& info) {
    const Napi::Env env = info.Env();
    const uint32_t times = info[0].As<Napi::Number>().Uint32Value();
    auto samples = Napi::Float64Array::New(env, times);
    const int fd = ::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    const int set = ::epoll_create1(EPOLL_CLOEXEC);
    epoll_event wanted{.events = EPOLLIN, .data = {}};
    if (fd < 0 || set < 0 || ::epoll_ctl(set, EPOLL_CTL_ADD, fd, &wanted) < 0) checked(env, -errno, "epoll");
    for (uint32_t i = 0; i < times; ++i) {
      ask(fd);
      epoll_event got;
      while (::epoll_wait(set, &got, 1, -1) != 1) continue;
      samples[i] = sinceWrite();
      uint64_t count = 0;
      if (::read(fd, &count, sizeof count) < 0) checked(env, -errno, "read");
    }
    ::close(set);
    ::close(fd);
    return samples;
  }

  Napi::Value dispose(const Napi::CallbackInfo& info) {
    stop();
    return info.Env().Undefined();
  }

  void ask(int fd) {
    const std::lock_guard guard(lock_);
    fd_ = fd;
    changed_.notify_one();
  }

  double sinceWrite() const {
    return std::chrono::duration<double, std::nano>(Clock::now() - written_.load()).count();
  }

  void stop() {
    {
      const std::lock_guard guard(lock_);
      stopping_ = true;
      changed_.notify_one();
    }
    if (thread_.joinable()) thread_.join();
  }

  void run() {
    std::minstd_rand random(1);
    std::uniform_int_distribution<int> delay(50, 300);
    for (;;) {
      int fd;
      {
        std::unique_lock guard(lock_);
        changed_.wait(guard, [this] { return stopping_ || fd_ >= 0; });
        if (stopping_) return;
        fd = std::exchange(fd_, -1);
      }
      std::this_thread::sleep_for(std::chrono::microseconds(delay(random)));
      const uint64_t one = 1;
      written_ = Clock::now();
      if (::write(fd, &one, sizeof one) < 0) return;
    }
  }

  std::mutex lock_;
  std::condition_variable changed_;
  int fd_ = -1;
  bool stopping_ = false;
  std::atomic<Clock::time_point> written_{};
  std::thread thread_;
};

}  // namespace

void addInterrupts(Napi::Env env, Napi::Object exports) { exports.Set("Bell", Bell::define(env)); }

}  // namespace vfio::bench
