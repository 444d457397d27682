// Changes that take several steps, each in its turn: of those that have a key in common, in all threads of
// the process, one is under way at a time, in the order in which they were asked for.
//
// Life: from its making a Turn stands in the line; it leaves by end(), or with its object or environment.
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
  // Calls onTurn() when it is its turn, once, and never before this returns. `host`: whose keys they are.
  static Napi::Object make(Napi::Env env, const void* host, Napi::Value keys, Napi::Value onTurn);

 private:
  Napi::Value end(const Napi::CallbackInfo& info);
  void close();

  std::shared_ptr<Request> request_;
  Poll* poll_ = nullptr;
};

}  // namespace vfio::binding
