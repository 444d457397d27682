#include "mapped.h"

#include <bit>

#include "memory.h"

namespace vfio::binding {

static_assert(std::endian::native == std::endian::little, "PCI registers are little endian");

Napi::Function Mapped::define(Napi::Env env) {
  return DefineClass(
      env, "Mapped",
      {InstanceMethod<&Mapped::read<uint8_t>>("read8"), InstanceMethod<&Mapped::read<uint16_t>>("read16"),
       InstanceMethod<&Mapped::read<uint32_t>>("read32"), InstanceMethod<&Mapped::read<uint64_t>>("read64"),
       InstanceMethod<&Mapped::write<uint8_t>>("write8"), InstanceMethod<&Mapped::write<uint16_t>>("write16"),
       InstanceMethod<&Mapped::write<uint32_t>>("write32"),
       InstanceMethod<&Mapped::write<uint64_t>>("write64"), InstanceMethod<&Mapped::buffer>("buffer"),
       InstanceMethod<&Mapped::dispose>("dispose")});
}

Napi::Object Mapped::make(Napi::Env env, std::shared_ptr<Mapping> mapping) {
  Napi::Object object = Environment::of(env).mapped.New({});
  Unwrap(object)->mapping_ = std::move(mapping);
  return object;
}

uint8_t* Mapped::at(const Arguments& arguments, size_t width) const {
  if (!mapping_) throwDisposed(arguments.env(), "MappedRegion");
  const uint64_t offset = arguments.u64(0, "offset");
  if (offset % width != 0 || offset >= mapping_->length || width > mapping_->length - offset) {
    const std::string expected =
        "a multiple of " + std::to_string(width) + " below " + std::to_string(mapping_->length);
    refuse(arguments.env(), expected.c_str(), "offset", arguments[0]);
  }
  return mapping_->address + offset;
}

template <typename Word>
Napi::Value Mapped::read(const Napi::CallbackInfo& info) {
  uint8_t* address = at(Arguments(info), sizeof(Word));
  const auto value = mapping_->trapped
                         ? static_cast<Word>(mapping_->backend->registerRead(address, sizeof(Word)))
                         : *reinterpret_cast<const volatile Word*>(address);
  return registerValue(info.Env(), sizeof(Word), value);
}

template <typename Word>
Napi::Value Mapped::write(const Napi::CallbackInfo& info) {
  const Arguments arguments(info);
  uint8_t* address = at(arguments, sizeof(Word));
  const auto value = static_cast<Word>(registerArgument(arguments, 1, sizeof(Word)));
  if (mapping_->trapped)
    mapping_->backend->registerWrite(address, sizeof(Word), value);
  else
    *reinterpret_cast<volatile Word*>(address) = value;
  return info.Env().Undefined();
}

// () => ArrayBuffer over the registers themselves
Napi::Value Mapped::buffer(const Napi::CallbackInfo& info) {
  if (!mapping_) throwDisposed(info.Env(), "MappedRegion");
  if (mapping_->trapped)
    throwCode(info.Env(), "EOPNOTSUPP",
              "There is no ArrayBuffer over the registers of a software device: it must see each access. "
              "Use the accessor calls (read32, write32, ...)");
  return externalBuffer(info.Env(), mapping_->address, mapping_->length, mapping_);
}

Napi::Value Mapped::dispose(const Napi::CallbackInfo& info) {
  mapping_.reset();
  return info.Env().Undefined();
}

}  // namespace vfio::binding
