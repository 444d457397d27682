// What the addon keeps for each JavaScript environment (main thread or worker): its classes and the function
// that makes its errors. Made when the addon is loaded there, dies with the environment. There is no other
// global state than the list of live software hosts (see hosts.h), which all environments of a process share.
#pragma once

#include <napi.h>

#include "schedule.h"

namespace vfio::binding {

struct Environment {
  Napi::FunctionReference host;
  Napi::FunctionReference file;
  Napi::FunctionReference memory;
  Napi::FunctionReference space;
  Napi::FunctionReference object;
  Napi::FunctionReference mapped;
  Napi::FunctionReference
      makeError;  // (errno, syscall, request?, path?, handled?) => VfioError; lib/errors.ts
  Schedule schedule;

  static Environment& of(Napi::Env env) { return *env.GetInstanceData<Environment>(); }
};

// Throws a failed system call as a VfioError. `error` is positive or negative.
[[noreturn]] void throwErrno(Napi::Env env, int64_t error, const char* syscall, const char* request = nullptr,
                             const char* path = nullptr);

// The same for a request on several entries: `handled` of them were done.
[[noreturn]] void throwErrnoAfter(Napi::Env env, int64_t error, const char* request, uint32_t handled);

// The same as a value, for rejecting a promise.
Napi::Value makeErrno(Napi::Env env, int64_t error, const char* syscall, const char* request,
                      const char* path);

// A use of something that was disposed.
[[noreturn]] void throwDisposed(Napi::Env env, const char* what);

// An error that is not a system call's, with a code.
[[noreturn]] void throwCode(Napi::Env env, const char* code, const std::string& message);

}  // namespace vfio::binding
