// The calls of /dev/iommu.
#include <algorithm>
#include <bit>
#include <cerrno>
#include <vector>

#include "../uapi/iommufd.h"
#include "../uapi/names.h"
#include "file.h"
#include "replies.h"
#include "space.h"
#include "values.h"

namespace vfio::binding {
namespace {

uint32_t optionId(const Arguments& arguments, size_t index) {
  const std::string name = arguments.text(index, "option");
  if (name == "RLIMIT_MODE") return uapi::IOMMU_OPTION_RLIMIT_MODE;
  if (name == "HUGE_PAGES") return uapi::IOMMU_OPTION_HUGE_PAGES;
  refuse(arguments.env(), "'RLIMIT_MODE' or 'HUGE_PAGES'", "option", arguments[index]);
}

// (id): destroys the object that has this id, of any type
Napi::Value destroy(const Napi::CallbackInfo& info, File& self) {
  const uint32_t id = Arguments(info).u32(0, "id");
  OpenFile& file = self.live(info.Env());
  const int result = file.kernel->destroy(file, id);
  if (result < 0) throwErrno(info.Env(), result, "ioctl", "IOMMU_DESTROY");
  return info.Env().Undefined();
}

// () => Space, which owns the new IOAS
Napi::Value ioasAlloc(const Napi::CallbackInfo& info, File& self) {
  OpenFile& file = self.live(info.Env());
  std::shared_ptr<ledger::Object> made;
  const int result = file.kernel->make(true, made, [&](uint32_t& id) {
    uapi::iommu_ioas_alloc command{};
    command.size = sizeof command;
    const int asked = file.ioctl(uapi::IOMMU_IOAS_ALLOC, &command);
    id = command.out_ioas_id;
    return asked;
  });
  if (result < 0) throwErrno(info.Env(), result, "ioctl", "IOMMU_IOAS_ALLOC");
  std::shared_ptr<ledger::SpaceHandle> handle;
  try {
    handle = std::make_shared<ledger::SpaceHandle>(self.open(), made, true);
  } catch (...) {
    (void)file.kernel->destroy(file, *made);
    throw;
  }
  return Space::make(info.Env(), std::move(handle));
}

// (id) => Space, for an address space that the kernel created or another handle owns
Napi::Value ioasOf(const Napi::CallbackInfo& info, File& self) {
  const uint32_t id = Arguments(info).u32(0, "ioas");
  OpenFile& file = self.live(info.Env());
  return Space::make(info.Env(),
                     std::make_shared<ledger::SpaceHandle>(self.open(), file.kernel->space(id), false));
}

// (ioas) => { ranges: { start, last }[], alignment }
Napi::Value ioasIovaRanges(const Napi::CallbackInfo& info, File& self) {
  const Napi::Env env = info.Env();
  const uint32_t ioas = Arguments(info).u32(0, "ioas");
  OpenFile& file = self.live(env);
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
    // The array was too short: the kernel has reported how many ranges there are.
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
Napi::Value ioasAllowIovas(const Napi::CallbackInfo& info, File& self) {
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
  self.ioctl(info.Env(), uapi::IOMMU_IOAS_ALLOW_IOVAS, "IOMMU_IOAS_ALLOW_IOVAS", &command);
  return info.Env().Undefined();
}

// (ioas, iova, length) => { address, length }
Napi::Value ioasPhysicalAddress(const Napi::CallbackInfo& info, File& self) {
  const Arguments arguments(info);
  uapi::iommu_ioas_noiommu_get_pa command{};
  command.size = sizeof command;
  command.ioas_id = arguments.u32(0, "ioas");
  command.iova = arguments.u64(1, "iova");
  command.length = arguments.u64(2, "length");
  self.ioctl(info.Env(), uapi::IOMMU_IOAS_NOIOMMU_GET_PA, "IOMMU_IOAS_NOIOMMU_GET_PA", &command);
  Napi::Object answer = Napi::Object::New(info.Env());
  answer.Set("address", bigint(info.Env(), command.out_phys));
  answer.Set("length", bigint(info.Env(), command.length));
  return answer;
}

// ()
Napi::Value changeProcess(const Napi::CallbackInfo& info, File& self) {
  uapi::iommu_ioas_change_process command{};
  command.size = sizeof command;
  self.ioctl(info.Env(), uapi::IOMMU_IOAS_CHANGE_PROCESS, "IOMMU_IOAS_CHANGE_PROCESS", &command);
  return info.Env().Undefined();
}

// () => the compatibility IOAS's id, or null if there is none
Napi::Value getVfioIoas(const Napi::CallbackInfo& info, File& self) {
  const Napi::Env env = info.Env();
  OpenFile& file = self.live(env);
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
Napi::Value setVfioIoas(const Napi::CallbackInfo& info, File& self) {
  uapi::iommu_vfio_ioas command{};
  command.size = sizeof command;
  command.op = uapi::IOMMU_VFIO_IOAS_SET;
  command.ioas_id = Arguments(info).u32(0, "ioas");
  const auto lock = self.live(info.Env()).kernel->changeCompat();
  self.ioctl(info.Env(), uapi::IOMMU_VFIO_IOAS, "IOMMU_VFIO_IOAS", &command);
  return info.Env().Undefined();
}

// ()
Napi::Value clearVfioIoas(const Napi::CallbackInfo& info, File& self) {
  uapi::iommu_vfio_ioas command{};
  command.size = sizeof command;
  command.op = uapi::IOMMU_VFIO_IOAS_CLEAR;
  const auto lock = self.live(info.Env()).kernel->changeCompat();
  self.ioctl(info.Env(), uapi::IOMMU_VFIO_IOAS, "IOMMU_VFIO_IOAS", &command);
  return info.Env().Undefined();
}

// (feature) => does the kernel know the request of this feature? The struct is too short for every request: a
// known request fails with EINVAL before the kernel checks anything else, an unknown one with ENOTTY.
Napi::Value supports(const Napi::CallbackInfo& info, File& self) {
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
      {"pasid", uapi::IOMMU_VEVENTQ_ALLOC},  // a flag; came with this request
      {"hw-queue", uapi::IOMMU_HW_QUEUE_ALLOC},
      {"noiommu-physical-address", uapi::IOMMU_IOAS_NOIOMMU_GET_PA},
  };
  const std::string feature = arguments.text(0, "feature");
  const auto* const found =
      std::ranges::find_if(kRequests, [&](const auto& each) { return feature == each.first; });
  if (found == std::end(kRequests)) refuse(info.Env(), "a feature", "feature", info[0]);
  OpenFile& file = self.live(info.Env());
  uint64_t tooShort = sizeof(uint32_t);
  const int result = file.backend->ioctl(file.fd, found->second, reinterpret_cast<uintptr_t>(&tooShort));
  if (result < 0 && result != -EINVAL && result != -ENOTTY)
    throwErrno(info.Env(), result, "ioctl", uapi::iommufdRequestName(found->second));
  return Napi::Boolean::New(info.Env(), result != -ENOTTY);
}

// (option, object) => value
Napi::Value getOption(const Napi::CallbackInfo& info, File& self) {
  const Arguments arguments(info);
  uapi::iommu_option command{};
  command.size = sizeof command;
  command.option_id = optionId(arguments, 0);
  command.op = uapi::IOMMU_OPTION_OP_GET;
  command.object_id = arguments.u32(1, "object");
  self.ioctl(info.Env(), uapi::IOMMU_OPTION, "IOMMU_OPTION", &command);
  return bigint(info.Env(), command.val64);
}

// (option, object, value)
Napi::Value setOption(const Napi::CallbackInfo& info, File& self) {
  const Arguments arguments(info);
  uapi::iommu_option command{};
  command.size = sizeof command;
  command.option_id = optionId(arguments, 0);
  command.op = uapi::IOMMU_OPTION_OP_SET;
  command.object_id = arguments.u32(1, "object");
  command.val64 = arguments.u64(2, "value");
  self.ioctl(info.Env(), uapi::IOMMU_OPTION, "IOMMU_OPTION", &command);
  return info.Env().Undefined();
}

}  // namespace

std::vector<File::Call> iommufdTable() {
  return {File::call<destroy>("destroy"),
          File::call<ioasAlloc>("ioasAlloc"),
          File::call<ioasOf>("ioasOf"),
          File::call<ioasIovaRanges>("ioasIovaRanges"),
          File::call<ioasAllowIovas>("ioasAllowIovas"),
          File::call<ioasPhysicalAddress>("ioasPhysicalAddress"),
          File::call<changeProcess>("changeProcess"),
          File::call<getVfioIoas>("getVfioIoas"),
          File::call<setVfioIoas>("setVfioIoas"),
          File::call<clearVfioIoas>("clearVfioIoas"),
          File::call<supports>("supports"),
          File::call<getOption>("getOption"),
          File::call<setOption>("setOption")};
}

}  // namespace vfio::binding
