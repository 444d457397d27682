#include "simulated_device.h"

#include <algorithm>
#include <atomic>
#include <condition_variable>
#include <map>
#include <mutex>
#include <thread>
#include <utility>
#include <vector>

#include "arguments.h"
#include "environment.h"

namespace vfio::binding {
namespace {

// Which thread waits for a model of which other thread.
class Waits {
 public:
  // False: the owner waits for this thread, directly or through others.
  [[nodiscard]] bool begin(std::thread::id owner) {
    const std::lock_guard hold(lock_);
    const auto self = std::this_thread::get_id();
    for (auto at = waits_.find(owner); at != waits_.end(); at = waits_.find(at->second))
      if (at->second == self) return false;
    waits_[self] = owner;
    return true;
  }
  void end() {
    const std::lock_guard hold(lock_);
    waits_.erase(std::this_thread::get_id());
  }

 private:
  std::mutex lock_;
  std::map<std::thread::id, std::thread::id> waits_;
};

Waits& waits() {
  static Waits all;
  return all;
}

constexpr const char* kDeadlock =
    "an access to this device was not made: the threads of its model and of its driver wait for each other";

enum class Operation { read, write, reset, removed, lost };

// One call of a model. The asking thread waits for it, unless nobody needs the answer.
struct Request {
  explicit Request(Operation what, unsigned itsBar = 0, uint64_t itsOffset = 0, unsigned itsWidth = 0,
                   uint64_t itsValue = 0)
      : operation(what), bar(itsBar), offset(itsOffset), width(itsWidth), value(itsValue) {}

  const Operation operation;
  const unsigned bar;
  const uint64_t offset;
  const unsigned width;
  uint64_t value;  // that is stored; then the answer

  std::mutex lock{};
  std::condition_variable changed{};
  bool answered = false;

  // The first answer counts.
  void answer(uint64_t result) {
    const std::lock_guard hold(lock);
    if (answered) return;
    value = result;
    answered = true;
    changed.notify_all();
  }
};

uint64_t allOnes(unsigned width) { return width >= 8 ? UINT64_MAX : (uint64_t{1} << (8 * width)) - 1; }

}  // namespace

// What the model and its JavaScript port share.
class SimulatedLink {
 public:
  SimulatedLink(Napi::Env env, const Napi::Object& handlers, std::weak_ptr<Backend> host)
      : host_(std::move(host)), env_(env), owner_(std::this_thread::get_id()) {
    const auto take = [&handlers](const char* name) {
      return Napi::Persistent(handlers.Get(name).As<Napi::Function>());
    };
    read_ = take("read");
    write_ = take("write");
    reset_ = take("reset");
    removed_ = take("removed");
    lost_ = take("lost");
  }

  // Makes the queue by which other threads reach the model. It keeps the link until the thread's JavaScript
  // ends, or until `close`.
  static void open(const std::shared_ptr<SimulatedLink>& link) {
    auto kept = std::make_unique<std::shared_ptr<SimulatedLink>>(link);
    napi_value name = Napi::String::New(link->env_, "vfio.SimulatedDevice");
    const napi_status status = napi_create_threadsafe_function(
        link->env_, nullptr, nullptr, name, 0, 1, kept.get(), finalize, kept.get(), take, &link->queue_);
    if (status != napi_ok) throw Napi::Error::New(link->env_);
    (void)kept.release();
    napi_unref_threadsafe_function(link->env_, link->queue_);
    link->open_ = true;
  }

  void plugged(std::shared_ptr<devices::Port> port) {
    const std::lock_guard hold(lock_);
    port_ = std::move(port);
  }

  // The model is gone: the port does nothing any more.
  void unplugged() {
    {
      const std::lock_guard hold(lock_);
      port_ = nullptr;
    }
    tell(Operation::removed);
    close();
  }

  // Runs `call(port)` if the device is plugged in and its host lives, and keeps both for the call.
  template <typename Call>
  bool withPort(Call&& call) {
    const std::shared_ptr<Backend> host = host_.lock();
    std::shared_ptr<devices::Port> port;
    {
      const std::lock_guard hold(lock_);
      port = port_;
    }
    return host && port && call(*port);
  }

  // One call of the model, from any thread: what a load gives; all ones if nobody answers.
  uint64_t ask(Operation operation, unsigned bar, uint64_t offset, unsigned width, uint64_t value) {
    const auto request = std::make_shared<Request>(operation, bar, offset, width, value);
    if (std::this_thread::get_id() == owner_) {
      run(*request);
      return request->value;
    }
    if (!waits().begin(owner_)) {
      tell(Operation::lost);
      return allOnes(width);
    }
    if (!queue(request)) request->answer(allOnes(width));
    {
      std::unique_lock hold(request->lock);
      request->changed.wait(hold, [&request] { return request->answered; });
    }
    waits().end();
    const std::lock_guard hold(lock_);
    std::erase(pending_, request);
    return request->value;
  }

  // The thread's JavaScript is about to end: the threads that wait for the model get all ones. Node could not
  // stop a thread that waits, and it stops the workers of a thread before it frees anything.
  void end() {
    std::vector<std::shared_ptr<Request>> left;
    {
      const std::lock_guard hold(lock_);
      open_ = false;  // the end of the thread frees the queue
      ended_ = true;
      left.swap(pending_);
    }
    for (const auto& request : left) request->answer(allOnes(request->width));
  }

 private:
  // A call whose answer nobody waits for.
  void tell(Operation operation) { (void)queue(std::make_shared<Request>(operation)); }

  [[nodiscard]] bool queue(std::shared_ptr<Request> request) {
    const std::lock_guard hold(lock_);
    if (!open_) return false;
    auto kept = std::make_unique<std::shared_ptr<Request>>(request);
    if (request->operation != Operation::removed && request->operation != Operation::lost)
      pending_.push_back(std::move(request));
    if (napi_call_threadsafe_function(queue_, kept.get(), napi_tsfn_nonblocking) != napi_ok) return false;
    (void)kept.release();
    return true;
  }

  void close() {
    const std::lock_guard hold(lock_);
    if (std::exchange(open_, false)) napi_release_threadsafe_function(queue_, napi_tsfn_release);
  }

  // On the owner's thread: env is null if its JavaScript has ended.
  static void take(napi_env env, napi_value, void* context, void* data) {
    const std::unique_ptr<std::shared_ptr<Request>> request(static_cast<std::shared_ptr<Request>*>(data));
    auto& link = **static_cast<std::shared_ptr<SimulatedLink>*>(context);
    if (env == nullptr) {
      (*request)->answer(allOnes((*request)->width));
    } else {
      link.run(**request);
    }
  }

  static void finalize(napi_env, void* data, void*) {
    const std::unique_ptr<std::shared_ptr<SimulatedLink>> kept(
        static_cast<std::shared_ptr<SimulatedLink>*>(data));
    SimulatedLink& link = **kept;
    const std::lock_guard hold(link.lock_);
    link.open_ = false;
    link.ended_ = true;
    for (auto* reference : {&link.read_, &link.write_, &link.reset_, &link.removed_, &link.lost_})
      reference->Reset();
  }

  // Calls the model's function. lib/ catches what the function throws: an exception that arrives here means
  // that the thread is being stopped.
  void run(Request& request) {
    uint64_t result = allOnes(request.width);
    if (!ended_) {
      const Napi::HandleScope scope(env_);
      try {
        result = call(request);
      } catch (const Napi::Error&) {
        // The thread is being stopped: its JavaScript can't run any more, and nobody can be told.
      }
    }
    request.answer(result);
  }

  uint64_t call(const Request& request) {
    const Napi::Env env = env_;
    const napi_value arguments[] = {
        Napi::Number::New(env, request.bar), Napi::Number::New(env, static_cast<double>(request.offset)),
        Napi::Number::New(env, request.width),
        request.operation != Operation::write ? env.Undefined()
        : request.width == 8                  ? Napi::Value(Napi::BigInt::New(env, request.value))
                             : Napi::Value(Napi::Number::New(env, static_cast<double>(request.value)))};
    switch (request.operation) {
      case Operation::read: {
        const Napi::Value value = read_.Value().Call(env.Undefined(), 3, arguments);
        if (value.IsUndefined()) return allOnes(request.width);
        const uint64_t bits = value.IsBigInt() ? bigU64Of(env, value, "value") : u64Of(env, value, "value");
        return bits & allOnes(request.width);
      }
      case Operation::write:
        (void)write_.Value().Call(env.Undefined(), 4, arguments);
        return 0;
      case Operation::reset:
        (void)reset_.Value().Call(env.Undefined(), {});
        return 0;
      case Operation::removed:
        (void)removed_.Value().Call(env.Undefined(), {});
        return 0;
      case Operation::lost:
        (void)lost_.Value().Call(env.Undefined(), {Napi::String::New(env, kDeadlock)});
        return 0;
    }
    return 0;
  }

  const std::weak_ptr<Backend> host_;
  const Napi::Env env_;
  const std::thread::id owner_;
  Napi::FunctionReference read_, write_, reset_, removed_, lost_;  // used on the owner's thread

  std::mutex lock_;
  napi_threadsafe_function queue_ = nullptr;
  bool open_ = false;
  std::vector<std::shared_ptr<Request>> pending_;  // the calls of other threads
  std::atomic<bool> ended_ = false;                // the owner's JavaScript; changes on its thread
  std::shared_ptr<devices::Port> port_;
};

namespace {

class Model final : public devices::Device {
 public:
  Model(devices::Description description, std::shared_ptr<SimulatedLink> link)
      : description_(description), link_(std::move(link)) {}
  ~Model() override { link_->unplugged(); }
  Model(const Model&) = delete;
  Model& operator=(const Model&) = delete;

  [[nodiscard]] const devices::Description& description() const override { return description_; }
  void plug(devices::Port& port) override { link_->plugged(port.shared_from_this()); }
  [[nodiscard]] bool remote() const override { return true; }
  [[nodiscard]] uint64_t read(unsigned bar, uint64_t offset, unsigned width) override {
    return link_->ask(Operation::read, bar, offset, width, 0);
  }
  void write(unsigned bar, uint64_t offset, unsigned width, uint64_t value) override {
    (void)link_->ask(Operation::write, bar, offset, width, value);
  }
  void reset() override { (void)link_->ask(Operation::reset, 0, 0, 0, 0); }

 private:
  const devices::Description description_;
  const std::shared_ptr<SimulatedLink> link_;
};

std::optional<uint32_t> pasidOf(const Arguments& arguments, size_t index) {
  return arguments.optionalU32(index, "pasid");
}

}  // namespace

Napi::Function SimulatedPort::define(Napi::Env env) {
  return DefineClass(
      env, "SimulatedPort",
      {InstanceMethod<&SimulatedPort::dmaRead>("dmaRead"),
       InstanceMethod<&SimulatedPort::dmaWrite>("dmaWrite"),
       InstanceMethod<&SimulatedPort::message>("message"), InstanceMethod<&SimulatedPort::line>("line"),
       InstanceMethod<&SimulatedPort::end>("end"),
       InstanceMethod<&SimulatedPort::messagesEnabled>("messagesEnabled")});
}

SimulatedPort::SimulatedPort(const Napi::CallbackInfo& info) : ObjectWrap(info) {}

SimulatedPort::~SimulatedPort() = default;

std::pair<Napi::Object, devices::Maker> SimulatedPort::make(Napi::Env env, const Napi::Object& handlers,
                                                            std::weak_ptr<Backend> host) {
  auto link = std::make_shared<SimulatedLink>(env, handlers, std::move(host));
  Napi::Object port = Environment::of(env).simulatedPort.New({});
  Unwrap(port)->link_ = link;
  return {port, [link](const devices::Description& description) {
            auto model = std::make_unique<Model>(description, link);
            SimulatedLink::open(link);
            return model;
          }};
}

Napi::Value SimulatedPort::dmaRead(const Napi::CallbackInfo& info) {
  const Arguments arguments(info);
  const uint64_t iova = arguments.u64(0, "iova");
  // Not into the caller's array itself: another model, whose registers the access may reach, can detach it.
  std::vector<uint8_t> bytes(arguments.bytes(1, "into").size());
  const auto pasid = pasidOf(arguments, 2);
  const bool moved = link_ && link_->withPort([&](devices::Port& port) {
    return port.dmaRead(iova, bytes.data(), bytes.size(), pasid);
  });
  const auto into = arguments.bytes(1, "into");
  std::copy_n(bytes.begin(), std::min(bytes.size(), into.size()), into.begin());
  return Napi::Boolean::New(info.Env(), moved);
}

Napi::Value SimulatedPort::dmaWrite(const Napi::CallbackInfo& info) {
  const Arguments arguments(info);
  const uint64_t iova = arguments.u64(0, "iova");
  const auto given = arguments.bytes(1, "from");
  const std::vector<uint8_t> from(given.begin(), given.end());  // as in dmaRead
  const auto pasid = pasidOf(arguments, 2);
  const bool moved = link_ && link_->withPort([&](devices::Port& port) {
    return port.dmaWrite(iova, from.data(), from.size(), pasid);
  });
  return Napi::Boolean::New(info.Env(), moved);
}

Napi::Value SimulatedPort::message(const Napi::CallbackInfo& info) {
  const uint32_t vector = Arguments(info).u32(0, "vector");
  const bool done = link_ && link_->withPort([&](devices::Port& port) {
    const bool enabled = port.messagesEnabled();
    port.sendMessage(vector);  // also if nobody hears of it: a sanitizer wants to know
    return enabled;
  });
  return Napi::Boolean::New(info.Env(), done);
}

Napi::Value SimulatedPort::line(const Napi::CallbackInfo& info) {
  const bool asserted = Arguments(info).boolean(0, "asserted");
  const bool done = link_ && link_->withPort([&](devices::Port& port) {
    port.setLine(asserted);
    return true;
  });
  return Napi::Boolean::New(info.Env(), done);
}

Napi::Value SimulatedPort::end(const Napi::CallbackInfo& info) {
  if (link_) link_->end();
  return info.Env().Undefined();
}

Napi::Value SimulatedPort::messagesEnabled(const Napi::CallbackInfo& info) {
  const bool enabled = link_ && link_->withPort([](devices::Port& port) { return port.messagesEnabled(); });
  return Napi::Boolean::New(info.Env(), enabled);
}

}  // namespace vfio::binding
