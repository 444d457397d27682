#include "stack.h"

#include <algorithm>
#include <list>

#include "call.h"

namespace vfio::binding {
namespace {

// The newest first: one for each copy of lib/ in the thread.
thread_local std::list<Napi::FunctionReference> functions;

}  // namespace

void setStackFunction(const Napi::Function& stack) {
  Napi::Env env = stack.Env();
  functions.push_front(Napi::Weak(stack));
  env.AddCleanupHook([at = functions.begin()] { functions.erase(at); });
}

std::string stackHere() {
  for (const auto& each : functions) {
    const Napi::HandleScope scope(each.Env());
    const Napi::Function stack = each.Value();
    if (stack.IsEmpty()) continue;
    const Napi::Value text(each.Env(), tryCall(stack, {}));
    if (!text.IsEmpty() && text.IsString()) return text.As<Napi::String>();
  }
  return {};
}

}  // namespace vfio::binding
