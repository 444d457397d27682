#include "injected_fault.h"

#include <algorithm>
#include <array>
#include <mutex>
#include <string_view>
#include <thread>
#include <utility>
#include <vector>

#include "arguments.h"
#include "call.h"
#include "environment.h"

namespace vfio::binding {

// What a fault has struck. The fault keeps it too, and tells it from any thread; the function of JavaScript
// is called, and let go of, by its own thread only.
class InjectedFault::Log {
 public:
  struct Entry {
    const char* what;
    bool here;
  };

  Log(Napi::Env env, const Napi::Value& onStrike) : env_(env), owner_(std::this_thread::get_id()) {
    if (onStrike.IsFunction()) onStrike_ = Napi::Persistent(onStrike.As<Napi::Function>());
  }

  void add(const char* what) {
    const bool here = std::this_thread::get_id() == owner_ && !onStrike_.IsEmpty();
    {
      const std::lock_guard hold(lock_);
      if (entries_.size() == kMost) return;  // a driver that polls must not fill memory
      entries_.push_back({what, here});
    }
    if (!here) return;
    const Napi::HandleScope scope(env_);
    (void)tryCall(onStrike_.Value(), {});
  }

  [[nodiscard]] std::vector<Entry> entries() {
    const std::lock_guard hold(lock_);
    return entries_;
  }

  void close() { onStrike_.Reset(); }

 private:
  static constexpr size_t kMost = 65536;
  const Napi::Env env_;
  const std::thread::id owner_;
  Napi::FunctionReference onStrike_;
  std::mutex lock_;
  std::vector<Entry> entries_;
};

Napi::Function InjectedFault::define(Napi::Env env) {
  return DefineClass(
      env, "InjectedFault",
      {InstanceMethod<&InjectedFault::struck>("struck"), InstanceMethod<&InjectedFault::dispose>("dispose")});
}

InjectedFault::InjectedFault(const Napi::CallbackInfo& info) : ObjectWrap(info) {}

InjectedFault::~InjectedFault() { end(); }

Napi::Object InjectedFault::make(Napi::Env env, const Napi::Value& onStrike,
                                 const std::function<std::shared_ptr<void>(Struck)>& inject) {
  Napi::Object object = Environment::of(env).injectedFault.New({});
  InjectedFault* const self = Unwrap(object);
  self->log_ = std::make_shared<Log>(env, onStrike);
  self->fault_ = inject([log = self->log_](const char* what) { log->add(what); });
  return object;
}

void InjectedFault::end() {
  fault_.reset();
  if (log_) log_->close();
}

Napi::Value InjectedFault::struck(const Napi::CallbackInfo& info) {
  const Napi::Env env = info.Env();
  Napi::Array array = Napi::Array::New(env);
  for (const auto& [what, here] : log_->entries()) {
    Napi::Object entry = Napi::Object::New(env);
    entry.Set("what", what);
    entry.Set("here", here);
    array.Set(array.Length(), entry);
  }
  return array;
}

Napi::Value InjectedFault::dispose(const Napi::CallbackInfo& info) {
  end();
  return info.Env().Undefined();
}

DeviceFault::Kind deviceFaultKind(Napi::Env env, const std::string& name, const Napi::Value& given) {
  using Kind = DeviceFault::Kind;
  static constexpr std::array<std::pair<std::string_view, Kind>, 8> kKinds{{
      {"interrupt lost", Kind::interruptLost},
      {"interrupt delayed", Kind::interruptDelayed},
      {"interrupt doubled", Kind::interruptDoubled},
      {"interrupt reordered", Kind::interruptReordered},
      {"dma delayed", Kind::dmaDelayed},
      {"dma dropped", Kind::dmaDropped},
      {"dma corrupted", Kind::dmaCorrupted},
      {"page request silent", Kind::pageRequestSilent},
  }};
  const auto* const found =
      std::ranges::find_if(kKinds, [&name](const auto& each) { return each.first == name; });
  if (found == kKinds.end()) refuse(env, "the name of a fault", "what", given);
  return found->second;
}

}  // namespace vfio::binding
