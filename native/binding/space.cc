#include "space.h"

#include <cerrno>
#include <utility>

#include "../ledger/requests.h"
#include "../uapi/iommufd.h"
#include "async.h"
#include "bound.h"
#include "environment.h"
#include "values.h"

namespace vfio::binding {
namespace {

constexpr napi_type_tag kTag{0x76f1'0a11'3c5d'4b05, 0x2d8e'41b7'90c3'6fe2};

using ledger::OpenFile;
using Wanted = ledger::Space::Wanted;

constexpr uint64_t kRead = 1;
constexpr uint64_t kWrite = 2;

// The device's access to the memory, as the flags that MAP, MAP_FILE and COPY share.
uint32_t flagsOf(uint64_t access, const Wanted& wanted) {
  return ((access & kRead) != 0 ? uapi::IOMMU_IOAS_MAP_READABLE : 0) |
         ((access & kWrite) != 0 ? uapi::IOMMU_IOAS_MAP_WRITEABLE : 0) |
         (wanted.iova ? uapi::IOMMU_IOAS_MAP_FIXED_IOVA : 0);
}

int askToMap(const ledger::SpaceHandle& handle, const OpenFile& file, uint64_t address, uint64_t access,
             Wanted& wanted) {
  uapi::iommu_ioas_map command{};
  command.size = sizeof command;
  command.ioas_id = handle.object->id;
  command.flags = flagsOf(access, wanted);
  command.user_va = address;
  command.length = wanted.length;
  command.iova = wanted.iova.value_or(0);
  const int result = file.ioctl(uapi::IOMMU_IOAS_MAP, &command);
  if (result >= 0) wanted.iova = command.iova;
  return result;
}

[[noreturn]] void fail(Napi::Env env, int result, const char* request) {
  throwErrno(env, result, "ioctl", request);
}

void requireOpen(Napi::Env env, const ledger::SpaceHandle& handle) {
  if (handle.closed()) throwDisposed(env, "Ioas");
}

// The data that the hot calls of a space work on.
struct Calls {
  std::shared_ptr<ledger::SpaceHandle> handle;
  std::shared_ptr<PagesTable> memory;
  uint64_t* place;
};

// Arguments as in MapArguments; the IOVA is in Environment::place afterwards
napi_value map(Napi::Env env, const napi_value* arguments, Calls& calls) {
  const ledger::SpaceHandle& handle = *calls.handle;
  requireOpen(env, handle);
  MapArguments given(env, *calls.memory, arguments);
  const int result = handle.space->map(given.wanted, [&](Wanted& wanted) {
    return askToMap(handle, *handle.file(), given.address, given.access, wanted);
  });
  if (result < 0) fail(env, result, "IOMMU_IOAS_MAP");
  *calls.place = *given.wanted.iova;
  return nullptr;
}

// (iova, length) => bytes unmapped; undefined: exactly `length`
napi_value unmap(Napi::Env env, const napi_value* arguments, Calls& calls) {
  const ledger::SpaceHandle& handle = *calls.handle;
  requireOpen(env, handle);
  const uint64_t iova = bigU64Of(env, arguments[0], "iova");
  const uint64_t length = bigU64Of(env, arguments[1], "length");
  uint64_t bytes = 0;
  const int result = handle.space->unmap(iova, length, ledger::Manner::wholeRange, bytes,
                                         [&](uint64_t start, uint64_t size, uint64_t& unmapped) {
                                           return ledger::unmapIoas(*handle.file(), handle.object->id, start,
                                                                    size, unmapped);
                                         });
  if (result < 0) fail(env, result, "IOMMU_IOAS_UNMAP");
  return u64UnlessAsked(env, bytes, length);
}

}  // namespace

MapArguments::MapArguments(Napi::Env env, const PagesTable& memory, const napi_value* arguments) {
  const std::shared_ptr<Pages>& pages = Memory::pagesOf(env, memory, arguments[0]);
  access = unsignedOf(env, arguments[1], "access", kRead | kWrite);
  wanted.writable = (access & kWrite) != 0;
  wanted.mapping = u64Of(env, arguments[2], "mapping");
  wanted.iova = optionalU64Of(env, arguments[3], "iova");
  const uint64_t offset = optionalU64Of(env, arguments[4], "offset").value_or(0);
  wanted.length = optionalU64Of(env, arguments[5], "length").value_or(pages->size());
  if (offset > pages->size() || wanted.length > pages->size() - offset)
    refuse(env, "a length inside the buffer", "length", Napi::Value(env, u64To(env, wanted.length)));
  address = reinterpret_cast<uint64_t>(pages->address()) + offset;
  wanted.memory = pages;
}

Napi::Function Space::define(Napi::Env env) {
  return DefineClass(
      env, "Space",
      {InstanceMethod<&Space::id>("id"), InstanceMethod<&Space::ended>("ended"),
       InstanceMethod<&Space::calls>("calls"), InstanceMethod<&Space::mapAsync>("mapAsync"),
       InstanceMethod<&Space::copy>("copy"), InstanceMethod<&Space::mapFile>("mapFile"),
       InstanceMethod<&Space::unmapMapping>("unmapMapping"), InstanceMethod<&Space::holds>("holds"),
       InstanceMethod<&Space::mappings>("mappings"), InstanceMethod<&Space::dispose>("dispose")});
}

Space::Space(const Napi::CallbackInfo& info) : ObjectWrap(info) {
  napi_type_tag_object(info.Env(), info.This(), &kTag);
}

Space::~Space() {
  if (handle_) handle_->close();
}

Napi::Object Space::make(Napi::Env env, std::shared_ptr<ledger::SpaceHandle> handle) {
  Napi::Object object = Environment::of(env).space.New({});
  Unwrap(object)->handle_ = std::move(handle);
  return object;
}

const std::shared_ptr<ledger::SpaceHandle>& Space::live(const Napi::CallbackInfo& info) const {
  if (!handle_ || handle_->closed()) throwDisposed(info.Env(), "Ioas");
  return handle_;
}

// () => its id in the iommufd
Napi::Value Space::id(const Napi::CallbackInfo& info) {
  const auto& handle = live(info);
  return handle->object ? number(info.Env(), handle->object->id) : info.Env().Null();
}

// () => is the kernel's address space destroyed, or about to be destroyed?
Napi::Value Space::ended(const Napi::CallbackInfo& info) {
  return Napi::Boolean::New(info.Env(), !handle_ || handle_->closed() || handle_->space->hasEnded());
}

// () => { map, unmap }: the hot calls, as functions bound to this space
Napi::Value Space::calls(const Napi::CallbackInfo& info) {
  const Napi::Env env = info.Env();
  const Environment& environment = Environment::of(env);
  const auto bound = std::make_shared<Calls>(Calls{live(info), environment.pages, environment.place});
  Napi::Object calls = Napi::Object::New(env);
  calls.Set("map", bind<Calls, map>(env, "map", bound));
  calls.Set("unmap", bind<Calls, unmap>(env, "unmap", bound));
  return calls;
}

// Like map, off the event loop: => Promise<iova>. Fails with ECANCELED if the handle was disposed meanwhile;
// then nothing is mapped.
Napi::Value Space::mapAsync(const Napi::CallbackInfo& info) {
  const Napi::Env env = info.Env();
  const auto handle = live(info);
  const napi_value arguments[] = {info[0], info[1], info[2], info[3], info[4], info[5]};
  auto given = std::make_shared<MapArguments>(env, *Environment::of(env).pages, arguments);
  return AsyncCall::start(
      env, {"ioctl", "IOMMU_IOAS_MAP"},
      [handle, file = handle->file(), given]() -> int64_t {
        const uint64_t mapping = given->wanted.mapping;
        const int result = handle->space->map(given->wanted, [&](Wanted& wanted) {
          return askToMap(*handle, *file, given->address, given->access, wanted);
        });
        if (result < 0 || !handle->closed()) return result;
        uint64_t bytes = 0;
        const int undone =
            handle->unmapMapping(*file, mapping, *given->wanted.iova, given->wanted.length, bytes);
        return undone < 0 ? undone : -ECANCELED;
      },
      [given](Napi::Env env, int64_t) { return Napi::Value(env, u64To(env, *given->wanted.iova)); });
}

// (source: Space, its mapping, sourceIova, length, access, iova?, mapping) => iova. Fails with ENOENT if the
// source is not mapped.
Napi::Value Space::copy(const Napi::CallbackInfo& info) {
  const Napi::Env env = info.Env();
  const Arguments arguments(info);
  const auto& handle = live(info);
  bool ours = false;
  if (!info[0].IsObject() || napi_check_object_type_tag(env, info[0], &kTag, &ours) != napi_ok || !ours)
    refuse(env, "a Space", "source", info[0]);
  const auto& source = Unwrap(info[0].As<Napi::Object>())->live(info);
  const uint64_t from = arguments.u64(1, "mapping");
  const uint64_t access = arguments.unsignedNumber(4, "access", kRead | kWrite);
  uapi::iommu_ioas_copy command{};
  command.size = sizeof command;
  command.dst_ioas_id = handle->object->id;
  command.src_ioas_id = source->object->id;
  command.src_iova = arguments.u64(2, "sourceIova");
  command.length = arguments.u64(3, "length");
  Wanted wanted{arguments.u64(6, "mapping"), command.length, (access & kWrite) != 0, nullptr,
                arguments.optionalU64(5, "iova")};
  command.flags = flagsOf(access, wanted);
  command.dst_iova = wanted.iova.value_or(0);
  ledger::Flight reading;
  int result = -ENOENT;
  if (source->space->use(reading, from, command.src_iova, command.length, wanted.memory)) {
    result = handle->space->map(wanted, [&](Wanted& made) {
      const int copied = handle->file()->ioctl(uapi::IOMMU_IOAS_COPY, &command);
      if (copied >= 0) made.iova = command.dst_iova;
      return copied;
    });
    source->space->leave(reading);
  }
  if (result < 0) fail(env, result, "IOMMU_IOAS_COPY");
  return {env, u64To(env, *wanted.iova)};
}

// (fd, offset, length, access, iova?, mapping) => iova. The kernel keeps the file's pages.
Napi::Value Space::mapFile(const Napi::CallbackInfo& info) {
  const Napi::Env env = info.Env();
  const Arguments arguments(info);
  const auto& handle = live(info);
  const uint64_t access = arguments.unsignedNumber(3, "access", kRead | kWrite);
  uapi::iommu_ioas_map_file command{};
  command.size = sizeof command;
  command.ioas_id = handle->object->id;
  command.fd = arguments.descriptor(0, "fd");
  command.start = arguments.u64(1, "offset");
  command.length = arguments.u64(2, "length");
  Wanted wanted{arguments.u64(5, "mapping"), command.length, (access & kWrite) != 0, nullptr,
                arguments.optionalU64(4, "iova")};
  command.flags = flagsOf(access, wanted);
  command.iova = wanted.iova.value_or(0);
  const int result = handle->space->map(wanted, [&](Wanted& made) {
    const int mapped = handle->file()->ioctl(uapi::IOMMU_IOAS_MAP_FILE, &command);
    if (mapped >= 0) made.iova = command.iova;
    return mapped;
  });
  if (result < 0) fail(env, result, "IOMMU_IOAS_MAP_FILE");
  return {env, u64To(env, *wanted.iova)};
}

// (mapping, iova, length) => bytes: what is left of it is unmapped, and nothing else
Napi::Value Space::unmapMapping(const Napi::CallbackInfo& info) {
  const Arguments arguments(info);
  const auto& handle = live(info);
  uint64_t bytes = 0;
  const int result = handle->unmapMapping(*handle->file(), arguments.u64(0, "mapping"),
                                          arguments.u64(1, "iova"), arguments.u64(2, "length"), bytes);
  if (result < 0) fail(info.Env(), result, handle->object ? "IOMMU_IOAS_UNMAP" : "VFIO_IOMMU_UNMAP_DMA");
  return {info.Env(), u64To(info.Env(), bytes)};
}

// (mapping, iova, length) => is all of it still mapped?
Napi::Value Space::holds(const Napi::CallbackInfo& info) {
  const Arguments arguments(info);
  return Napi::Boolean::New(info.Env(),
                            live(info)->space->holds(arguments.u64(0, "mapping"), arguments.u64(1, "iova"),
                                                     arguments.u64(2, "length")));
}

// () => { iova, length, writable }[], by ascending IOVA
Napi::Value Space::mappings(const Napi::CallbackInfo& info) {
  const Napi::Env env = info.Env();
  const auto all = live(info)->space->mapped();
  Napi::Array array = Napi::Array::New(env, all.size());
  for (uint32_t i = 0; i < all.size(); ++i) {
    Napi::Object entry = Napi::Object::New(env);
    entry.Set("iova", bigint(env, all[i].iova));
    entry.Set("length", bigint(env, all[i].length));
    entry.Set("writable", all[i].writable);
    array.Set(i, entry);
  }
  return array;
}

// Ends the share: again, nothing.
Napi::Value Space::dispose(const Napi::CallbackInfo& info) {
  if (handle_) handle_->close();
  return info.Env().Undefined();
}

}  // namespace vfio::binding
