#include "mapped.h"

#include <sys/mman.h>

#include <bit>
#include <cerrno>
#include <utility>

#include "bound.h"
#include "memory.h"

namespace vfio::binding {

static_assert(std::endian::native == std::endian::little, "PCI registers are little endian");

Mapping::~Mapping() {
  guard::unwatchRange(watch);
  backend->munmap(address, length);
}

void Mapping::retire() {
  (void)backend->mmap(address, length, PROT_READ | PROT_WRITE,
                      MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED, -1, 0);
}

namespace {

uint8_t* at(Napi::Env env, napi_value argument, const Mapped::Slot& slot, size_t width) {
  if (!slot.mapping) throwDisposed(env, "MappedRegion");
  const Mapping& mapping = *slot.mapping;
  const uint64_t offset = u64Of(env, argument, "offset");
  if (offset % width != 0 || offset >= mapping.length || width > mapping.length - offset) {
    const std::string expected =
        "a multiple of " + std::to_string(width) + " below " + std::to_string(mapping.length);
    refuse(env, expected.c_str(), "offset", Napi::Value(env, argument));
  }
  return mapping.address + offset;
}

// A trapped access holds the mapping: the device's model, if it is in JavaScript, can dispose it.
//
// (offset) => number, or bigint at 64 bits
template <typename Word>
napi_value read(Napi::Env env, const napi_value* arguments, Mapped::Slot& slot) {
  const uint8_t* address = at(env, arguments[0], slot, sizeof(Word));
  uint64_t value = 0;
  const bool answered =
      slot.mapping->trapped
          ? std::shared_ptr(slot.mapping)->backend->registerRead(address, sizeof(Word), value) == 0
          : !guard::replaced(slot.mapping->watch) && guard::load(address, sizeof(Word), value);
  if (!answered) throwErrno(env, EIO, "load");
  return registerValue(env, sizeof(Word), value);
}

// (offset, value)
template <typename Word>
napi_value write(Napi::Env env, const napi_value* arguments, Mapped::Slot& slot) {
  uint8_t* address = at(env, arguments[0], slot, sizeof(Word));
  const uint64_t value = registerArgument(env, arguments[1], sizeof(Word));
  const bool answered =
      slot.mapping->trapped
          ? std::shared_ptr(slot.mapping)->backend->registerWrite(address, sizeof(Word), value) == 0
          : !guard::replaced(slot.mapping->watch) && guard::store(address, sizeof(Word), value);
  if (!answered) throwErrno(env, EIO, "store");
  return nullptr;
}

}  // namespace

Napi::Function Mapped::define(Napi::Env env) {
  return DefineClass(
      env, "Mapped",
      {InstanceMethod<&Mapped::buffer>("buffer"), InstanceMethod<&Mapped::dispose>("dispose")});
}

Napi::Object Mapped::make(Napi::Env env, std::shared_ptr<Mapping> mapping) {
  Napi::Object object = Environment::of(env).mapped.New({});
  object.Set("trapped", mapping->trapped);
  auto slot = std::make_shared<Slot>(Slot{std::move(mapping)});
  Unwrap(object)->slot_ = slot;
  object.Set("read8", bind<Slot, read<uint8_t>>(env, "read8", slot));
  object.Set("read16", bind<Slot, read<uint16_t>>(env, "read16", slot));
  object.Set("read32", bind<Slot, read<uint32_t>>(env, "read32", slot));
  object.Set("read64", bind<Slot, read<uint64_t>>(env, "read64", slot));
  object.Set("write8", bind<Slot, write<uint8_t>>(env, "write8", slot));
  object.Set("write16", bind<Slot, write<uint16_t>>(env, "write16", slot));
  object.Set("write32", bind<Slot, write<uint32_t>>(env, "write32", slot));
  object.Set("write64", bind<Slot, write<uint64_t>>(env, "write64", slot));
  return object;
}

// () => ArrayBuffer over the registers themselves
Napi::Value Mapped::buffer(const Napi::CallbackInfo& info) {
  if (!slot_ || !slot_->mapping) throwDisposed(info.Env(), "MappedRegion");
  const auto& mapping = slot_->mapping;
  if (mapping->trapped)
    throwCode(info.Env(), "EOPNOTSUPP",
              "There is no ArrayBuffer over the registers of a software device: it must see each access. "
              "Use the accessor calls (read32, write32, ...)");
  if (!mapping->watch) throwCode(info.Env(), "ENOSPC", "More than 4096 mappings have views already");
  return externalBuffer(info.Env(), mapping->address, mapping->length, mapping,
                        [mapping] { mapping->retire(); });
}

Napi::Value Mapped::dispose(const Napi::CallbackInfo& info) {
  // Taken out first: the end of the mapping may reset the device, whose model may dispose this once more.
  if (const auto mapping = slot_ ? std::exchange(slot_->mapping, nullptr) : nullptr) mapping->retire();
  return info.Env().Undefined();
}

}  // namespace vfio::binding
