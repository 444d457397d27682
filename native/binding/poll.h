// The event loop's own polling of a descriptor, and the JavaScript function that it calls: no thread, no
// timer. Polling keeps the loop alive, and the function, only while someone waits.
//
// Life: from its making until close(); the libuv handle outlives that by the turn of the loop that closing
// takes, also when the environment goes (a worker that stops).
#pragma once

#include <napi.h>
#include <uv.h>

#include <functional>
#include <memory>
#include <optional>

namespace vfio::binding {

class Poll {
 public:
  // What is called in the loop when the descriptor is readable: the argument for the function, or nullopt if
  // there is nothing to tell.
  using Take = std::function<std::optional<napi_value>(napi_env env)>;

  // `keeper` keeps the descriptor open, and is let go of once nothing polls it. `name` is for async hooks.
  // `closed` is called when the environment ends before close().
  static Poll* start(Napi::Env env, int fd, std::shared_ptr<const void> keeper, Napi::Value function,
                     const char* name, Take take, std::function<void()> closed);
  void close();

  // Someone waits (`keepAlive`: and the process must not end), or nobody does. Polling itself goes on after
  // rest(): starting and stopping it would cost each wait two system calls. Until pause().
  void watch(Napi::Env env, bool keepAlive);
  void rest();
  void pause() { uv_poll_stop(&poll_); }

 private:
  Poll() = default;
  static void onReadable(uv_poll_t* poll, int status, int events);
  void hold(bool on);

  uv_poll_t poll_{};
  napi_env env_ = nullptr;
  napi_ref function_ = nullptr;
  napi_async_context context_ = nullptr;
  napi_async_cleanup_hook_handle hook_ = nullptr;
  std::shared_ptr<const void> keeper_;
  Take take_;
  std::function<void()> closed_;
  bool held_ = false;
  bool closing_ = false;
};

}  // namespace vfio::binding
