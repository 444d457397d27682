#include "host_handle.h"

#include <fcntl.h>

#include <cerrno>
#include <stdexcept>

#include "async.h"
#include "file.h"
#include "hosts.h"
#include "kinds.h"
#include "memory.h"
#include "model_work.h"
#include "replies.h"
#include "simulated_device.h"
#include "turn.h"
#include "write.h"

namespace vfio::binding {
namespace {

int64_t writeFile(Backend& backend, const std::string& path, const std::string& text) {
  const int fd = backend.open(path.c_str(), O_WRONLY);
  if (fd < 0) return fd;
  const int64_t result = backend.write(fd, text.data(), text.size());
  backend.close(fd);
  return result;
}

std::unique_ptr<LateCall> makeCall(Napi::Env env) {
  std::unique_ptr<LateCall> made;
  if (const int failed = LateCall::make(made)) throwErrno(env, failed, "pipe2");
  return made;
}

Napi::Array numbers(Napi::Env env, const std::vector<int>& from) {
  Napi::Array array = Napi::Array::New(env, from.size());
  for (uint32_t i = 0; i < from.size(); ++i) array.Set(i, from[i]);
  return array;
}

Napi::Object faultOf(Napi::Env env, const DmaFault& fault) {
  Napi::Object entry = Napi::Object::New(env);
  entry.Set("bdf", fault.bdf);
  entry.Set("iova", Napi::BigInt::New(env, fault.iova));
  entry.Set("length", Napi::BigInt::New(env, fault.length));
  entry.Set("write", fault.write);
  entry.Set("reason", fault.reason);
  return entry;
}

}  // namespace

Napi::Function HostHandle::define(Napi::Env env) {
  return DefineClass(env, "Host",
                     {InstanceMethod<&HostHandle::held<&HostHandle::open>>("open"),
                      InstanceMethod<&HostHandle::held<&HostHandle::adoptOwn>>("adopt"),
                      InstanceMethod<&HostHandle::held<&HostHandle::release>>("release"),
                      InstanceMethod<&HostHandle::held<&HostHandle::readText>>("readText"),
                      InstanceMethod<&HostHandle::held<&HostHandle::readTextWithin>>("readTextWithin"),
                      InstanceMethod<&HostHandle::held<&HostHandle::writeText>>("writeText"),
                      InstanceMethod<&HostHandle::held<&HostHandle::write>>("write"),
                      InstanceMethod<&HostHandle::held<&HostHandle::turn>>("turn"),
                      InstanceMethod<&HostHandle::held<&HostHandle::share>>("share"),
                      InstanceMethod<&HostHandle::held<&HostHandle::has>>("has"),
                      InstanceMethod<&HostHandle::held<&HostHandle::readlink>>("readlink"),
                      InstanceMethod<&HostHandle::held<&HostHandle::list>>("list"),
                      InstanceMethod<&HostHandle::held<&HostHandle::dmaOwner>>("dmaOwner"),
                      InstanceMethod<&HostHandle::held<&HostHandle::addDevice>>("addDevice"),
                      InstanceMethod<&HostHandle::held<&HostHandle::plugSimulated>>("plugSimulated"),
                      InstanceMethod<&HostHandle::held<&HostHandle::removeDevice>>("removeDevice"),
                      InstanceMethod<&HostHandle::held<&HostHandle::life>>("life"),
                      InstanceMethod<&HostHandle::held<&HostHandle::bindDriver>>("bindDriver"),
                      InstanceMethod<&HostHandle::held<&HostHandle::ownership>>("ownership"),
                      InstanceMethod<&HostHandle::held<&HostHandle::own>>("own"),
                      InstanceMethod<&HostHandle::held<&HostHandle::user>>("user"),
                      InstanceMethod<&HostHandle::held<&HostHandle::become>>("become"),
                      InstanceMethod<&HostHandle::held<&HostHandle::openers>>("openers"),
                      InstanceMethod<&HostHandle::held<&HostHandle::descriptors>>("descriptors"),
                      InstanceMethod<&HostHandle::held<&HostHandle::claimed>>("claimed"),
                      InstanceMethod<&HostHandle::held<&HostHandle::takeFaults>>("takeFaults"),
                      InstanceMethod<&HostHandle::held<&HostHandle::watch>>("watch"),
                      InstanceMethod<&HostHandle::held<&HostHandle::takeIncidents>>("takeIncidents"),
                      InstanceMethod<&HostHandle::held<&HostHandle::forbidDma>>("forbidDma"),
                      InstanceMethod<&HostHandle::held<&HostHandle::settle>>("settle"),
                      InstanceMethod<&HostHandle::held<&HostHandle::modelWork>>("modelWork"),
                      InstanceMethod<&HostHandle::held<&HostHandle::step>>("step"),
                      InstanceMethod<&HostHandle::held<&HostHandle::advance>>("advance"),
                      InstanceMethod<&HostHandle::held<&HostHandle::takeTrace>>("takeTrace"),
                      InstanceMethod<&HostHandle::held<&HostHandle::injectCallFault>>("injectCallFault"),
                      InstanceMethod<&HostHandle::held<&HostHandle::injectDeviceFault>>("injectDeviceFault"),
                      InstanceMethod<&HostHandle::held<&HostHandle::dispose>>("dispose")});
}

HostHandle::HostHandle(const Napi::CallbackInfo& info) : ObjectWrap(info) {
  if (info.Length() == 0) return;
  const Arguments arguments(info);
  const std::string kind = arguments.text(0, "backend");
  if (kind == "kernel") {
    backend_ = kernel();
  } else if (kind == "software") {
    backend_ = makeSoftwareHost(arguments, 1);
  } else {
    refuse(info.Env(), "'kernel' or 'software'", "backend", info[0]);
  }
}

Napi::Value HostHandle::adopt(const Napi::CallbackInfo& info) {
  return binding::adopt(Arguments(info), nullptr);
}

Napi::Value HostHandle::adoptOwn(const Napi::CallbackInfo& info) {
  (void)live(info.Env());
  return binding::adopt(Arguments(info), backend_);
}

// (path, kind, checked) => File, open for reading and writing. `kind`: the expected kind of file. `checked`:
// the program gave the path, so the file's kind must be checked.
Napi::Value HostHandle::open(const Napi::CallbackInfo& info) {
  const Arguments arguments(info);
  const std::string path = arguments.text(0, "path");
  const FileKind kind = kindArgument(arguments, 1);
  Fresh fresh{live(info.Env()), live(info.Env()).open(path.c_str(), O_RDWR | O_CLOEXEC)};
  if (fresh.fd < 0) throwErrno(info.Env(), fresh.fd, "open", nullptr, path.c_str());
  if (arguments.boolean(2, "checked"))
    requireKind(info.Env(), fresh.backend, fresh.fd, kind, "the path of", "path", "'" + path + "'");
  return File::make(info.Env(), backend_, fresh.release(), kind);
}

// () => the kernel's release, or the release that a software host imitates
Napi::Value HostHandle::release(const Napi::CallbackInfo& info) {
  return Napi::String::New(info.Env(), live(info.Env()).release());
}

// (path) => string, or null when there is no such file.
Napi::Value HostHandle::readText(const Napi::CallbackInfo& info) {
  const std::string path = Arguments(info).text(0, "path");
  std::string text;
  const int64_t result = live(info.Env()).readText(path.c_str(), text);
  if (result == -ENOENT) return info.Env().Null();
  if (result < 0) throwErrno(info.Env(), result, "read", nullptr, path.c_str());
  return Napi::String::New(info.Env(), text);
}

// (path, milliseconds) => string, or null when there is no such file. For attributes whose read waits for the
// device's lock, which others hold while they change the device: -ETIMEDOUT after that time. A host with
// controls is a software one, whose calls never wait.
Napi::Value HostHandle::readTextWithin(const Napi::CallbackInfo& info) {
  if (controls() || !callsMayWait()) return readText(info);
  const Arguments arguments(info);
  (void)live(info.Env());
  const std::string path = arguments.text(0, "path");
  const std::unique_ptr<LateCall> read = makeCall(info.Env());
  if (const int failed = read->read(path)) throwErrno(info.Env(), failed, "clone");
  const int64_t result =
      read->wait(static_cast<int>(arguments.u32(1, "milliseconds"))) ? read->result() : -ETIMEDOUT;
  if (result == -ENOENT) return info.Env().Null();
  if (result < 0) throwErrno(info.Env(), result, "read", nullptr, path.c_str());
  return Napi::String::New(info.Env(), read->text());
}

// (path, text)
Napi::Value HostHandle::writeText(const Napi::CallbackInfo& info) {
  const Arguments arguments(info);
  const std::string path = arguments.text(0, "path");
  const int64_t result = writeFile(live(info.Env()), path, arguments.text(1, "text"));
  if (result < 0) throwErrno(info.Env(), result, "write", nullptr, path.c_str());
  return info.Env().Undefined();
}

// (path, text, onOver: (bytes or -errno) => void) => Write. A write to `unbind` waits until nobody has the
// device open, so it never runs on the event loop or on a thread of this process. The errno is returned as a
// value, because its meaning depends on the file.
Napi::Value HostHandle::write(const Napi::CallbackInfo& info) {
  const Arguments arguments(info);
  Backend& backend = live(info.Env());
  const std::string path = arguments.text(0, "path"), text = arguments.text(1, "text");
  const std::shared_ptr<LateCall> write = makeCall(info.Env());
  Napi::Object object = Write::make(info.Env(), write, info[2]);
  if (controls() || !callsMayWait()) {
    write->over(writeFile(backend, path, text));
  } else if (const int failed = write->write(path, text)) {
    Write::abandon(object);
    throwErrno(info.Env(), failed, "clone");
  }
  return object;
}

// (keys, onTurn: () => void) => Turn
Napi::Value HostHandle::turn(const Napi::CallbackInfo& info) {
  return Turn::make(info.Env(), &live(info.Env()), info[0], info[1]);
}

// () => Host: a second handle of the same host, disposed separately
Napi::Value HostHandle::share(const Napi::CallbackInfo& info) {
  (void)live(info.Env());
  Napi::Object object = Environment::of(info.Env()).host.New({});
  HostHandle* const shared = Unwrap(object);
  shared->backend_ = backend_;
  return object;
}

// (file) => does the file belong to this host? False if the file was disposed.
Napi::Value HostHandle::has(const Napi::CallbackInfo& info) {
  const File* file = File::from(info[0]);
  if (!file) refuse(info.Env(), "a File", "file", info[0]);
  return Napi::Boolean::New(info.Env(), file->open() && file->open()->backend.get() == &live(info.Env()));
}

// (path) => target, or null when there is no such link
Napi::Value HostHandle::readlink(const Napi::CallbackInfo& info) {
  const std::string path = Arguments(info).text(0, "path");
  char target[4096];
  const int64_t size = live(info.Env()).readlink(path.c_str(), target, sizeof target);
  if (size == -ENOENT || size == -EINVAL) return info.Env().Null();
  if (size < 0) throwErrno(info.Env(), size, "readlink", nullptr, path.c_str());
  return Napi::String::New(info.Env(), target,
                           Reply(info.Env(), "readlink", nullptr).moved(size, sizeof target));
}

// (path) => names, or null when there is no such directory
Napi::Value HostHandle::list(const Napi::CallbackInfo& info) {
  const std::string path = Arguments(info).text(0, "path");
  std::vector<std::string> names;
  const int result = live(info.Env()).list(path.c_str(), names);
  if (result == -ENOENT) return info.Env().Null();
  if (result < 0) throwErrno(info.Env(), result, "getdents64", nullptr, path.c_str());
  Napi::Array array = Napi::Array::New(info.Env(), names.size());
  for (uint32_t i = 0; i < names.size(); ++i) array.Set(i, names[i]);
  return array;
}

// (group) => { owner, count, fd }, or null if the host does not report it
Napi::Value HostHandle::dmaOwner(const Napi::CallbackInfo& info) {
  const Napi::Env env = info.Env();
  DmaOwner owner;
  const int failed = live(env).dmaOwner(static_cast<int>(Arguments(info).u32(0, "group")), owner);
  if (failed == -EOPNOTSUPP) return env.Null();
  if (failed != 0) throwErrno(env, failed, "open");
  Napi::Object result = Napi::Object::New(env);
  result.Set("owner", owner.kind == DmaOwner::Kind::user     ? "user"
                      : owner.kind == DmaOwner::Kind::kernel ? "kernel"
                                                             : "none");
  result.Set("count", owner.count);
  result.Set("fd", owner.fd < 0 ? env.Null() : Napi::Number::New(env, owner.fd));
  return result;
}

// (device as JSON): plugs it in. These three are for a software host only.
Napi::Value HostHandle::addDevice(const Napi::CallbackInfo& info) {
  (void)live(info.Env());
  try {
    if (Controls* const machine = controls()) machine->addDevice(Arguments(info).text(0, "device"), {});
  } catch (const std::invalid_argument& error) {
    refuseDescription(info.Env(), error);
  }
  return info.Env().Undefined();
}

// (device, handlers) => SimulatedPort: plugs in a device whose model is in JavaScript
Napi::Value HostHandle::plugSimulated(const Napi::CallbackInfo& info) {
  const Napi::Env env = info.Env();
  (void)live(env);
  Controls* const machine = controls();
  if (machine == nullptr) throwErrno(env, EOPNOTSUPP, "write", nullptr, "/sys/bus/pci/rescan");
  if (!info[1].IsObject()) refuse(env, "an object of functions", "handlers", info[1]);
  try {
    const auto [port, maker] = SimulatedPort::make(env, info[1].As<Napi::Object>(), backend_);
    machine->addDevice(Arguments(info).text(0, "device"), maker);
    return port;
  } catch (const std::invalid_argument& error) {
    refuseDescription(env, error);
  }
}

// (bdf, life) => 0 or -errno. -EBUSY: it cannot be removed yet. -ENODEV: there is no such device, or another
// device has the address by now.
Napi::Value HostHandle::removeDevice(const Napi::CallbackInfo& info) {
  const Arguments arguments(info);
  (void)live(info.Env());
  Controls* const machine = controls();
  const int result =
      machine ? machine->removeDevice(arguments.text(0, "bdf"), arguments.u64(1, "life")) : -EOPNOTSUPP;
  return Napi::Number::New(info.Env(), result);
}

// (bdf) => which device has the address now, or 0n
Napi::Value HostHandle::life(const Napi::CallbackInfo& info) {
  const std::string bdf = Arguments(info).text(0, "bdf");
  return Napi::BigInt::New(info.Env(), live(info.Env()).life(bdf));
}

// (bdf, driver) => 0 or -errno
Napi::Value HostHandle::bindDriver(const Napi::CallbackInfo& info) {
  const Arguments arguments(info);
  (void)live(info.Env());
  Controls* const machine = controls();
  const int result = machine ? machine->bindDriver(arguments.text(0, "bdf"), arguments.text(1, "driver"),
                                                   arguments.boolean(2, "exclusive"))
                             : -EOPNOTSUPP;
  return Napi::Number::New(info.Env(), result);
}

// (path) => { mode, uid, gid }, or null when there is no such file
Napi::Value HostHandle::ownership(const Napi::CallbackInfo& info) {
  const std::string path = Arguments(info).text(0, "path");
  Ownership owned;
  const int result = live(info.Env()).ownership(path.c_str(), owned);
  if (result == -ENOENT) return info.Env().Null();
  if (result < 0) throwErrno(info.Env(), result, "stat", nullptr, path.c_str());
  Napi::Object object = Napi::Object::New(info.Env());
  object.Set("mode", owned.mode);
  object.Set("uid", owned.uid);
  object.Set("gid", owned.gid);
  return object;
}

// (path, uid, mode)
Napi::Value HostHandle::own(const Napi::CallbackInfo& info) {
  const Arguments arguments(info);
  const std::string path = arguments.text(0, "path");
  const int result = live(info.Env()).own(path.c_str(), arguments.u32(1, "uid"), arguments.u32(2, "mode"));
  if (result < 0) throwErrno(info.Env(), result, "chown", nullptr, path.c_str());
  return info.Env().Undefined();
}

// () => the uid that permissions are checked against
Napi::Value HostHandle::user(const Napi::CallbackInfo& info) {
  return Napi::Number::New(info.Env(), live(info.Env()).user());
}

// (uid): from now on the program runs as this user. Software host only.
Napi::Value HostHandle::become(const Napi::CallbackInfo& info) {
  const uint32_t uid = Arguments(info).u32(0, "uid");
  if (Controls* const machine = controls()) machine->become(uid);
  return info.Env().Undefined();
}

// (path) => pids
Napi::Value HostHandle::openers(const Napi::CallbackInfo& info) {
  const std::string path = Arguments(info).text(0, "path");
  std::vector<int> pids;
  const int result = live(info.Env()).openers(path.c_str(), pids);
  if (result < 0) throwErrno(info.Env(), result, "getdents64", nullptr, path.c_str());
  return numbers(info.Env(), pids);
}

// (path) => descriptors of this process that are open on it
Napi::Value HostHandle::descriptors(const Napi::CallbackInfo& info) {
  const std::string path = Arguments(info).text(0, "path");
  std::vector<int> fds;
  const int result = live(info.Env()).descriptors(path.c_str(), fds);
  if (result < 0) throwErrno(info.Env(), result, "getdents64", nullptr, path.c_str());
  return numbers(info.Env(), fds);
}

// (path) => does the kernel or a program hold the disk exclusively? Then an exclusive open fails. If the open
// fails for another reason, nothing is known, and the answer is no. Opens without blocking: a drive without a
// medium stays as it is.
Napi::Value HostHandle::claimed(const Napi::CallbackInfo& info) {
  const std::string path = Arguments(info).text(0, "path");
  Backend& backend = live(info.Env());
  const int fd = backend.open(path.c_str(), O_RDONLY | O_EXCL | O_NONBLOCK);
  if (fd >= 0) backend.close(fd);
  return Napi::Boolean::New(info.Env(), fd == -EBUSY);
}

// () => { bdf, iova, length, write, reason }[]: the faults since the last call. Software host only.
Napi::Value HostHandle::takeFaults(const Napi::CallbackInfo& info) {
  const Napi::Env env = info.Env();
  Napi::Array array = Napi::Array::New(env);
  Controls* const machine = controls();
  if (!machine) return array;
  for (const DmaFault& fault : machine->takeFaults()) array.Set(array.Length(), faultOf(env, fault));
  return array;
}

// (): from now on incidents are kept. These three are for a software host only.
Napi::Value HostHandle::watch(const Napi::CallbackInfo& info) {
  (void)live(info.Env());
  if (Controls* const machine = controls()) machine->watch();
  return info.Env().Undefined();
}

// () => { incidents: { kind, bdf, iova, length, write, reason, pasid, time }[], lost }: since the last call
Napi::Value HostHandle::takeIncidents(const Napi::CallbackInfo& info) {
  const Napi::Env env = info.Env();
  (void)live(env);
  Napi::Array array = Napi::Array::New(env);
  uint64_t lost = 0;
  if (Controls* const machine = controls()) {
    for (const Incident& incident : machine->takeIncidents(lost)) {
      Napi::Object entry = faultOf(env, incident.fault);
      entry.Set("kind", incident.kind);
      entry.Set("pasid", incident.pasid ? Napi::Number::New(env, *incident.pasid) : env.Null());
      entry.Set("time", Napi::BigInt::New(env, incident.time));
      array.Set(array.Length(), entry);
    }
  }
  Napi::Object result = Napi::Object::New(env);
  result.Set("incidents", array);
  result.Set("lost", Napi::Number::New(env, static_cast<double>(lost)));
  return result;
}

// (address, length): DMA to this memory is an incident from now on; with length 0, no more
Napi::Value HostHandle::forbidDma(const Napi::CallbackInfo& info) {
  const Arguments arguments(info);
  (void)live(info.Env());
  if (Controls* const machine = controls())
    machine->forbidDma(arguments.u64(0, "address"), arguments.u64(1, "length"));
  return info.Env().Undefined();
}

// () => Promise<void>: resolves when the engine has no work left. Software host only: real devices cannot be
// asked.
Napi::Value HostHandle::settle(const Napi::CallbackInfo& info) {
  (void)live(info.Env());
  return AsyncCall::start(
      info.Env(), {"settle", nullptr},
      [backend = backend_]() -> int64_t {
        if (Controls* const machine = backend ? backend->controls() : nullptr) machine->settle();
        return 0;
      },
      [](Napi::Env env, int64_t) { return env.Undefined(); });
}

// () => { left, ended }: the work of models in JavaScript
Napi::Value HostHandle::modelWork(const Napi::CallbackInfo& info) {
  (void)live(info.Env());
  const auto count = ModelWork::of(backend_)->count();
  Napi::Object result = Napi::Object::New(info.Env());
  result.Set("left", static_cast<double>(count.left));
  result.Set("ended", static_cast<double>(count.ended));
  return result;
}

Backend& HostHandle::live(Napi::Env env) const {
  if (!backend_) throwDisposed(env, "Host");
  return *backend_;
}

// A software host stays alive until all files that are open on it are closed.
Napi::Value HostHandle::dispose(const Napi::CallbackInfo& info) {
  backend_.reset();
  return info.Env().Undefined();
}

}  // namespace vfio::binding
