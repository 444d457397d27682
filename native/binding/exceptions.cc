#include "exceptions.h"

#include <napi.h>

#include <cerrno>
#include <exception>
#include <new>
#include <string>
#include <system_error>

#include "call.h"
#include "environment.h"

namespace vfio::binding {
namespace {

// The name of the call that the error was created with. The error's text is this name and the words for the
// errno. If a thread cannot be created, the text has no name.
std::string callOf(const std::system_error& error) {
  const std::string text = error.what();
  const size_t end = text.find(": ");
  return end == std::string::npos ? "pthread_create" : text.substr(0, end);
}

}  // namespace

void throwHandled(napi_env raw) noexcept {
  const Napi::Env env(raw);
  try {
    try {
      throw;
    } catch (const Napi::Error& error) {
      error.ThrowAsJavaScriptException();
    } catch (const Stopped&) {
      // No exception: the JavaScript ends at this call.
    } catch (const std::bad_alloc&) {
      Napi::Error(env, makeErrno(env, ENOMEM, "malloc", nullptr, nullptr)).ThrowAsJavaScriptException();
    } catch (const std::system_error& error) {
      const std::string call = callOf(error);
      Napi::Error(env, makeErrno(env, error.code().value(), call.c_str(), nullptr, nullptr))
          .ThrowAsJavaScriptException();
    } catch (const std::exception& error) {
      Napi::Error::New(env, error.what()).ThrowAsJavaScriptException();
    }
  } catch (const Stopped&) {
    // As above.
  } catch (...) {
    // Not even an error object could be created, or an exception is already pending.
    napi_throw_error(raw, "ENOMEM", "ENOMEM: there is no memory for the error that was to be told");
  }
}

}  // namespace vfio::binding
