// The regions of a VFIO device: what they are, access through the file, and mapping.
#include <sys/mman.h>

#include <cstring>
#include <vector>

#include "../uapi/vfio.h"
#include "file.h"
#include "mapped.h"

namespace vfio::binding {
namespace {

// Calls `visit(header, offset, bytes left)` for each capability of an info buffer's chain.
template <typename Visit>
void eachCapability(const std::vector<uint8_t>& buffer, uint32_t first, Visit visit) {
  uapi::vfio_info_cap_header header;
  // Offsets must rise, as the kernel's do: so a chain that is not one can't loop.
  for (uint32_t offset = first, seen = 0; offset > seen && offset + sizeof header <= buffer.size();
       seen = offset, offset = header.next) {
    std::memcpy(&header, buffer.data() + offset, sizeof header);
    visit(header, buffer.data() + offset, buffer.size() - offset);
  }
}

Napi::Value sparseAreas(Napi::Env env, const uint8_t* capability, size_t left) {
  uapi::vfio_region_info_cap_sparse_mmap sparse{};
  if (left < sizeof sparse) return env.Null();
  std::memcpy(&sparse, capability, sizeof sparse);
  Napi::Array areas = Napi::Array::New(env);
  for (uint32_t i = 0; i < sparse.nr_areas; ++i) {
    uapi::vfio_region_sparse_mmap_area area{};
    const size_t at = sizeof sparse + i * sizeof area;
    if (left < at + sizeof area) break;
    std::memcpy(&area, capability + at, sizeof area);
    Napi::Object entry = Napi::Object::New(env);
    entry.Set("offset", Napi::BigInt::New(env, area.offset));
    entry.Set("size", Napi::BigInt::New(env, area.size));
    areas.Set(i, entry);
  }
  return areas;
}

}  // namespace

// (index) => { size, offset, readable, writable, mmapable, sparse, type, msixMappable }
Napi::Value File::regionInfo(const Napi::CallbackInfo& info) {
  const Napi::Env env = info.Env();
  const uint32_t index = Arguments(info).u32(0, "index");
  uapi::vfio_region_info region{};
  std::vector<uint8_t> buffer(sizeof region);
  for (int attempt = 0; attempt < 2; ++attempt) {
    region = {};
    region.argsz = static_cast<uint32_t>(buffer.size());
    region.index = index;
    std::memcpy(buffer.data(), &region, sizeof region);
    ioctl(env, uapi::VFIO_DEVICE_GET_REGION_INFO, "VFIO_DEVICE_GET_REGION_INFO", buffer.data());
    std::memcpy(&region, buffer.data(), sizeof region);
    if (region.argsz <= buffer.size()) break;
    buffer.resize(region.argsz);  // capabilities did not fit: ask again with the room they need
  }
  Napi::Object answer = Napi::Object::New(env);
  answer.Set("readable", (region.flags & uapi::VFIO_REGION_INFO_FLAG_READ) != 0);
  answer.Set("writable", (region.flags & uapi::VFIO_REGION_INFO_FLAG_WRITE) != 0);
  answer.Set("mmapable", (region.flags & uapi::VFIO_REGION_INFO_FLAG_MMAP) != 0);
  answer.Set("size", Napi::BigInt::New(env, region.size));
  answer.Set("offset", Napi::BigInt::New(env, region.offset));
  answer.Set("sparse", env.Null());
  answer.Set("type", env.Null());
  answer.Set("msixMappable", false);
  if (!(region.flags & uapi::VFIO_REGION_INFO_FLAG_CAPS)) return answer;
  eachCapability(buffer, region.cap_offset, [&](const auto& header, const uint8_t* at, size_t left) {
    if (header.id == uapi::VFIO_REGION_INFO_CAP_SPARSE_MMAP) {
      answer.Set("sparse", sparseAreas(env, at, left));
    } else if (header.id == uapi::VFIO_REGION_INFO_CAP_MSIX_MAPPABLE) {
      answer.Set("msixMappable", true);
    } else if (header.id == uapi::VFIO_REGION_INFO_CAP_TYPE &&
               left >= sizeof(uapi::vfio_region_info_cap_type)) {
      uapi::vfio_region_info_cap_type type{};
      std::memcpy(&type, at, sizeof type);
      Napi::Object entry = Napi::Object::New(env);
      entry.Set("type", type.type);
      entry.Set("subtype", type.subtype);
      answer.Set("type", entry);
    }
  });
  return answer;
}

// (position in the file, width) => number, or bigint at width 8
Napi::Value File::regionRead(const Napi::CallbackInfo& info) {
  const Napi::Env env = info.Env();
  const Arguments arguments(info);
  const uint64_t position = arguments.u64(0, "offset");
  const size_t width = accessWidth(arguments, 1);
  OpenFile& file = live(env);
  uint64_t value = 0;
  const int64_t result = file.backend->pread(file.fd, &value, width, position);
  if (result < 0) throwErrno(env, result, "pread");
  if (static_cast<size_t>(result) != width) throwShort(env, "read", width, result);
  return registerValue(env, width, value);
}

// (position in the file, width, value)
Napi::Value File::regionWrite(const Napi::CallbackInfo& info) {
  const Napi::Env env = info.Env();
  const Arguments arguments(info);
  const uint64_t position = arguments.u64(0, "offset");
  const size_t width = accessWidth(arguments, 1);
  const uint64_t value = registerArgument(env, arguments[2], width);
  OpenFile& file = live(env);
  const int64_t result = file.backend->pwrite(file.fd, &value, width, position);
  if (result < 0) throwErrno(env, result, "pwrite");
  if (static_cast<size_t>(result) != width) throwShort(env, "write", width, result);
  return env.Undefined();
}

// (position in the file, into: Uint8Array) => bytes read
Napi::Value File::readInto(const Napi::CallbackInfo& info) {
  const Arguments arguments(info);
  const uint64_t position = arguments.u64(0, "offset");
  const std::span<uint8_t> into = arguments.bytes(1, "into");
  OpenFile& file = live(info.Env());
  const int64_t result = file.backend->pread(file.fd, into.data(), into.size(), position);
  if (result < 0) throwErrno(info.Env(), result, "pread");
  return Napi::Number::New(info.Env(), static_cast<double>(result));
}

// (position in the file, from: Uint8Array) => bytes written
Napi::Value File::writeFrom(const Napi::CallbackInfo& info) {
  const Arguments arguments(info);
  const uint64_t position = arguments.u64(0, "offset");
  const std::span<uint8_t> from = arguments.bytes(1, "from");
  OpenFile& file = live(info.Env());
  const int64_t result = file.backend->pwrite(file.fd, from.data(), from.size(), position);
  if (result < 0) throwErrno(info.Env(), result, "pwrite");
  return Napi::Number::New(info.Env(), static_cast<double>(result));
}

// (position in the file, length, writable) => Mapped
Napi::Value File::mmap(const Napi::CallbackInfo& info) {
  const Napi::Env env = info.Env();
  const Arguments arguments(info);
  const uint64_t position = arguments.u64(0, "offset");
  const uint64_t length = arguments.u64(1, "length");
  const bool readable = arguments.boolean(2, "readable");
  const bool writable = arguments.boolean(3, "writable");
  OpenFile& file = live(env);
  const int64_t result =
      file.backend->mmap(nullptr, length, (readable ? PROT_READ : 0) | (writable ? PROT_WRITE : 0),
                         MAP_SHARED, file.fd, position);
  if (result < 0) throwErrno(env, result, "mmap");
  return Mapped::make(env,
                      std::make_shared<Mapping>(file.backend, reinterpret_cast<uint8_t*>(result), length));
}

}  // namespace vfio::binding
