// The calls of a host's handle that only a software host has, for tests: virtual time, and faults.
#include <cerrno>
#include <cmath>
#include <stdexcept>

#include "arguments.h"
#include "environment.h"
#include "host_handle.h"
#include "hosts.h"
#include "injected_fault.h"

namespace vfio::binding {
namespace {

using Milliseconds = std::chrono::duration<double, std::milli>;

// A time that a program passes, rounded to nanoseconds.
std::chrono::nanoseconds timeOf(const Arguments& arguments, size_t index, const char* name) {
  constexpr double kMost = 1e12;  // some 31 years
  const double given = arguments[index].IsNumber() ? arguments[index].As<Napi::Number>().DoubleValue() : -1;
  if (!(given >= 0 && given <= kMost))
    refuse(arguments.env(), "a number of milliseconds from 0 to 1e12", name, arguments[index]);
  return std::chrono::nanoseconds(std::llround(given * 1e6));
}

Occurrence occurrenceOf(const Arguments& arguments, size_t index) {
  Occurrence when;
  when.nth = arguments.u64(index, "nth");
  const Napi::Value probability = arguments[index + 1];
  when.probability = probability.IsNumber() ? probability.As<Napi::Number>().DoubleValue() : -1;
  if (!(when.probability >= 0 && when.probability <= 1))
    refuse(arguments.env(), "a number from 0 to 1", "probability", probability);
  return when;
}

Controls& machineOf(Napi::Env env, Controls* controls, const char* call) {
  if (controls == nullptr) throwErrno(env, EOPNOTSUPP, call);
  return *controls;
}

}  // namespace

// () => was there work? Virtual time only.
Napi::Value HostHandle::step(const Napi::CallbackInfo& info) {
  (void)live(info.Env());
  const int result = machineOf(info.Env(), controls(), "step").step();
  if (result < 0) throwErrno(info.Env(), result, "step");
  return Napi::Boolean::New(info.Env(), result != 0);
}

// (milliseconds). Virtual time only.
Napi::Value HostHandle::advance(const Napi::CallbackInfo& info) {
  (void)live(info.Env());
  const auto time = timeOf(Arguments(info), 0, "milliseconds");
  const int result = machineOf(info.Env(), controls(), "advance").advance(time);
  if (result < 0) throwErrno(info.Env(), result, "advance");
  return info.Env().Undefined();
}

// () => { time, what, device }[]: what devices have done since the last call; `time` in milliseconds
Napi::Value HostHandle::takeTrace(const Napi::CallbackInfo& info) {
  const Napi::Env env = info.Env();
  (void)live(env);
  const auto entries = machineOf(env, controls(), "takeTrace").takeTrace();
  Napi::Array array = Napi::Array::New(env, entries.size());
  for (uint32_t i = 0; i < entries.size(); ++i) {
    Napi::Object entry = Napi::Object::New(env);
    entry.Set("time", Milliseconds(entries[i].time).count());
    entry.Set("what", entries[i].what);
    entry.Set("device", entries[i].bdf);
    array.Set(i, entry);
  }
  return array;
}

// (call, errno, nth, probability, onStrike?) => InjectedFault
Napi::Value HostHandle::injectCallFault(const Napi::CallbackInfo& info) {
  const Napi::Env env = info.Env();
  const Arguments arguments(info);
  (void)live(env);
  Controls& machine = machineOf(env, controls(), "injectCallFault");
  CallFault fault{arguments.text(0, "request"), static_cast<int>(arguments.unsignedNumber(1, "errno", 4095)),
                  occurrenceOf(arguments, 2)};
  try {
    return InjectedFault::make(env, info[4], [&](Struck struck) {
      fault.struck = std::move(struck);
      return machine.injectCallFault(std::move(fault));
    });
  } catch (const std::invalid_argument& error) {
    refuseDescription(env, error);
  }
}

// (what, bdf, nth, probability, milliseconds) => InjectedFault
Napi::Value HostHandle::injectDeviceFault(const Napi::CallbackInfo& info) {
  const Napi::Env env = info.Env();
  const Arguments arguments(info);
  (void)live(env);
  Controls& machine = machineOf(env, controls(), "injectDeviceFault");
  DeviceFault fault{deviceFaultKind(env, arguments.text(0, "what"), info[0]), arguments.text(1, "device"),
                    occurrenceOf(arguments, 2), timeOf(arguments, 4, "delay")};
  return InjectedFault::make(env, env.Undefined(), [&](Struck struck) {
    fault.struck = std::move(struck);
    return machine.injectDeviceFault(std::move(fault));
  });
}

}  // namespace vfio::binding
