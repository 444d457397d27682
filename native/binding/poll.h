// Polls a descriptor in the event loop and calls a JavaScript function, without a thread or a timer. Polling
// keeps the loop and the function alive only while somebody waits.
//
// Life: from start() until close(). The libuv handle lives one turn of the loop longer, because closing needs
// it; this holds also when the environment ends (a worker that stops).
#pragma once

#include <napi.h>
#include <uv.h>

#include <functional>
#include <memory>
#include <optional>

namespace vfio::binding {

class Poll {
 public:
  // The loop calls this when the descriptor is readable. It returns the argument for the function, or nullopt
  // if there is nothing to report.
  using Take = std::function<std::optional<napi_value>(napi_env env)>;

  // `keeper` keeps the descriptor open, and is released when nothing polls it any more. `name` is for async
  // hooks. `closed` is called when the environment ends before close().
  static Poll* start(Napi::Env env, int fd, std::shared_ptr<const void> keeper, Napi::Value function,
                     const char* name, Take take, std::function<void()> closed);
  void close();

  // watch(): somebody waits now (`keepAlive`: and the process must not end). rest(): nobody waits. Polling
  // continues after rest(), because starting and stopping it would cost two system calls for each wait.
  // pause() stops it.
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
