// Page tables of an iommufd (HWPT), and information about an IOMMU (GET_HW_INFO).
#include <cerrno>
#include <cstring>
#include <vector>

#include "../uapi/iommufd.h"
#include "file.h"
#include "kernel_object.h"
#include "replies.h"
#include "values.h"

namespace vfio::binding {
namespace {

enum class Format { vtdS1, armSmmuv3, amdGuest };

// The data of a page table that the user builds, one member for each format.
union TableData {
  uapi::iommu_hwpt_vtd_s1 vtd;
  uapi::iommu_hwpt_arm_smmuv3 arm;
  uapi::iommu_hwpt_amd_guest amd;
};

// (format, fields): fills the data that HWPT_ALLOC points to
void fillTable(const Arguments& arguments, size_t index, TableData& data, uapi::iommu_hwpt_alloc& command) {
  static constexpr std::pair<const char*, Format> kFormats[] = {
      {"vtd-s1", Format::vtdS1}, {"arm-smmuv3", Format::armSmmuv3}, {"amd-guest", Format::amdGuest}};
  const Format format = oneOf(arguments, index, "format", kFormats);
  const std::vector<uint64_t> from = fields(arguments, index + 1, 1);
  const auto need = [&](size_t count) {
    if (from.size() != count) refuse(arguments.env(), "the format's fields", "fields", arguments[index + 1]);
  };
  switch (format) {
    case Format::vtdS1:  // root, address width, then one field for each flag
      need(5);
      data.vtd.pgtbl_addr = from[0];
      data.vtd.addr_width = static_cast<uint32_t>(from[1]);
      data.vtd.flags = (from[2] != 0 ? uapi::IOMMU_VTD_S1_SRE : 0) |
                       (from[3] != 0 ? uapi::IOMMU_VTD_S1_EAFE : 0) |
                       (from[4] != 0 ? uapi::IOMMU_VTD_S1_WPE : 0);
      command.data_type = uapi::IOMMU_HWPT_DATA_VTD_S1;
      command.data_len = sizeof data.vtd;
      break;
    case Format::armSmmuv3:
      need(std::size(data.arm.ste));
      std::memcpy(data.arm.ste, from.data(), sizeof data.arm.ste);
      command.data_type = uapi::IOMMU_HWPT_DATA_ARM_SMMUV3;
      command.data_len = sizeof data.arm;
      break;
    case Format::amdGuest:
      need(std::size(data.amd.dte));
      std::memcpy(data.amd.dte, from.data(), sizeof data.amd.dte);
      command.data_type = uapi::IOMMU_HWPT_DATA_AMD_GUEST;
      command.data_len = sizeof data.amd;
      break;
  }
  command.data_uptr = reinterpret_cast<uint64_t>(&data);
}

// The data that GET_HW_INFO stores, by type.
union HardwareData {
  uint8_t bytes[256];
  uapi::iommu_hw_info_vtd vtd;
  uapi::iommu_hw_info_arm_smmuv3 arm;
  uapi::iommu_hw_info_tegra241_cmdqv tegra;
  uapi::iommu_hw_info_amd amd;
};

void setHardware(Napi::Env env, Napi::Object answer, const uapi::iommu_hw_info& command,
                 const HardwareData& data) {
  switch (command.out_data_type) {
    case uapi::IOMMU_HW_INFO_TYPE_NONE:
      answer.Set("type", "none");
      return;
    case uapi::IOMMU_HW_INFO_TYPE_INTEL_VTD:
      answer.Set("type", "intel-vtd");
      answer.Set("errata772415", (data.vtd.flags & uapi::IOMMU_HW_INFO_VTD_ERRATA_772415_SPR17) != 0);
      answer.Set("capReg", bigint(env, data.vtd.cap_reg));
      answer.Set("ecapReg", bigint(env, data.vtd.ecap_reg));
      return;
    case uapi::IOMMU_HW_INFO_TYPE_ARM_SMMUV3:
      answer.Set("type", "arm-smmuv3");
      answer.Set("errataRepeatTlbiCfgi",
                 (data.arm.flags & uapi::IOMMU_HW_INFO_ARM_SMMUV3_ERRATA_REPEAT_TLBI_CFGI) != 0);
      answer.Set("idr", numbers(env, data.arm.idr));
      answer.Set("iidr", number(env, data.arm.iidr));
      answer.Set("aidr", number(env, data.arm.aidr));
      return;
    case uapi::IOMMU_HW_INFO_TYPE_TEGRA241_CMDQV:
      answer.Set("type", "tegra241-cmdqv");
      answer.Set("version", number(env, data.tegra.version));
      answer.Set("log2vcmdqs", number(env, data.tegra.log2vcmdqs));
      answer.Set("log2vsids", number(env, data.tegra.log2vsids));
      return;
    case uapi::IOMMU_HW_INFO_TYPE_AMD:
      answer.Set("type", "amd");
      answer.Set("efr", bigint(env, data.amd.efr));
      answer.Set("efr2", bigint(env, data.amd.efr2));
      return;
    default: {
      // The kernel reports the full size of its data, which may be larger than the buffer.
      const size_t size = std::min<size_t>(command.data_len, sizeof data.bytes);
      Napi::Uint8Array bytes = Napi::Uint8Array::New(env, size);
      if (size != 0) std::memcpy(bytes.Data(), data.bytes, size);
      answer.Set("type", "unknown");
      answer.Set("number", number(env, command.out_data_type));
      answer.Set("data", bytes);
    }
  }
}

// (device, parent, nestParent, dirtyTracking, pasid, faultQueue?, format?, fields?) => id
Napi::Value hwptAlloc(const Napi::CallbackInfo& info, File& self) {
  const Arguments arguments(info);
  const std::optional<uint32_t> faultQueue = arguments.optionalU32(5, "faultQueue");
  TableData data{};
  uapi::iommu_hwpt_alloc command{};
  command.size = sizeof command;
  command.dev_id = arguments.u32(0, "device");
  command.pt_id = arguments.u32(1, "parent");
  command.flags = (arguments.boolean(2, "nestParent") ? uapi::IOMMU_HWPT_ALLOC_NEST_PARENT : 0) |
                  (arguments.boolean(3, "dirtyTracking") ? uapi::IOMMU_HWPT_ALLOC_DIRTY_TRACKING : 0) |
                  (arguments.boolean(4, "pasid") ? uapi::IOMMU_HWPT_ALLOC_PASID : 0) |
                  (faultQueue ? uapi::IOMMU_HWPT_FAULT_ID_VALID : 0);
  command.fault_id = faultQueue.value_or(0);
  if (!info[6].IsUndefined()) fillTable(arguments, 6, data, command);
  // Without a newer field the struct can have its first, short size, which every kernel accepts.
  if (command.data_type == uapi::IOMMU_HWPT_DATA_NONE && !faultQueue)
    command.size = uapi::iommu_hwpt_alloc_min;
  return KernelObject::make(info.Env(), self.allocate(info.Env(), uapi::IOMMU_HWPT_ALLOC, "IOMMU_HWPT_ALLOC",
                                                      &command, command.out_hwpt_id));
}

// (hwpt, on)
Napi::Value hwptSetDirtyTracking(const Napi::CallbackInfo& info, File& self) {
  const Arguments arguments(info);
  uapi::iommu_hwpt_set_dirty_tracking command{};
  command.size = sizeof command;
  command.hwpt_id = arguments.u32(0, "hwpt");
  command.flags = arguments.boolean(1, "on") ? uapi::IOMMU_HWPT_DIRTY_TRACKING_ENABLE : 0;
  self.ioctl(info.Env(), uapi::IOMMU_HWPT_SET_DIRTY_TRACKING, "IOMMU_HWPT_SET_DIRTY_TRACKING", &command);
  return info.Env().Undefined();
}

// (hwpt, iova, length, pageSize, clear) => Uint8Array
Napi::Value hwptDirtyBitmap(const Napi::CallbackInfo& info, File& self) {
  const Arguments arguments(info);
  uapi::iommu_hwpt_get_dirty_bitmap command{};
  command.size = sizeof command;
  command.hwpt_id = arguments.u32(0, "hwpt");
  command.iova = arguments.u64(1, "iova");
  command.length = arguments.u64(2, "length");
  command.page_size = arguments.u64(3, "pageSize");
  command.flags = arguments.boolean(4, "clear") ? 0 : uapi::IOMMU_HWPT_GET_DIRTY_BITMAP_NO_CLEAR;
  Bitmap bitmap(arguments, command.length, 3, command.page_size);
  command.data = reinterpret_cast<uint64_t>(bitmap.words());
  self.ioctl(info.Env(), uapi::IOMMU_HWPT_GET_DIRTY_BITMAP, "IOMMU_HWPT_GET_DIRTY_BITMAP", &command);
  return bitmap.toJs(info.Env());
}

// (hwpt or viommu, format, fields) => number of entries handled; an error carries this number too
Napi::Value hwptInvalidate(const Napi::CallbackInfo& info, File& self) {
  const Arguments arguments(info);
  static constexpr std::pair<const char*, Format> kFormats[] = {{"vtd-s1", Format::vtdS1},
                                                                {"arm-smmuv3", Format::armSmmuv3}};
  uapi::iommu_hwpt_invalidate command{};
  command.size = sizeof command;
  command.hwpt_id = arguments.u32(0, "hwpt");
  std::vector<uapi::iommu_hwpt_vtd_s1_invalidate> vtd;
  std::vector<uapi::iommu_viommu_arm_smmuv3_invalidate> arm;
  if (oneOf(arguments, 1, "format", kFormats) == Format::vtdS1) {
    const std::vector<uint64_t> from = fields(arguments, 2, 3);  // address, pages, leaf
    for (size_t at = 0; at < from.size(); at += 3)
      vtd.push_back({from[at], from[at + 1], from[at + 2] != 0 ? uapi::IOMMU_VTD_INV_FLAGS_LEAF : 0, 0});
    command.data_type = uapi::IOMMU_HWPT_INVALIDATE_DATA_VTD_S1;
    command.data_uptr = reinterpret_cast<uint64_t>(vtd.data());
    command.entry_len = sizeof vtd[0];
    command.entry_num = static_cast<uint32_t>(vtd.size());
  } else {
    const std::vector<uint64_t> from = fields(arguments, 2, 2);
    for (size_t at = 0; at < from.size(); at += 2) arm.push_back({{from[at], from[at + 1]}});
    command.data_type = uapi::IOMMU_VIOMMU_INVALIDATE_DATA_ARM_SMMUV3;
    command.data_uptr = reinterpret_cast<uint64_t>(arm.data());
    command.entry_len = sizeof arm[0];
    command.entry_num = static_cast<uint32_t>(arm.size());
  }
  const uint32_t given = command.entry_num;
  OpenFile& file = self.live(info.Env());
  const int result =
      file.backend->ioctl(file.fd, uapi::IOMMU_HWPT_INVALIDATE, reinterpret_cast<uintptr_t>(&command));
  // A kernel without the request writes no number back.
  Reply(info.Env(), "ioctl", "IOMMU_HWPT_INVALIDATE").counted(command.entry_num, given, "entries");
  if (result < 0)
    throwErrnoAfter(info.Env(), result, "IOMMU_HWPT_INVALIDATE", result == -ENOTTY ? 0 : command.entry_num);
  return number(info.Env(), command.entry_num);
}

// (device, type?) => HwInfo
Napi::Value hwInfo(const Napi::CallbackInfo& info, File& self) {
  const Napi::Env env = info.Env();
  const Arguments arguments(info);
  static constexpr std::pair<const char*, uint32_t> kTypes[] = {
      {"tegra241-cmdqv", uapi::IOMMU_HW_INFO_TYPE_TEGRA241_CMDQV}};
  HardwareData data{};
  uapi::iommu_hw_info command{};
  command.size = sizeof command;
  command.dev_id = arguments.u32(0, "device");
  command.data_len = sizeof data;
  command.data_uptr = reinterpret_cast<uint64_t>(&data);
  if (!info[1].IsUndefined()) {
    command.flags = uapi::IOMMU_HW_INFO_FLAG_INPUT_TYPE;
    command.in_data_type = oneOf(arguments, 1, "type", kTypes);
  }
  self.ioctl(env, uapi::IOMMU_GET_HW_INFO, "IOMMU_GET_HW_INFO", &command);

  const auto can = [&](uint32_t flag) { return (command.out_capabilities & flag) != 0; };
  Napi::Object capabilities = Napi::Object::New(env);
  capabilities.Set("dirtyTracking", can(uapi::IOMMU_HW_CAP_DIRTY_TRACKING));
  capabilities.Set("pciPasidExec", can(uapi::IOMMU_HW_CAP_PCI_PASID_EXEC));
  capabilities.Set("pciPasidPriv", can(uapi::IOMMU_HW_CAP_PCI_PASID_PRIV));
  capabilities.Set("pciAtsNotSupported", can(uapi::IOMMU_HW_CAP_PCI_ATS_NOT_SUPPORTED));
  Napi::Object answer = Napi::Object::New(env);
  setHardware(env, answer, command, data);
  answer.Set("capabilities", capabilities);
  answer.Set("maxPasidLog2", number(env, command.out_max_pasid_log2));
  return answer;
}

}  // namespace

std::vector<File::Call> hwptTable() {
  return {File::call<hwptAlloc>("hwptAlloc"), File::call<hwptSetDirtyTracking>("hwptSetDirtyTracking"),
          File::call<hwptDirtyBitmap>("hwptDirtyBitmap"), File::call<hwptInvalidate>("hwptInvalidate"),
          File::call<hwInfo>("hwInfo")};
}

}  // namespace vfio::binding
