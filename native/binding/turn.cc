#include "turn.h"

#include <sys/eventfd.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <list>
#include <mutex>
#include <string>
#include <utility>
#include <vector>

#include "arguments.h"
#include "environment.h"
#include "poll.h"

namespace vfio::binding {

struct Request {
  Request(const void* host, std::vector<std::string> keys, int event)
      : host(host), keys(std::move(keys)), event(event) {}
  ~Request() { ::close(event); }
  Request(const Request&) = delete;
  Request& operator=(const Request&) = delete;

  [[nodiscard]] bool excludes(const Request& other) const {
    const auto has = [&other](const std::string& key) {
      return std::ranges::find(other.keys, key) != other.keys.end();
    };
    return host == other.host && std::ranges::any_of(keys, has);
  }

  const void* const host;
  const std::vector<std::string> keys;
  const int event;  // an eventfd: readable once it is its turn
  bool called = false;
};

namespace {

// All threads' requests, in the order in which they were made.
struct Line {
  std::mutex lock;
  std::list<std::shared_ptr<Request>> requests;

  // Calls those that nothing before them excludes.
  void call() {
    for (auto it = requests.begin(); it != requests.end(); ++it) {
      Request& request = **it;
      const auto before = [&request](const auto& earlier) { return earlier->excludes(request); };
      if (request.called || std::any_of(requests.begin(), it, before)) continue;
      request.called = true;
      ::eventfd_write(request.event, 1);
    }
  }
};

Line& line() {
  static Line all;
  return all;
}

}  // namespace

Napi::Function Turn::define(Napi::Env env) {
  return DefineClass(env, "Turn", {InstanceMethod<&Turn::end>("end")});
}

Napi::Object Turn::make(Napi::Env env, const void* host, Napi::Value keys, Napi::Value onTurn) {
  if (!keys.IsArray()) refuse(env, "an array", "keys", keys);
  if (!onTurn.IsFunction()) refuse(env, "a function", "onTurn", onTurn);
  std::vector<std::string> names;
  const auto array = keys.As<Napi::Array>();
  for (uint32_t i = 0; i < array.Length(); ++i) names.push_back(array.Get(i).ToString().Utf8Value());
  const int event = ::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
  if (event < 0) throwErrno(env, errno, "eventfd");
  auto request = std::make_shared<Request>(host, std::move(names), event);
  Napi::Object object = Environment::of(env).turn.New({});
  Turn* const self = Unwrap(object);
  self->poll_ = Poll::start(
      env, event, request, onTurn, "vfio.Turn",
      [self, event](napi_env raw) -> std::optional<napi_value> {
        eventfd_t count = 0;
        if (::eventfd_read(event, &count) != 0) return std::nullopt;
        self->poll_->rest();
        return Napi::Env(raw).Undefined();
      },
      [self] { self->close(); });
  self->poll_->watch(env, true);
  self->request_ = request;
  const std::lock_guard hold(line().lock);
  line().requests.push_back(std::move(request));
  line().call();
  return object;
}

Turn::~Turn() { close(); }

void Turn::close() {
  if (Poll* const poll = std::exchange(poll_, nullptr)) poll->close();
  if (!request_) return;
  const std::lock_guard hold(line().lock);
  line().requests.remove(request_);
  request_.reset();
  line().call();
}

Napi::Value Turn::end(const Napi::CallbackInfo& info) {
  close();
  return info.Env().Undefined();
}

}  // namespace vfio::binding
