// Puts changes of several steps into a queue. Of the changes that share a key, in all threads of the process,
// only one runs at a time, in the order of the requests.
//
// Life: a Turn is in the queue from its creation. It leaves the queue with end(), or when its object or
// environment ends.
#pragma once

#include <napi.h>

#include <memory>

namespace vfio::binding {

class Poll;
struct Request;

class Turn final : public Napi::ObjectWrap<Turn> {
 public:
  static Napi::Function define(Napi::Env env);
  explicit Turn(const Napi::CallbackInfo& info) : ObjectWrap(info) {}
  ~Turn() override;
  // Calls onTurn() once, when the change may run, and never before this function returns. `host`: the host
  // that the keys belong to.
  static Napi::Object make(Napi::Env env, const void* host, Napi::Value keys, Napi::Value onTurn);

 private:
  Napi::Value end(const Napi::CallbackInfo& info);
  void close();

  std::shared_ptr<Request> request_;
  Poll* poll_ = nullptr;
};

}  // namespace vfio::binding
