// A mapped piece of a region. Each access is one load or store instruction of exactly its width, in program
// order: never split, merged, repeated, dropped or made a read-modify-write. Where the mapping is a software
// device's registers, the access goes to its model instead.
//
// The pages stay mapped until the Mapped object is disposed or collected and every ArrayBuffer over it is
// too.
#pragma once

#include <napi.h>

#include <memory>

#include "../backend.h"
#include "register_value.h"

namespace vfio::binding {

class Mapping {
 public:
  Mapping(std::shared_ptr<Backend> backend, uint8_t* address, size_t length)
      : backend(std::move(backend)),
        address(address),
        length(length),
        trapped(this->backend->trapped(address)) {}
  ~Mapping() { backend->munmap(address, length); }
  Mapping(const Mapping&) = delete;
  Mapping& operator=(const Mapping&) = delete;
  const std::shared_ptr<Backend> backend;
  uint8_t* const address;
  const size_t length;
  const bool trapped;
};

class Mapped final : public Napi::ObjectWrap<Mapped> {
 public:
  static Napi::Function define(Napi::Env env);
  explicit Mapped(const Napi::CallbackInfo& info) : ObjectWrap(info) {}
  static Napi::Object make(Napi::Env env, std::shared_ptr<Mapping> mapping);

 private:
  template <typename Word>
  Napi::Value read(const Napi::CallbackInfo& info);
  template <typename Word>
  Napi::Value write(const Napi::CallbackInfo& info);
  Napi::Value buffer(const Napi::CallbackInfo& info);
  Napi::Value dispose(const Napi::CallbackInfo& info);
  uint8_t* at(const Arguments& arguments, size_t width) const;

  std::shared_ptr<Mapping> mapping_;
};

}  // namespace vfio::binding
