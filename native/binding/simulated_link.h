// What a device model in JavaScript and its port share: the calls of the model, from any thread, and the port
// that the model uses.
//
// Life: kept by the model, which belongs to the host, by the JavaScript port, and by the queue, until the
// device is unplugged or the thread's JavaScript ends.
#pragma once

#include <napi.h>

#include <array>
#include <atomic>
#include <chrono>
#include <cstdint>
#include <memory>
#include <mutex>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "../backend.h"
#include "../device_model.h"
#include "model_work.h"

namespace vfio::binding {

class SimulatedLink : public std::enable_shared_from_this<SimulatedLink> {
 public:
  // The functions of a model, in the order of their names in the .cc.
  enum class Operation : uint8_t { read, write, reset, removed, lost, run, moved };
  struct Request;

  SimulatedLink(Napi::Env env, const Napi::Object& handlers, std::weak_ptr<Backend> host);

  // Makes the queue by which other threads reach the model.
  static void open(const std::shared_ptr<SimulatedLink>& link);

  // --- called for the model
  void plugged(std::shared_ptr<devices::Port> port);
  // The device is gone: the port does nothing any more.
  void unplugged();
  // One call of the model, from any thread: what a load gives; all ones if nobody answers.
  uint64_t ask(Operation operation, unsigned bar, uint64_t offset, unsigned width, uint64_t value);
  // A call that nobody waits for but `settle`: in this thread at once if it is the model's, else later. Not
  // under the host's lock.
  void deliver(Operation operation, uint64_t id, bool whole, std::vector<uint8_t> bytes);
  // The same, always later. Also under the host's lock.
  void tell(Operation operation, uint64_t id = 0);

  // --- called by the port
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
  // The model has begun work that goes on by itself, or has ended it.
  void hold();
  void release();
  // The thread's JavaScript is about to end: the threads that wait for the model get all ones. Node could not
  // stop a thread that waits, and it stops the workers of a thread before it frees anything.
  void end();

 private:
  static constexpr size_t kOperations = 7;

  // Tells the model of a deadlock, with the stacks of the two threads.
  void lost(std::string access, std::string waiting);
  [[nodiscard]] static std::shared_ptr<Request> requestOf(Operation operation);
  [[nodiscard]] bool queue(std::shared_ptr<Request> request);
  void close();
  static void take(napi_env env, napi_value, void* context, void* data);
  static void finalize(napi_env, void* data, void*);
  void run(Request& request);
  // Waits a moment for the next request, so that the queue finds it before the thread goes to sleep.
  void awaitNext();
  uint64_t call(Request& request);

  const std::weak_ptr<Backend> host_;
  const std::shared_ptr<ModelWork> work_;
  const Napi::Env env_;
  const std::thread::id owner_;
  std::array<Napi::FunctionReference, kOperations> functions_;  // used on the owner's thread

  std::mutex lock_;  // held while nothing else is called but the queue's own functions
  napi_threadsafe_function queue_ = nullptr;
  bool open_ = false;
  std::vector<std::shared_ptr<Request>> pending_;  // the calls that other threads wait for
  std::vector<ModelWork::Piece> held_;
  std::atomic<unsigned> queued_ = 0;             // the requests that the queue has and `take` has not
  std::chrono::steady_clock::time_point slept_;  // when awaitNext last let the thread go to sleep
  std::atomic<bool> ended_ = false;              // the owner's JavaScript; changes on its thread
  std::shared_ptr<devices::Port> port_;
};

}  // namespace vfio::binding
