// The addon's data for each copy of lib/ that has loaded it: its classes and the function that creates its
// errors. Usually a thread has one copy. It has several if a program evaluates the package again (Jest, hot
// reload). Each copy loads the addon separately (lib/addon/native.ts), and Node-API creates one environment
// for each load. So every object, callback and completion in `env` belongs to one copy. The data is deleted
// when the thread's JavaScript ends. There is no other global state than the list of live software hosts (see
// hosts.h), which all environments of a process share.
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
  Napi::FunctionReference simulatedPort;
  Napi::FunctionReference injectedFault;
  // (errno, syscall, request?, path?, handled?, reason?) => VfioError; lib/base/errors.ts. The reference is
  // weak, because the function keeps its whole copy of lib/ alive. The copy keeps the function
  // (lib/addon/native.ts), and both are collected when nothing uses the copy any more.
  Napi::FunctionReference makeError;
  // Where the last map of this thread put its memory: one number in memory that lib/ reads as a bigint. It
  // costs less than any value that a call returns.
  Napi::Reference<Napi::ArrayBuffer> placeMemory;
  uint64_t* place = nullptr;
  Schedule schedule;
  std::shared_ptr<PagesTable> pages = std::make_shared<PagesTable>();

  static Environment& of(Napi::Env env) { return *env.GetInstanceData<Environment>(); }
};

// Throws a failed system call as a VfioError. `error` is positive or negative.
[[noreturn]] void throwErrno(Napi::Env env, int64_t error, const char* syscall, const char* request = nullptr,
                             const char* path = nullptr);

// The same for a request with several entries: the kernel handled `handled` of them.
[[noreturn]] void throwErrnoAfter(Napi::Env env, int64_t error, const char* request, uint32_t handled);

// The same for an answer that cannot be true: EPROTO, with the cause in `reason`. See replies.h.
[[noreturn]] void throwReply(Napi::Env env, const char* syscall, const char* request,
                             const std::string& reason);

// The same, but returns the error, to reject a promise with it.
Napi::Value makeErrno(Napi::Env env, int64_t error, const char* syscall, const char* request,
                      const char* path);

// Throws the error for the use of a disposed object.
[[noreturn]] void throwDisposed(Napi::Env env, const char* what);

// Throws an error that comes from no system call, with a code.
[[noreturn]] void throwCode(Napi::Env env, const char* code, const std::string& message);

}  // namespace vfio::binding
