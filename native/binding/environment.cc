#include "environment.h"

#include <cerrno>
#include <cstdlib>
#include <initializer_list>
#include <string>

#include "call.h"

namespace vfio::binding {
namespace {

Napi::Value textOrUndefined(Napi::Env env, const char* text) {
  return text ? Napi::Value(Napi::String::New(env, text)) : env.Undefined();
}

Napi::Value made(Napi::Env env, const Napi::Function& makeError, std::initializer_list<napi_value> words) {
  const napi_value error = tryCall(makeError, words);
  if (error == nullptr) throw Stopped{};
  return {env, error};
}

Napi::Value make(Napi::Env env, int64_t error, const char* syscall, Napi::Value request, Napi::Value path,
                 Napi::Value handled) {
  const Napi::Function makeError = Environment::of(env).makeError.Value();
  // The copy of lib/ was collected while one of its calls was running. No code is left that could notice the
  // different error.
  if (makeError.IsEmpty()) return Napi::Error::New(env, std::string(syscall) + " failed").Value();
  return made(env, makeError,
              {Napi::Number::New(env, static_cast<double>(std::llabs(error))),
               Napi::String::New(env, syscall), request, path, handled});
}

}  // namespace

Napi::Value makeErrno(Napi::Env env, int64_t error, const char* syscall, const char* request,
                      const char* path) {
  return make(env, error, syscall, textOrUndefined(env, request), textOrUndefined(env, path),
              env.Undefined());
}

void throwErrno(Napi::Env env, int64_t error, const char* syscall, const char* request, const char* path) {
  throw Napi::Error(env, makeErrno(env, error, syscall, request, path));
}

void throwErrnoAfter(Napi::Env env, int64_t error, const char* request, uint32_t handled) {
  throw Napi::Error(env, make(env, error, "ioctl", Napi::String::New(env, request), env.Undefined(),
                              Napi::Number::New(env, handled)));
}

void throwReply(Napi::Env env, const char* syscall, const char* request, const std::string& reason) {
  throw Napi::Error(env, made(env, Environment::of(env).makeError.Value(),
                              {Napi::Number::New(env, EPROTO), Napi::String::New(env, syscall),
                               textOrUndefined(env, request), env.Undefined(), env.Undefined(),
                               Napi::String::New(env, reason)}));
}

void throwCode(Napi::Env env, const char* code, const std::string& message) {
  Napi::Error error = Napi::Error::New(env, message);
  error.Set("code", code);
  throw error;
}

void throwDisposed(Napi::Env env, const char* what) {
  throwCode(env, "ERR_VFIO_DISPOSED", std::string("The ") + what + " was used after it was disposed");
}

}  // namespace vfio::binding
