// Map and unmap from C++: the same two ioctls on the same host, file and IOAS that TypeScript uses.
#include "../../native/binding/file.h"
#include "../../native/uapi/iommufd.h"
#include "bench.h"

namespace vfio::bench {
namespace {

// (file: NativeFile, ioas, address, length, iova: bigint | undefined, times)
Napi::Value mapUnmap(const Napi::CallbackInfo& info) {
  const Napi::Env env = info.Env();
  // An object of the package's addon. Only inline functions of its header can be used: this addon is not
  // linked with it.
  void* wrapped = nullptr;
  napi_unwrap(env, info[0], &wrapped);
  const std::shared_ptr<binding::OpenFile>& file = static_cast<binding::File*>(wrapped)->open();
  Backend& backend = *file->backend;
  const uint32_t ioas = info[1].As<Napi::Number>().Uint32Value();
  bool lossless = false;
  const uint64_t address = info[2].As<Napi::BigInt>().Uint64Value(&lossless);
  const uint64_t length = info[3].As<Napi::Number>().Uint32Value();
  const bool fixed = !info[4].IsUndefined();
  const uint64_t iova = fixed ? info[4].As<Napi::BigInt>().Uint64Value(&lossless) : 0;
  const uint32_t times = info[5].As<Napi::Number>().Uint32Value();
  for (uint32_t i = 0; i < times; ++i) {
    uapi::iommu_ioas_map map{};
    map.size = sizeof map;
    map.flags = uapi::IOMMU_IOAS_MAP_READABLE | uapi::IOMMU_IOAS_MAP_WRITEABLE |
                (fixed ? uapi::IOMMU_IOAS_MAP_FIXED_IOVA : 0);
    map.ioas_id = ioas;
    map.user_va = address;
    map.length = length;
    map.iova = iova;
    checked(env, backend.ioctl(file->fd, uapi::IOMMU_IOAS_MAP, reinterpret_cast<uintptr_t>(&map)), "map");
    uapi::iommu_ioas_unmap unmap{};
    unmap.size = sizeof unmap;
    unmap.ioas_id = ioas;
    unmap.iova = map.iova;
    unmap.length = length;
    checked(env, backend.ioctl(file->fd, uapi::IOMMU_IOAS_UNMAP, reinterpret_cast<uintptr_t>(&unmap)),
            "unmap");
  }
  return env.Undefined();
}

}  // namespace

void addMappings(Napi::Env env, Napi::Object exports) {
  exports.Set("mapUnmap", Napi::Function::New<mapUnmap>(env, "mapUnmap"));
}

}  // namespace vfio::bench
