// Shared virtual addressing of a device, and the file of a bond (native/uapi/sva.h). Only a software host has
// these calls: a kernel answers ENOTTY.
#include "../uapi/sva.h"

#include <cerrno>
#include <cstring>
#include <string>
#include <vector>

#include "file.h"
#include "records.h"
#include "replies.h"
#include "values.h"

namespace vfio::binding {
namespace {

struct StateCall {
  uapi::vfio_device_feature feature;
  uapi::vfio_device_feature_sva state;
};

struct BindCall {
  uapi::vfio_device_feature feature;
  uapi::vfio_device_feature_sva_bind bind;
};

// () => can SVA be enabled for this device?
Napi::Value svaSupported(const Napi::CallbackInfo& info, File& self) {
  StateCall call{};
  call.feature.argsz = sizeof call;
  call.feature.flags =
      uapi::VFIO_DEVICE_FEATURE_PROBE | uapi::VFIO_DEVICE_FEATURE_SET | uapi::VFIO_DEVICE_FEATURE_SVA;
  (void)self.live(info.Env());
  const int result = self.open()->ioctl(uapi::VFIO_DEVICE_FEATURE, &call);
  // A kernel without the feature answers ENOTTY, and EINVAL for a device without any feature.
  const bool none = result == -ENOTTY || result == -EINVAL;
  if (result < 0 && !none) throwErrno(info.Env(), result, "ioctl", "VFIO_DEVICE_FEATURE_SVA");
  return Napi::Boolean::New(info.Env(), !none);
}

// () => is it enabled?
Napi::Value svaEnabled(const Napi::CallbackInfo& info, File& self) {
  StateCall call{};
  call.feature.argsz = sizeof call;
  call.feature.flags = uapi::VFIO_DEVICE_FEATURE_GET | uapi::VFIO_DEVICE_FEATURE_SVA;
  self.ioctl(info.Env(), uapi::VFIO_DEVICE_FEATURE, "VFIO_DEVICE_FEATURE_SVA", &call);
  return Napi::Boolean::New(info.Env(), (call.state.flags & uapi::VFIO_SVA_ENABLED) != 0);
}

// (on)
Napi::Value svaEnable(const Napi::CallbackInfo& info, File& self) {
  StateCall call{};
  call.feature.argsz = sizeof call;
  call.feature.flags = uapi::VFIO_DEVICE_FEATURE_SET | uapi::VFIO_DEVICE_FEATURE_SVA;
  call.state.flags = Arguments(info).boolean(0, "on") ? uapi::VFIO_SVA_ENABLED : 0;
  self.ioctl(info.Env(), uapi::VFIO_DEVICE_FEATURE, "VFIO_DEVICE_FEATURE_SVA", &call);
  return info.Env().Undefined();
}

// (exclusive, pid?) => the file of the bond
Napi::Value svaBind(const Napi::CallbackInfo& info, File& self) {
  const Napi::Env env = info.Env();
  const Arguments arguments(info);
  BindCall call{};
  call.feature.argsz = sizeof call;
  call.feature.flags = uapi::VFIO_DEVICE_FEATURE_SET | uapi::VFIO_DEVICE_FEATURE_SVA_BIND;
  if (arguments.boolean(0, "exclusive")) call.bind.flags |= uapi::VFIO_SVA_BIND_EXCLUSIVE;
  if (!info[1].IsUndefined()) {
    call.bind.flags |= uapi::VFIO_SVA_BIND_PID;
    call.bind.pid = static_cast<int32_t>(arguments.unsignedNumber(1, "pid", INT32_MAX));
  }
  self.ioctl(env, uapi::VFIO_DEVICE_FEATURE, "VFIO_DEVICE_FEATURE_SVA_BIND", &call);
  if (call.bind.bond_fd < 0)
    Reply(env, "ioctl", "VFIO_DEVICE_FEATURE_SVA_BIND")
        .refuse("its descriptor is " + std::to_string(call.bind.bond_fd));
  return File::make(env, self.live(env).backend, call.bind.bond_fd, FileKind::bond);
}

// () => { exited, detached, pasid: number | null }
Napi::Value bondInfo(const Napi::CallbackInfo& info, File& self) {
  const Napi::Env env = info.Env();
  uapi::vfio_sva_bond_info command{};
  command.argsz = sizeof command;
  self.ioctl(env, uapi::VFIO_SVA_BOND_INFO, "VFIO_SVA_BOND_INFO", &command);
  Napi::Object answer = Napi::Object::New(env);
  answer.Set("exited", Napi::Boolean::New(env, (command.flags & uapi::VFIO_SVA_BOND_EXITED) != 0));
  answer.Set("detached", Napi::Boolean::New(env, (command.flags & uapi::VFIO_SVA_BOND_DETACHED) != 0));
  const bool none = command.pasid == uapi::VFIO_SVA_NO_PASID;
  answer.Set("pasid", none ? env.Null() : number(env, command.pasid));
  return answer;
}

const char* inWords(uint32_t reason) {
  switch (reason) {
    case uapi::VFIO_SVA_FAULT_NO_AREA:
      return "nothing is mapped there";
    case uapi::VFIO_SVA_FAULT_NOT_PERMITTED:
      return "the memory there does not allow the access";
    case uapi::VFIO_SVA_FAULT_EXITED:
      return "the process has ended";
    default:
      return "there is no memory behind the address, or none can be had";
  }
}

// () => the events so far: 'exit', or a fault with its reason
Napi::Value readBondEvents(const Napi::CallbackInfo& info, File& self) {
  const Napi::Env env = info.Env();
  const std::vector<uint8_t> bytes = readAll(env, self.live(env), sizeof(uapi::vfio_sva_event));
  Napi::Array events = Napi::Array::New(env);
  for (size_t at = 0; at + sizeof(uapi::vfio_sva_event) <= bytes.size(); at += sizeof(uapi::vfio_sva_event)) {
    uapi::vfio_sva_event event;
    std::memcpy(&event, bytes.data() + at, sizeof event);
    if (event.type == uapi::VFIO_SVA_EVENT_EXIT) {
      events.Set(events.Length(), Napi::String::New(env, "exit"));
      continue;
    }
    Napi::Object fault = Napi::Object::New(env);
    fault.Set("pasid", event.pasid == uapi::VFIO_SVA_NO_PASID ? env.Null() : number(env, event.pasid));
    fault.Set("address", bigint(env, event.address));
    fault.Set("group", number(env, event.group));
    fault.Set("access", accessOf(env, event.perm));
    fault.Set("reason", Napi::String::New(env, inWords(event.reason)));
    fault.Set("lost", number(env, event.lost));
    events.Set(events.Length(), fault);
  }
  return events;
}

}  // namespace

std::vector<File::Call> svaTable() {
  return {File::call<svaSupported>("svaSupported"), File::call<svaEnabled>("svaEnabled"),
          File::call<svaEnable>("svaEnable"), File::call<svaBind>("svaBind")};
}

std::vector<File::Call> bondTable() {
  return {File::call<bondInfo>("bondInfo"), File::call<readBondEvents>("readBondEvents")};
}

}  // namespace vfio::binding
