// A mapped piece of a region. Each access is one load or store instruction of exactly its width, in program
// order: never split, merged, repeated, dropped or made a read-modify-write (the guarded copy is assembly and
// has one instruction for each of the four widths). If the mapping contains registers of a software device,
// the access calls its model instead. If a device does not answer, the access fails with EIO and does not
// crash the process.
//
// Life: disposing it releases the device at once. The addresses stay reserved, and read as zeroes, until
// every ArrayBuffer over them is collected. Without disposal, device and addresses are released together at
// that time.
#pragma once

#include <napi.h>

#include <memory>

#include "../backend.h"
#include "../guard/guard.h"
#include "memory.h"
#include "register_value.h"

namespace vfio::binding {

class Mapping {
 public:
  Mapping(std::shared_ptr<Backend> backend, uint8_t* address, size_t length)
      : backend(std::move(backend)),
        address(address),
        length(length),
        trapped(this->backend->trapped(address)) {
    guard::install();
    watch = guard::watchRange(reinterpret_cast<uintptr_t>(address), length, pageSize());
  }
  ~Mapping();
  Mapping(const Mapping&) = delete;
  Mapping& operator=(const Mapping&) = delete;
  const std::shared_ptr<Backend> backend;
  uint8_t* const address;
  const size_t length;
  const bool trapped;
  guard::Watch* watch = nullptr;  // null: no watch was free, so views are not possible

  // Releases the device but keeps the addresses: remaining views read zeroes.
  void retire();
};

class Mapped final : public Napi::ObjectWrap<Mapped> {
 public:
  static Napi::Function define(Napi::Env env);
  explicit Mapped(const Napi::CallbackInfo& info) : ObjectWrap(info) {}
  ~Mapped() override {
    if (slot_) slot_->mapping.reset();
  }
  // The object has its own functions read8 to write64, bound to the mapping.
  static Napi::Object make(Napi::Env env, std::shared_ptr<Mapping> mapping);

  // The state that the bound functions and the object share, so that disposing ends both.
  struct Slot {
    std::shared_ptr<Mapping> mapping;
  };

 private:
  Napi::Value buffer(const Napi::CallbackInfo& info);
  Napi::Value dispose(const Napi::CallbackInfo& info);

  std::shared_ptr<Slot> slot_;
};

}  // namespace vfio::binding
