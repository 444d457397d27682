// What the addon keeps for each copy of lib/ that has loaded it: its classes and the function that makes its
// errors. A thread has one copy as a rule; several where a program evaluates the package again (Jest, hot
// reload). Each loads the addon for itself (lib/addon/native.ts), and Node-API makes an environment of each
// loading: so everything that is made, called back or completed in `env` is of one copy. It dies with the
// thread's JavaScript. There is no other global state than the list of live software hosts (see hosts.h),
// which all environments of a process share.
#pragma once

#include <napi.h>

#include <map>
#include <memory>
#include <string>

#include "../backend.h"
#include "memory.h"
#include "schedule.h"

namespace vfio::binding {

struct Environment {
  Napi::FunctionReference host;
  std::map<FileKind, Napi::FunctionReference> files;  // the class of each kind
  Napi::FunctionReference memory;
  Napi::FunctionReference space;
  Napi::FunctionReference object;
  Napi::FunctionReference mapped;
  Napi::FunctionReference write;
  Napi::FunctionReference turn;
  // (errno, syscall, request?, path?, handled?, reason?) => VfioError; lib/base/errors.ts. Weak, since it
  // holds its whole copy of lib/: the copy holds it (lib/addon/native.ts), and is collected when no one uses
  // it any more.
  Napi::FunctionReference makeError;
  Schedule schedule;
  std::shared_ptr<PagesTable> pages = std::make_shared<PagesTable>();

  static Environment& of(Napi::Env env) { return *env.GetInstanceData<Environment>(); }
};

// Throws a failed system call as a VfioError. `error` is positive or negative.
[[noreturn]] void throwErrno(Napi::Env env, int64_t error, const char* syscall, const char* request = nullptr,
                             const char* path = nullptr);

// The same for a request on several entries: `handled` of them were done.
[[noreturn]] void throwErrnoAfter(Napi::Env env, int64_t error, const char* request, uint32_t handled);

// The same for an answer that can't be true: EPROTO, and `reason` says why. See replies.h.
[[noreturn]] void throwReply(Napi::Env env, const char* syscall, const char* request,
                             const std::string& reason);

// The same as a value, for rejecting a promise.
Napi::Value makeErrno(Napi::Env env, int64_t error, const char* syscall, const char* request,
                      const char* path);

// A use of something that was disposed.
[[noreturn]] void throwDisposed(Napi::Env env, const char* what);

// An error that is not a system call's, with a code.
[[noreturn]] void throwCode(Napi::Env env, const char* code, const std::string& message);

}  // namespace vfio::binding
