#include "simulated_link.h"

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <map>
#include <optional>
#include <string>
#include <thread>

#include "../base/reserve.h"
#include "arguments.h"
#include "call.h"
#include "stack.h"

namespace vfio::binding {
namespace {

// An access that was not made, because its thread and the model's would have waited for each other.
struct Deadlock {
  std::weak_ptr<SimulatedLink> link;  // of the model
  std::string access;                 // the stack of the access
};

// Which thread waits for a model of which other thread.
class Waits {
 public:
  // False: the owner waits for this thread, directly or through others.
  [[nodiscard]] bool begin(std::thread::id owner) {
    const std::lock_guard hold(lock_);
    const auto self = std::this_thread::get_id();
    for (auto at = waits_.find(owner); at != waits_.end(); at = waits_.find(at->second.owner))
      if (at->second.owner == self) return false;
    const Reserve::Use use;
    waits_[self].owner = owner;
    return true;
  }
  // Keeps the deadlock for the owner, which tells its model when its own wait ends. False: it does not wait.
  [[nodiscard]] bool keep(std::thread::id owner, Deadlock deadlock) {
    const std::lock_guard hold(lock_);
    const auto found = waits_.find(owner);
    if (found == waits_.end()) return false;
    found->second.deadlocks.push_back(std::move(deadlock));
    return true;
  }
  // Returns what was kept for this thread.
  [[nodiscard]] std::vector<Deadlock> end() {
    const std::lock_guard hold(lock_);
    const auto found = waits_.find(std::this_thread::get_id());
    auto deadlocks = std::move(found->second.deadlocks);
    waits_.erase(found);
    return deadlocks;
  }

 private:
  struct Wait {
    std::thread::id owner;
    std::vector<Deadlock> deadlocks;
  };
  std::mutex lock_;
  std::map<std::thread::id, Wait> waits_;
};

Waits& waits() {
  static Waits all;
  return all;
}

constexpr const char* kDeadlock =
    "an access to this device was not made: the threads of its model and of its driver wait for each other";

// How long a thread that waits for a model stays awake.
constexpr auto kAwake = std::chrono::microseconds(50);
// How long a model's thread stays awake for the next access of another thread. Drivers read several registers
// in a row, and to wake a thread whose processor sleeps can take longer than all of them.
constexpr auto kNext = std::chrono::microseconds(20);
// How often it does not, so that its timers and its other work have their turn.
constexpr auto kTurn = std::chrono::milliseconds(1);
// How often a thread that waits looks whether the host has ended.
constexpr std::chrono::milliseconds kLook{10};

constexpr std::array kNames = {"read", "write", "reset", "removed", "lost", "run", "moved"};

uint64_t allOnes(unsigned width) { return width >= 8 ? UINT64_MAX : (uint64_t{1} << (8 * width)) - 1; }

}  // namespace

// One call of a model.
struct SimulatedLink::Request {
  explicit Request(Operation what) : operation(what) {}

  const Operation operation;
  unsigned bar = 0;
  uint64_t offset = 0;
  unsigned width = 0;
  uint64_t value = 0;  // that is stored, the kind of a reset, or the number of a job; then the answer
  bool whole = false;  // of a transfer
  std::vector<uint8_t> bytes{};
  std::string access{};                     // of a deadlock: the stack of the access,
  std::string waiting{};                    // and that of the model's thread
  std::optional<ModelWork::Piece> piece{};  // of a call that `settle` waits for

  std::mutex lock{};
  std::condition_variable changed{};
  std::atomic<bool> answered = false;

  // The first answer counts.
  void answer(uint64_t result) {
    const std::lock_guard hold(lock);
    if (answered) return;
    value = result;
    answered = true;
    changed.notify_all();
  }
  // A loop that has nothing else to do answers sooner than a thread that sleeps can be woken: so the thread
  // does not sleep at once.
  // False: the host has ended meanwhile. The end of a host waits for its engine, maybe on the thread that
  // would have to answer.
  [[nodiscard]] bool wait(const std::weak_ptr<Backend>& host) {
    const auto end = std::chrono::steady_clock::now() + kAwake;
    while (!answered && std::chrono::steady_clock::now() < end) std::this_thread::yield();
    std::unique_lock hold(lock);
    while (!changed.wait_for(hold, kLook, [this] { return answered.load(); }))
      if (host.expired()) return false;
    return true;
  }
};

// The host counts a model's work as none of its own, and lends it no memory of the reserve. But whether a
// model is called is up to the call that the reserve was filled for: a reset, or the end of a device, can't
// fail.
std::shared_ptr<SimulatedLink::Request> SimulatedLink::requestOf(Operation operation) {
  const Reserve::Use use;
  return std::make_shared<Request>(operation);
}

SimulatedLink::SimulatedLink(Napi::Env env, const Napi::Object& handlers, std::weak_ptr<Backend> host)
    : host_(std::move(host)), work_(ModelWork::of(host_)), env_(env), owner_(std::this_thread::get_id()) {
  static_assert(kNames.size() == kOperations);
  for (size_t i = 0; i < kOperations; ++i)
    functions_[i] = Napi::Persistent(handlers.Get(kNames[i]).As<Napi::Function>());
}

void SimulatedLink::open(const std::shared_ptr<SimulatedLink>& link) {
  auto kept = std::make_unique<std::shared_ptr<SimulatedLink>>(link);
  napi_value name = Napi::String::New(link->env_, "vfio.SimulatedDevice");
  const napi_status status = napi_create_threadsafe_function(
      link->env_, nullptr, nullptr, name, 0, 1, kept.get(), finalize, kept.get(), take, &link->queue_);
  if (status != napi_ok) throw Napi::Error::New(link->env_);
  (void)kept.release();
  napi_unref_threadsafe_function(link->env_, link->queue_);
  link->open_ = true;
}

void SimulatedLink::plugged(std::shared_ptr<devices::Port> port) {
  const std::lock_guard hold(lock_);
  port_ = std::move(port);
}

void SimulatedLink::unplugged() {
  std::vector<ModelWork::Piece> held;
  {
    const std::lock_guard hold(lock_);
    port_ = nullptr;
    held.swap(held_);
  }
  tell(Operation::removed);
  close();
}

uint64_t SimulatedLink::ask(Operation operation, unsigned bar, uint64_t offset, unsigned width,
                            uint64_t value) {
  const auto request = requestOf(operation);
  request->bar = bar;
  request->offset = offset;
  request->width = width;
  request->value = value;
  if (std::this_thread::get_id() == owner_) {
    run(*request);
    return request->value;
  }
  if (!waits().begin(owner_)) {
    std::string access = stackHere();
    if (!waits().keep(owner_, {weak_from_this(), access})) lost(std::move(access), {});
    return allOnes(width);
  }
  if (!queue(request)) request->answer(allOnes(width));
  if (!request->wait(host_)) request->answer(allOnes(width));
  for (Deadlock& deadlock : waits().end()) {
    if (const auto link = deadlock.link.lock()) link->lost(std::move(deadlock.access), stackHere());
  }
  const std::lock_guard hold(lock_);
  std::erase(pending_, request);
  return request->value;
}

void SimulatedLink::deliver(Operation operation, uint64_t id, bool whole, std::vector<uint8_t> bytes) {
  auto request = requestOf(operation);
  request->value = id;
  request->whole = whole;
  request->bytes = std::move(bytes);
  request->piece.emplace(work_);
  if (std::this_thread::get_id() == owner_) {
    run(*request);
  } else {
    (void)queue(std::move(request));
  }
}

void SimulatedLink::tell(Operation operation, uint64_t id) {
  auto request = requestOf(operation);
  request->value = id;
  request->piece.emplace(work_);
  (void)queue(std::move(request));
}

void SimulatedLink::lost(std::string access, std::string waiting) {
  auto request = requestOf(Operation::lost);
  request->access = std::move(access);
  request->waiting = std::move(waiting);
  request->piece.emplace(work_);
  (void)queue(std::move(request));
}

void SimulatedLink::hold() {
  ModelWork::Piece piece(work_);
  const std::lock_guard hold(lock_);
  if (port_) held_.push_back(std::move(piece));
}

void SimulatedLink::release() {
  std::optional<ModelWork::Piece> piece;
  const std::lock_guard hold(lock_);
  if (held_.empty()) return;  // the device was unplugged meanwhile
  piece.emplace(std::move(held_.back()));
  held_.pop_back();
}

void SimulatedLink::end() {
  std::vector<std::shared_ptr<Request>> left;
  std::vector<ModelWork::Piece> held;
  {
    const std::lock_guard hold(lock_);
    open_ = false;  // the end of the thread frees the queue
    ended_ = true;
    left.swap(pending_);
    held.swap(held_);
  }
  for (const auto& request : left) request->answer(allOnes(request->width));
}

bool SimulatedLink::queue(std::shared_ptr<Request> request) {
  const std::lock_guard hold(lock_);
  if (!open_) return false;
  const Reserve::Use use;
  auto kept = std::make_unique<std::shared_ptr<Request>>(request);
  if (!request->piece) pending_.push_back(std::move(request));
  ++queued_;
  if (napi_call_threadsafe_function(queue_, kept.get(), napi_tsfn_nonblocking) != napi_ok) {
    --queued_;
    return false;
  }
  (void)kept.release();
  return true;
}

void SimulatedLink::close() {
  const std::lock_guard hold(lock_);
  if (std::exchange(open_, false)) napi_release_threadsafe_function(queue_, napi_tsfn_release);
}

// On the owner's thread. env is null if its JavaScript has ended: `finalize` was called then, and the link
// may be gone.
void SimulatedLink::take(napi_env env, napi_value, void* context, void* data) {
  const std::unique_ptr<std::shared_ptr<Request>> request(static_cast<std::shared_ptr<Request>*>(data));
  if (env == nullptr) return (*request)->answer(allOnes((*request)->width));
  auto& link = **static_cast<std::shared_ptr<SimulatedLink>*>(context);
  --link.queued_;
  if ((*request)->answered) return;
  link.run(**request);
  if (!(*request)->piece) link.awaitNext();
}

void SimulatedLink::awaitNext() {
  auto now = std::chrono::steady_clock::now();
  if (now - slept_ > kTurn) {
    slept_ = now;
    return;
  }
  for (const auto end = now + kNext; queued_ == 0 && !ended_ && now < end;
       now = std::chrono::steady_clock::now())
    std::this_thread::yield();
}

void SimulatedLink::finalize(napi_env, void* data, void*) {
  const std::unique_ptr<std::shared_ptr<SimulatedLink>> kept(
      static_cast<std::shared_ptr<SimulatedLink>*>(data));
  SimulatedLink& link = **kept;
  link.end();
  for (auto& reference : link.functions_) reference.Reset();
}

// Calls the model's function. lib/ catches what the function throws: a call that fails means that the
// JavaScript is being stopped, and nobody can be told.
void SimulatedLink::run(Request& request) {
  uint64_t result = allOnes(request.width);
  if (!ended_) {
    const Napi::HandleScope scope(env_);
    try {
      result = call(request);
    } catch (const Napi::Error&) {
      // Not even the arguments could be made: the JavaScript is being stopped, or has no memory left for
      // them.
    }
  }
  request.answer(result);
}

uint64_t SimulatedLink::call(Request& request) {
  const Napi::Env env = env_;
  const Napi::Function function = functions_[static_cast<size_t>(request.operation)].Value();
  switch (request.operation) {
    case Operation::read:
    case Operation::write: {
      const Napi::Value stored =
          request.operation != Operation::write ? env.Undefined()
          : request.width == 8                  ? Napi::Value(Napi::BigInt::New(env, request.value))
                               : Napi::Value(Napi::Number::New(env, static_cast<double>(request.value)));
      const Napi::Value value(env,
                              tryCall(function, {Napi::Number::New(env, request.bar),
                                                 Napi::Number::New(env, static_cast<double>(request.offset)),
                                                 Napi::Number::New(env, request.width), stored}));
      if (request.operation == Operation::write) return 0;
      if (value.IsEmpty() || value.IsUndefined()) return allOnes(request.width);
      // lib/ has checked the value.
      const uint64_t bits = value.IsBigInt() ? bigU64Of(env, value, "value") : u64Of(env, value, "value");
      return bits & allOnes(request.width);
    }
    case Operation::lost:
      (void)tryCall(function, {Napi::String::New(env, kDeadlock), Napi::String::New(env, request.access),
                               Napi::String::New(env, request.waiting)});
      return 0;
    case Operation::removed:
      (void)tryCall(function, {});
      return 0;
    case Operation::reset:
    case Operation::run:
      (void)tryCall(function, {Napi::Number::New(env, static_cast<double>(request.value))});
      return 0;
    case Operation::moved:
      (void)tryCall(function, {Napi::Number::New(env, static_cast<double>(request.value)),
                               Napi::Boolean::New(env, request.whole),
                               Napi::Buffer<uint8_t>::Copy(env, request.bytes.data(), request.bytes.size())});
      return 0;
  }
  return 0;
}

}  // namespace vfio::binding
