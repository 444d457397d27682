// A device model that is written in JavaScript. The host calls it without its lock (devices::Device::remote).
//
// Threads. The model belongs to the thread that plugged it in. A call from this thread is a plain call of its
// functions; a call from another thread waits until the event loop of the model's thread has answered it. Two
// threads that wait for models of each other would wait for ever: then the second call is not made, and
// the model is told of it (`lost`).
//
// Life: `Model` belongs to the host, as any model. It shares a `SimulatedLink` with the JavaScript port. From
// the removal of the device or the end of its host on, the port does nothing. If the JavaScript thread ends
// first, the device answers no access: loads give all ones.
#pragma once

#include <napi.h>

#include <memory>
#include <utility>

#include "../backend.h"
#include "../device_model.h"

namespace vfio::binding {

class SimulatedLink;

// A model whose functions are `handlers`:
//   read(bar, offset, width) => number | bigint | undefined (all ones); write(bar, offset, width, value:
//   number | bigint); reset(kind: devices::ResetKind); removed(); lost(what): a call that could not be made;
//   run(id): a job is due; moved(id, whole, bytes: Buffer): a transfer has ended. None of them throws: lib/
//   catches what a model does.
class SimulatedPort final : public Napi::ObjectWrap<SimulatedPort> {
 public:
  static Napi::Function define(Napi::Env env);
  explicit SimulatedPort(const Napi::CallbackInfo& info);
  ~SimulatedPort() override;

  // The port of a new model, and the function that makes the model.
  static std::pair<Napi::Object, devices::Maker> make(Napi::Env env, const Napi::Object& handlers,
                                                      std::weak_ptr<Backend> host);

 private:
  Napi::Value dmaRead(const Napi::CallbackInfo& info);   // (iova, into: Uint8Array, pasid?) => all moved?
  Napi::Value dmaWrite(const Napi::CallbackInfo& info);  // (iova, from: Uint8Array, pasid?) => all moved?
  Napi::Value peek(
      const Napi::CallbackInfo& info);  // (iova, into, pasid?) => were all bytes read, for a sanitizer?
  Napi::Value message(const Napi::CallbackInfo& info);  // (vector) => sent? not while messages are off
  Napi::Value line(const Napi::CallbackInfo& info);     // (asserted) => plugged in?
  Napi::Value end(
      const Napi::CallbackInfo& info);  // (): the thread is about to end; the model answers no more
  Napi::Value messagesEnabled(const Napi::CallbackInfo& info);  // () => boolean
  // (bar) => ArrayBuffer over the memory of the BAR, which it keeps; undefined: there is none
  Napi::Value memory(const Napi::CallbackInfo& info);
  // (id, delay in microseconds) => posted? `run` is called with the id, unless the function is reset before
  Napi::Value post(const Napi::CallbackInfo& info);
  // (id, iova, length, pasid?, execute, privileged) => begun? Then `moved` is called with the id, if the
  // device is not unplugged
  Napi::Value startRead(const Napi::CallbackInfo& info);
  // (id, iova, from: Uint8Array, pasid?, execute, privileged) => begun?
  Napi::Value startWrite(const Napi::CallbackInfo& info);
  // (): work of the model that goes on by itself begins or ends: `settle` waits for it
  Napi::Value hold(const Napi::CallbackInfo& info);
  Napi::Value release(const Napi::CallbackInfo& info);
  Napi::Value vanish(const Napi::CallbackInfo& info);  // () => was it plugged in? The device leaves the bus

  std::shared_ptr<SimulatedLink> link_;
};

}  // namespace vfio::binding
