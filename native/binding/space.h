// The JavaScript handle of a share in an address space (native/ledger/space_handle.h), with the calls that
// map and unmap. A container's mappings use the same ledger: container.cc.
#pragma once

#include <napi.h>

#include <memory>

#include "../ledger/space_handle.h"
#include "arguments.h"
#include "memory.h"

namespace vfio::binding {

class Space final : public Napi::ObjectWrap<Space> {
 public:
  static Napi::Function define(Napi::Env env);
  explicit Space(const Napi::CallbackInfo& info);
  ~Space() override;
  static Napi::Object make(Napi::Env env, std::shared_ptr<ledger::SpaceHandle> handle);

 private:
  Napi::Value id(const Napi::CallbackInfo& info);
  Napi::Value ended(const Napi::CallbackInfo& info);
  Napi::Value calls(const Napi::CallbackInfo& info);
  Napi::Value mapAsync(const Napi::CallbackInfo& info);
  Napi::Value copy(const Napi::CallbackInfo& info);
  Napi::Value mapFile(const Napi::CallbackInfo& info);
  Napi::Value unmapMapping(const Napi::CallbackInfo& info);
  Napi::Value holds(const Napi::CallbackInfo& info);
  Napi::Value mappings(const Napi::CallbackInfo& info);
  Napi::Value dispose(const Napi::CallbackInfo& info);
  [[nodiscard]] const std::shared_ptr<ledger::SpaceHandle>& live(const Napi::CallbackInfo& info) const;

  std::shared_ptr<ledger::SpaceHandle> handle_;
};

// The JavaScript arguments of the calls that map: (memory, access, mapping, iova?, offset?, length?).
// `access`: 1 the device may read, 2 it may write. `mapping`: its number, which never changes. Without offset
// and length, all of the memory is mapped.
struct MapArguments {
  MapArguments(Napi::Env env, const PagesTable& memory, const napi_value* arguments);
  ledger::Space::Wanted wanted;
  uint64_t address;
  uint64_t access;
};

}  // namespace vfio::binding
