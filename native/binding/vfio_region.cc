// The regions of a VFIO device: information, access through the file, and mapping.
#include <sys/mman.h>
#include <algorithm>
#include <vector>

#include <cstdint>
#include <span>

#include "../uapi/vfio.h"
#include "file.h"
#include "mapped.h"
#include "replies.h"

namespace vfio::binding {
namespace {

Napi::Value sparseAreas(Napi::Env env, const Reply& reply, std::span<const uint8_t> bytes,
                        uint64_t regionSize) {
  const auto sparse = structAt<uapi::vfio_region_info_cap_sparse_mmap>(reply, bytes, "its list of areas");
  Napi::Array areas = Napi::Array::New(env);
  for (const auto& area :
       entriesOf<uapi::vfio_region_sparse_mmap_area>(reply, bytes, sizeof sparse, sparse.nr_areas, "areas")) {
    if (area.offset > regionSize || area.size > regionSize - area.offset)
      reply.refuse("it tells of an area that is not in the region");
    Napi::Object entry = Napi::Object::New(env);
    entry.Set("offset", Napi::BigInt::New(env, area.offset));
    entry.Set("size", Napi::BigInt::New(env, area.size));
    areas.Set(areas.Length(), entry);
  }
  return areas;
}

// (index) => { size, offset, readable, writable, mmapable, sparse, type, msixMappable }
Napi::Value regionInfo(const Napi::CallbackInfo& info, File& self) {
  const Napi::Env env = info.Env();
  const uint32_t index = Arguments(info).u32(0, "index");
  uapi::vfio_region_info region{};
  const Reply reply(env, "ioctl", "VFIO_DEVICE_GET_REGION_INFO");
  Room room(reply, sizeof region);
  for (;;) {
    region = {};
    region.index = index;
    room.begin(region);
    self.ioctl(env, uapi::VFIO_DEVICE_GET_REGION_INFO, "VFIO_DEVICE_GET_REGION_INFO", room.data());
    room.end(region);
    if (region.argsz <= room.size()) break;
    room.grow(region.argsz);  // the capabilities did not fit: ask again with a buffer of the size they need
  }
  // Positions in a file are signed.
  if (region.offset > INT64_MAX || region.size > INT64_MAX - region.offset)
    reply.refuse("the region is said to be beyond what a file can have");
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
  for (const auto& [id, bytes] : capabilitiesOf(reply, room.bytes(), region.cap_offset, sizeof region)) {
    if (id == uapi::VFIO_REGION_INFO_CAP_SPARSE_MMAP) {
      answer.Set("sparse", sparseAreas(env, reply, bytes, region.size));
    } else if (id == uapi::VFIO_REGION_INFO_CAP_MSIX_MAPPABLE) {
      answer.Set("msixMappable", true);
    } else if (id == uapi::VFIO_REGION_INFO_CAP_TYPE) {
      const auto type = structAt<uapi::vfio_region_info_cap_type>(reply, bytes, "the region's type");
      Napi::Object entry = Napi::Object::New(env);
      entry.Set("type", type.type);
      entry.Set("subtype", type.subtype);
      answer.Set("type", entry);
    }
  }
  return answer;
}

// (position in the file, width) => number, or bigint at width 8
Napi::Value regionRead(const Napi::CallbackInfo& info, File& self) {
  const Napi::Env env = info.Env();
  const Arguments arguments(info);
  const uint64_t position = arguments.u64(0, "offset");
  const size_t width = accessWidth(arguments, 1);
  OpenFile& file = self.live(env);
  uint64_t value = 0;
  const int64_t result = file.backend->pread(file.fd, &value, width, position);
  if (result < 0) throwErrno(env, result, "pread");
  if (Reply(env, "pread", nullptr).moved(result, width) != width) throwShort(env, "read", width, result);
  return registerValue(env, width, value);
}

// (position in the file, width, value)
Napi::Value regionWrite(const Napi::CallbackInfo& info, File& self) {
  const Napi::Env env = info.Env();
  const Arguments arguments(info);
  const uint64_t position = arguments.u64(0, "offset");
  const size_t width = accessWidth(arguments, 1);
  const uint64_t value = registerArgument(env, arguments[2], width);
  OpenFile& file = self.live(env);
  const int64_t result = file.backend->pwrite(file.fd, &value, width, position);
  if (result < 0) throwErrno(env, result, "pwrite");
  if (Reply(env, "pwrite", nullptr).moved(result, width) != width) throwShort(env, "write", width, result);
  return env.Undefined();
}

// (position in the file, into: Uint8Array) => bytes read
Napi::Value readInto(const Napi::CallbackInfo& info, File& self) {
  const Arguments arguments(info);
  const uint64_t position = arguments.u64(0, "offset");
  OpenFile& file = self.live(info.Env());
  // Not into the caller's array itself: a device model in JavaScript runs meanwhile and can detach it.
  std::vector<uint8_t> bytes(arguments.bytes(1, "into").size());
  const int64_t result = file.backend->pread(file.fd, bytes.data(), bytes.size(), position);
  if (result < 0) throwErrno(info.Env(), result, "pread");
  const size_t moved = Reply(info.Env(), "pread", nullptr).moved(result, bytes.size());
  const std::span<uint8_t> into = arguments.bytes(1, "into");
  std::copy_n(bytes.begin(), std::min(moved, into.size()), into.begin());
  return Napi::Number::New(info.Env(), static_cast<double>(moved));
}

// (position in the file, from: Uint8Array) => bytes written
Napi::Value writeFrom(const Napi::CallbackInfo& info, File& self) {
  const Arguments arguments(info);
  const uint64_t position = arguments.u64(0, "offset");
  const std::span<uint8_t> given = arguments.bytes(1, "from");
  const std::vector<uint8_t> from(given.begin(), given.end());  // as in readInto
  OpenFile& file = self.live(info.Env());
  const int64_t result = file.backend->pwrite(file.fd, from.data(), from.size(), position);
  if (result < 0) throwErrno(info.Env(), result, "pwrite");
  const size_t moved = Reply(info.Env(), "pwrite", nullptr).moved(result, from.size());
  return Napi::Number::New(info.Env(), static_cast<double>(moved));
}

// (position in the file, length, writable) => Mapped
Napi::Value mmap(const Napi::CallbackInfo& info, File& self) {
  const Napi::Env env = info.Env();
  const Arguments arguments(info);
  const uint64_t position = arguments.u64(0, "offset");
  const uint64_t length = arguments.u64(1, "length");
  const bool readable = arguments.boolean(2, "readable");
  const bool writable = arguments.boolean(3, "writable");
  OpenFile& file = self.live(env);
  const int64_t result =
      file.backend->mmap(nullptr, length, (readable ? PROT_READ : 0) | (writable ? PROT_WRITE : 0),
                         MAP_SHARED, file.fd, position);
  if (result < 0) throwErrno(env, result, "mmap");
  return Mapped::make(env,
                      std::make_shared<Mapping>(file.backend, reinterpret_cast<uint8_t*>(result), length));
}

}  // namespace

std::vector<File::Call> regionTable() {
  return {File::call<regionInfo>("regionInfo"),   File::call<regionRead>("regionRead"),
          File::call<regionWrite>("regionWrite"), File::call<readInto>("readInto"),
          File::call<writeFrom>("writeFrom"),     File::call<mmap>("mmap")};
}

}  // namespace vfio::binding
