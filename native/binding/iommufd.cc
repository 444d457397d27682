// The calls of /dev/iommu.
#include <algorithm>
#include <bit>
#include <cerrno>
#include <vector>

#include "../uapi/iommufd.h"
#include "../uapi/names.h"
#include "async.h"
#include "bound.h"
#include "file.h"
#include "memory.h"
#include "replies.h"
#include "values.h"

namespace vfio::binding {
namespace {

// What the device may do with memory: the flags that MAP and COPY share.
uint32_t accessFlags(const Arguments& arguments, size_t index, const std::optional<uint64_t>& iova) {
  return (arguments.boolean(index, "read") ? uapi::IOMMU_IOAS_MAP_READABLE : 0) |
         (arguments.boolean(index + 1, "write") ? uapi::IOMMU_IOAS_MAP_WRITEABLE : 0) |
         (iova ? uapi::IOMMU_IOAS_MAP_FIXED_IOVA : 0);
}

uint32_t optionId(const Arguments& arguments, size_t index) {
  const std::string name = arguments.text(index, "option");
  if (name == "RLIMIT_MODE") return uapi::IOMMU_OPTION_RLIMIT_MODE;
  if (name == "HUGE_PAGES") return uapi::IOMMU_OPTION_HUGE_PAGES;
  refuse(arguments.env(), "'RLIMIT_MODE' or 'HUGE_PAGES'", "option", arguments[index]);
}

// An address space of a file that may be disposed any time.
struct Space {
  std::shared_ptr<File::Slot> slot;
  uint32_t ioas;
};

// (address, length, flags, iova?) => iova. The caller keeps the memory: lib/ioas.ts.
napi_value map(Napi::Env env, const napi_value* arguments, Space& space) {
  uapi::iommu_ioas_map command{};
  command.size = sizeof command;
  command.ioas_id = space.ioas;
  command.user_va = u64Of(env, arguments[0], "address");
  command.length = u64Of(env, arguments[1], "length");
  const uint64_t access = unsignedOf(env, arguments[2], "access", 3);
  command.flags = ((access & 1) != 0 ? uapi::IOMMU_IOAS_MAP_READABLE : 0) |
                  ((access & 2) != 0 ? uapi::IOMMU_IOAS_MAP_WRITEABLE : 0);
  if (const std::optional<uint64_t> iova = optionalU64Of(env, arguments[3], "iova")) {
    command.flags |= uapi::IOMMU_IOAS_MAP_FIXED_IOVA;
    command.iova = *iova;
  }
  space.slot->ioctl(env, uapi::IOMMU_IOAS_MAP, "IOMMU_IOAS_MAP", &command);
  return u64To(env, command.iova);
}

// (iova, length) => bytes unmapped
napi_value unmap(Napi::Env env, const napi_value* arguments, Space& space) {
  uapi::iommu_ioas_unmap command{};
  command.size = sizeof command;
  command.ioas_id = space.ioas;
  command.iova = u64Of(env, arguments[0], "iova");
  command.length = u64Of(env, arguments[1], "length");
  space.slot->ioctl(env, uapi::IOMMU_IOAS_UNMAP, "IOMMU_IOAS_UNMAP", &command);
  return u64To(env, command.length);
}

// (ioas, memory, offset, length, read, write, iova?) as ioasMapAsync takes them.
struct MapCall {
  uapi::iommu_ioas_map command{};
  std::shared_ptr<Pages> pages;

  explicit MapCall(const Arguments& arguments) {
    const Napi::Env env = arguments.env();
    const Memory* memory = Memory::from(arguments[1]);
    if (!memory) refuse(env, "a DmaBuffer or a slice of one", "memory", arguments[1]);
    if (!memory->pages()) throwDisposed(env, "DmaBuffer");
    pages = memory->pages();
    const uint64_t offset = arguments.u64(2, "offset");
    const uint64_t length = arguments.u64(3, "length");
    if (offset > pages->size() || length > pages->size() - offset)
      refuse(env, "a length inside the buffer", "length", arguments[3]);
    const std::optional<uint64_t> iova = arguments.optionalU64(6, "iova");
    command.size = sizeof command;
    command.ioas_id = arguments.u32(0, "ioas");
    command.flags = accessFlags(arguments, 4, iova);
    command.user_va = reinterpret_cast<uint64_t>(pages->address()) + offset;
    command.length = length;
    command.iova = iova.value_or(0);
  }
};

}  // namespace

// (id)
Napi::Value File::destroy(const Napi::CallbackInfo& info) {
  const Arguments arguments(info);
  uapi::iommu_destroy command{};
  command.size = sizeof command;
  command.id = arguments.u32(0, "id");
  ioctl(info.Env(), uapi::IOMMU_DESTROY, "IOMMU_DESTROY", &command);
  return info.Env().Undefined();
}

// () => id
Napi::Value File::ioasAlloc(const Napi::CallbackInfo& info) {
  uapi::iommu_ioas_alloc command{};
  command.size = sizeof command;
  ioctl(info.Env(), uapi::IOMMU_IOAS_ALLOC, "IOMMU_IOAS_ALLOC", &command);
  return number(info.Env(), command.out_ioas_id);
}

// (ioas) => { ranges: { start, last }[], alignment }
Napi::Value File::ioasIovaRanges(const Napi::CallbackInfo& info) {
  const Napi::Env env = info.Env();
  const uint32_t ioas = Arguments(info).u32(0, "ioas");
  OpenFile& file = live(env);
  const Reply reply(env, "ioctl", "IOMMU_IOAS_IOVA_RANGES");
  constexpr size_t kMost = size_t{1} << 16;
  std::vector<uapi::iommu_iova_range> ranges(16);
  uapi::iommu_ioas_iova_ranges command{};
  for (;;) {
    command = {};
    command.size = sizeof command;
    command.ioas_id = ioas;
    command.num_iovas = static_cast<uint32_t>(ranges.size());
    command.allowed_iovas = reinterpret_cast<uint64_t>(ranges.data());
    const int result =
        file.backend->ioctl(file.fd, uapi::IOMMU_IOAS_IOVA_RANGES, reinterpret_cast<uintptr_t>(&command));
    if (result >= 0) break;
    // Too short an array: the kernel has said how many there are.
    if (result != -EMSGSIZE || command.num_iovas <= ranges.size())
      throwErrno(env, result, "ioctl", "IOMMU_IOAS_IOVA_RANGES");
    reply.counted(command.num_iovas, kMost, "ranges");
    ranges.resize(command.num_iovas);
  }
  reply.counted(command.num_iovas, ranges.size(), "ranges");
  if (!std::has_single_bit(command.out_iova_alignment))
    reply.refuse("its alignment is " + std::to_string(command.out_iova_alignment));
  Napi::Array array = Napi::Array::New(env, command.num_iovas);
  for (uint32_t i = 0; i < command.num_iovas; ++i) {
    reply.range(ranges[i].start, ranges[i].last);
    Napi::Object range = Napi::Object::New(env);
    range.Set("start", bigint(env, ranges[i].start));
    range.Set("last", bigint(env, ranges[i].last));
    array.Set(i, range);
  }
  Napi::Object answer = Napi::Object::New(env);
  answer.Set("ranges", array);
  answer.Set("alignment", bigint(env, command.out_iova_alignment));
  return answer;
}

// (ioas, startsAndLasts: BigUint64Array)
Napi::Value File::ioasAllowIovas(const Napi::CallbackInfo& info) {
  const Arguments arguments(info);
  const uint32_t ioas = arguments.u32(0, "ioas");
  if (!info[1].IsTypedArray() || info[1].As<Napi::TypedArray>().TypedArrayType() != napi_biguint64_array)
    refuse(info.Env(), "a BigUint64Array", "ranges", info[1]);
  const auto pairs = info[1].As<Napi::BigUint64Array>();
  // Copied: the array is JavaScript's, and its layout (start, last, start, last ...) is the struct's.
  std::vector<uapi::iommu_iova_range> ranges(pairs.ElementLength() / 2);
  for (size_t i = 0; i < ranges.size(); ++i) {
    ranges[i].start = pairs[2 * i];
    ranges[i].last = pairs[2 * i + 1];
  }
  uapi::iommu_ioas_allow_iovas command{};
  command.size = sizeof command;
  command.ioas_id = ioas;
  command.num_iovas = static_cast<uint32_t>(ranges.size());
  command.allowed_iovas = reinterpret_cast<uint64_t>(ranges.data());
  ioctl(info.Env(), uapi::IOMMU_IOAS_ALLOW_IOVAS, "IOMMU_IOAS_ALLOW_IOVAS", &command);
  return info.Env().Undefined();
}

// (ioas) => { map, unmap }: the hot calls of an address space, as functions of their own
Napi::Value File::ioasCalls(const Napi::CallbackInfo& info) {
  const uint32_t ioas = Arguments(info).u32(0, "ioas");
  (void)live(info.Env());
  auto space = std::make_shared<Space>(Space{slot_, ioas});
  Napi::Object calls = Napi::Object::New(info.Env());
  calls.Set("map", bind<Space, map>(info.Env(), "map", space));
  calls.Set("unmap", bind<Space, unmap>(info.Env(), "unmap", space));
  return calls;
}

// (ioas, memory, offset, length, read, write, iova?) => Promise<iova>, off the event loop
Napi::Value File::ioasMapAsync(const Napi::CallbackInfo& info) {
  (void)live(info.Env());
  auto call = std::make_shared<MapCall>(Arguments(info));
  return AsyncCall::start(
      info.Env(), {"ioctl", "IOMMU_IOAS_MAP"},
      [file = open(), call]() -> int64_t {
        return file->backend->ioctl(file->fd, uapi::IOMMU_IOAS_MAP,
                                    reinterpret_cast<uintptr_t>(&call->command));
      },
      [call](Napi::Env env, int64_t) { return bigint(env, call->command.iova); });
}

// (destination, source, length, sourceIova, read, write, iova?) => iova
Napi::Value File::ioasCopy(const Napi::CallbackInfo& info) {
  const Arguments arguments(info);
  const std::optional<uint64_t> iova = arguments.optionalU64(6, "iova");
  uapi::iommu_ioas_copy command{};
  command.size = sizeof command;
  command.dst_ioas_id = arguments.u32(0, "destination");
  command.src_ioas_id = arguments.u32(1, "source");
  command.flags = accessFlags(arguments, 4, iova);
  command.length = arguments.u64(2, "length");
  command.src_iova = arguments.u64(3, "sourceIova");
  command.dst_iova = iova.value_or(0);
  ioctl(info.Env(), uapi::IOMMU_IOAS_COPY, "IOMMU_IOAS_COPY", &command);
  return bigint(info.Env(), command.dst_iova);
}

// (ioas, fd, start, length, read, write, iova?) => iova
Napi::Value File::ioasMapFile(const Napi::CallbackInfo& info) {
  const Arguments arguments(info);
  const std::optional<uint64_t> iova = arguments.optionalU64(6, "iova");
  uapi::iommu_ioas_map_file command{};
  command.size = sizeof command;
  command.ioas_id = arguments.u32(0, "ioas");
  command.fd = arguments.descriptor(1, "fd");
  command.start = arguments.u64(2, "offset");
  command.length = arguments.u64(3, "length");
  command.flags = accessFlags(arguments, 4, iova);
  command.iova = iova.value_or(0);
  ioctl(info.Env(), uapi::IOMMU_IOAS_MAP_FILE, "IOMMU_IOAS_MAP_FILE", &command);
  return bigint(info.Env(), command.iova);
}

// (ioas, iova, length) => { address, length }
Napi::Value File::ioasPhysicalAddress(const Napi::CallbackInfo& info) {
  const Arguments arguments(info);
  uapi::iommu_ioas_noiommu_get_pa command{};
  command.size = sizeof command;
  command.ioas_id = arguments.u32(0, "ioas");
  command.iova = arguments.u64(1, "iova");
  command.length = arguments.u64(2, "length");
  ioctl(info.Env(), uapi::IOMMU_IOAS_NOIOMMU_GET_PA, "IOMMU_IOAS_NOIOMMU_GET_PA", &command);
  Napi::Object answer = Napi::Object::New(info.Env());
  answer.Set("address", bigint(info.Env(), command.out_phys));
  answer.Set("length", bigint(info.Env(), command.length));
  return answer;
}

// ()
Napi::Value File::changeProcess(const Napi::CallbackInfo& info) {
  uapi::iommu_ioas_change_process command{};
  command.size = sizeof command;
  ioctl(info.Env(), uapi::IOMMU_IOAS_CHANGE_PROCESS, "IOMMU_IOAS_CHANGE_PROCESS", &command);
  return info.Env().Undefined();
}

// () => the compatibility IOAS's id, or null if there is none
Napi::Value File::getVfioIoas(const Napi::CallbackInfo& info) {
  const Napi::Env env = info.Env();
  OpenFile& file = live(env);
  uapi::iommu_vfio_ioas command{};
  command.size = sizeof command;
  command.op = uapi::IOMMU_VFIO_IOAS_GET;
  const int result =
      file.backend->ioctl(file.fd, uapi::IOMMU_VFIO_IOAS, reinterpret_cast<uintptr_t>(&command));
  if (result == -ENODEV) return env.Null();
  if (result < 0) throwErrno(env, result, "ioctl", "IOMMU_VFIO_IOAS");
  return number(env, command.ioas_id);
}

// (ioas)
Napi::Value File::setVfioIoas(const Napi::CallbackInfo& info) {
  uapi::iommu_vfio_ioas command{};
  command.size = sizeof command;
  command.op = uapi::IOMMU_VFIO_IOAS_SET;
  command.ioas_id = Arguments(info).u32(0, "ioas");
  ioctl(info.Env(), uapi::IOMMU_VFIO_IOAS, "IOMMU_VFIO_IOAS", &command);
  return info.Env().Undefined();
}

// ()
Napi::Value File::clearVfioIoas(const Napi::CallbackInfo& info) {
  uapi::iommu_vfio_ioas command{};
  command.size = sizeof command;
  command.op = uapi::IOMMU_VFIO_IOAS_CLEAR;
  ioctl(info.Env(), uapi::IOMMU_VFIO_IOAS, "IOMMU_VFIO_IOAS", &command);
  return info.Env().Undefined();
}

// (feature) => has the kernel its request? Asked with a struct that is too short for any, which is EINVAL
// before anything else is looked at; ENOTTY, there is no such request.
Napi::Value File::supports(const Napi::CallbackInfo& info) {
  const Arguments arguments(info);
  static constexpr std::pair<const char*, uint32_t> kRequests[] = {
      {"hwpt", uapi::IOMMU_HWPT_ALLOC},
      {"hw-info", uapi::IOMMU_GET_HW_INFO},
      {"dirty-tracking", uapi::IOMMU_HWPT_SET_DIRTY_TRACKING},
      {"nesting", uapi::IOMMU_HWPT_INVALIDATE},
      {"fault-queue", uapi::IOMMU_FAULT_QUEUE_ALLOC},
      {"map-file", uapi::IOMMU_IOAS_MAP_FILE},
      {"viommu", uapi::IOMMU_VIOMMU_ALLOC},
      {"vdevice", uapi::IOMMU_VDEVICE_ALLOC},
      {"change-process", uapi::IOMMU_IOAS_CHANGE_PROCESS},
      {"veventq", uapi::IOMMU_VEVENTQ_ALLOC},
      {"pasid", uapi::IOMMU_VEVENTQ_ALLOC},  // a flag, of the same release
      {"hw-queue", uapi::IOMMU_HW_QUEUE_ALLOC},
      {"noiommu-physical-address", uapi::IOMMU_IOAS_NOIOMMU_GET_PA},
  };
  const std::string feature = arguments.text(0, "feature");
  const auto* const found =
      std::ranges::find_if(kRequests, [&](const auto& each) { return feature == each.first; });
  if (found == std::end(kRequests)) refuse(info.Env(), "a feature", "feature", info[0]);
  OpenFile& file = live(info.Env());
  uint64_t tooShort = sizeof(uint32_t);
  const int result = file.backend->ioctl(file.fd, found->second, reinterpret_cast<uintptr_t>(&tooShort));
  if (result < 0 && result != -EINVAL && result != -ENOTTY)
    throwErrno(info.Env(), result, "ioctl", uapi::iommufdRequestName(found->second));
  return Napi::Boolean::New(info.Env(), result != -ENOTTY);
}

// (option, object) => value
Napi::Value File::getOption(const Napi::CallbackInfo& info) {
  const Arguments arguments(info);
  uapi::iommu_option command{};
  command.size = sizeof command;
  command.option_id = optionId(arguments, 0);
  command.op = uapi::IOMMU_OPTION_OP_GET;
  command.object_id = arguments.u32(1, "object");
  ioctl(info.Env(), uapi::IOMMU_OPTION, "IOMMU_OPTION", &command);
  return bigint(info.Env(), command.val64);
}

// (option, object, value)
Napi::Value File::setOption(const Napi::CallbackInfo& info) {
  const Arguments arguments(info);
  uapi::iommu_option command{};
  command.size = sizeof command;
  command.option_id = optionId(arguments, 0);
  command.op = uapi::IOMMU_OPTION_OP_SET;
  command.object_id = arguments.u32(1, "object");
  command.val64 = arguments.u64(2, "value");
  ioctl(info.Env(), uapi::IOMMU_OPTION, "IOMMU_OPTION", &command);
  return info.Env().Undefined();
}

}  // namespace vfio::binding
