// Fault queues, virtual IOMMUs with their objects, and the records that are read from their files.
#include <array>
#include <cerrno>
#include <cstring>
#include <span>
#include <vector>

#include "../uapi/iommufd.h"
#include "file.h"
#include "kernel_object.h"
#include "records.h"
#include "replies.h"
#include "values.h"

namespace vfio::binding {
namespace {

constexpr std::pair<const char*, uint32_t> kViommuTypes[] = {
    {"arm-smmuv3", uapi::IOMMU_VIOMMU_TYPE_ARM_SMMUV3},
    {"tegra241-cmdqv", uapi::IOMMU_VIOMMU_TYPE_TEGRA241_CMDQV}};
constexpr std::pair<const char*, uint32_t> kEventTypes[] = {
    {"arm-smmuv3", uapi::IOMMU_VEVENTQ_TYPE_ARM_SMMUV3},
    {"tegra241-cmdqv", uapi::IOMMU_VEVENTQ_TYPE_TEGRA241_CMDQV}};
constexpr std::pair<const char*, uint32_t> kQueueTypes[] = {
    {"tegra241-cmdqv", uapi::IOMMU_HW_QUEUE_TYPE_TEGRA241_CMDQV}};

// The result of an allocation that also returns a file: { object, file }
Napi::Value objectWithFile(Napi::Env env, const OpenFile& parent, const char* request,
                           std::shared_ptr<ledger::ObjectHandle> object, uint32_t fd, FileKind kind) {
  if (fd > INT32_MAX) Reply(env, "ioctl", request).refuse("its descriptor is " + std::to_string(fd));
  Napi::Object answer = Napi::Object::New(env);
  answer.Set("file", File::make(env, parent.backend, static_cast<int>(fd), kind));
  answer.Set("object", KernelObject::make(env, std::move(object)));
  return answer;
}

// () => { object, file }
Napi::Value faultQueueAlloc(const Napi::CallbackInfo& info, File& self) {
  uapi::iommu_fault_alloc command{};
  command.size = sizeof command;
  auto object = self.allocate(info.Env(), uapi::IOMMU_FAULT_QUEUE_ALLOC, "IOMMU_FAULT_QUEUE_ALLOC", &command,
                              command.out_fault_id);
  return objectWithFile(info.Env(), self.live(info.Env()), "IOMMU_FAULT_QUEUE_ALLOC", std::move(object),
                        command.out_fault_fd, FileKind::faultQueue);
}

// () => IoPageFault[]: whole groups
Napi::Value readFaults(const Napi::CallbackInfo& info, File& self) {
  const Napi::Env env = info.Env();
  const std::vector<uint8_t> bytes = readAll(env, self.live(env), sizeof(uapi::iommu_hwpt_pgfault));
  Napi::Array faults = Napi::Array::New(env);
  for (size_t at = 0; at + sizeof(uapi::iommu_hwpt_pgfault) <= bytes.size();
       at += sizeof(uapi::iommu_hwpt_pgfault)) {
    uapi::iommu_hwpt_pgfault record;
    std::memcpy(&record, bytes.data() + at, sizeof record);
    Napi::Object fault = Napi::Object::New(env);
    fault.Set("deviceId", number(env, record.dev_id));
    fault.Set("pasid", (record.flags & uapi::IOMMU_PGFAULT_FLAGS_PASID_VALID) != 0 ? number(env, record.pasid)
                                                                                   : env.Null());
    fault.Set("address", bigint(env, record.addr));
    fault.Set("group", number(env, record.grpid));
    fault.Set("last", (record.flags & uapi::IOMMU_PGFAULT_FLAGS_LAST_PAGE) != 0);
    fault.Set("access", accessOf(env, record.perm));
    fault.Set("cookie", number(env, record.cookie));
    faults.Set(faults.Length(), fault);
  }
  return faults;
}

// (cookie, code)
Napi::Value respondFault(const Napi::CallbackInfo& info, File& self) {
  const Arguments arguments(info);
  const uapi::iommu_hwpt_page_response response{arguments.u32(0, "cookie"), arguments.u32(1, "code")};
  OpenFile& file = self.live(info.Env());
  const int64_t result = file.backend->write(file.fd, &response, sizeof response);
  if (result < 0) throwErrno(info.Env(), result, "write");
  const Reply reply(info.Env(), "write", nullptr);
  if (reply.moved(result, sizeof response) != sizeof response)
    reply.refuse("it took a part of an answer: " + std::to_string(result) + " bytes");
  return info.Env().Undefined();
}

// (device, hwpt, type) => { object, mmap: { offset, length } | null }
Napi::Value viommuAlloc(const Napi::CallbackInfo& info, File& self) {
  const Napi::Env env = info.Env();
  const Arguments arguments(info);
  uapi::iommu_viommu_tegra241_cmdqv tegra{};
  uapi::iommu_viommu_alloc command{};
  command.size = uapi::iommu_viommu_alloc_min;  // the first size, which every kernel accepts
  command.dev_id = arguments.u32(0, "device");
  command.hwpt_id = arguments.u32(1, "parent");
  command.type = oneOf(arguments, 2, "type", kViommuTypes);
  const bool withPage = command.type == uapi::IOMMU_VIOMMU_TYPE_TEGRA241_CMDQV;
  if (withPage) {
    command.size = sizeof command;
    command.data_len = sizeof tegra;
    command.data_uptr = reinterpret_cast<uint64_t>(&tegra);
  }
  auto object =
      self.allocate(env, uapi::IOMMU_VIOMMU_ALLOC, "IOMMU_VIOMMU_ALLOC", &command, command.out_viommu_id);
  Napi::Object answer = Napi::Object::New(env);
  answer.Set("object", KernelObject::make(env, std::move(object)));
  answer.Set("mmap", env.Null());
  if (withPage) {
    Napi::Object page = Napi::Object::New(env);
    page.Set("offset", bigint(env, tegra.out_vintf_mmap_offset));
    page.Set("length", bigint(env, tegra.out_vintf_mmap_length));
    answer.Set("mmap", page);
  }
  return answer;
}

// (viommu, device, virtId) => KernelObject
Napi::Value vdeviceAlloc(const Napi::CallbackInfo& info, File& self) {
  const Arguments arguments(info);
  uapi::iommu_vdevice_alloc command{};
  command.size = sizeof command;
  command.viommu_id = arguments.u32(0, "viommu");
  command.dev_id = arguments.u32(1, "device");
  command.virt_id = arguments.u64(2, "virtId");
  return KernelObject::make(
      info.Env(), self.allocate(info.Env(), uapi::IOMMU_VDEVICE_ALLOC, "IOMMU_VDEVICE_ALLOC", &command,
                                command.out_vdevice_id));
}

// (viommu, type, depth) => { object, file }
Napi::Value veventqAlloc(const Napi::CallbackInfo& info, File& self) {
  const Arguments arguments(info);
  uapi::iommu_veventq_alloc command{};
  command.size = sizeof command;
  command.viommu_id = arguments.u32(0, "viommu");
  command.type = oneOf(arguments, 1, "type", kEventTypes);
  command.veventq_depth = arguments.u32(2, "depth");
  auto object = self.allocate(info.Env(), uapi::IOMMU_VEVENTQ_ALLOC, "IOMMU_VEVENTQ_ALLOC", &command,
                              command.out_veventq_id);
  return objectWithFile(info.Env(), self.live(info.Env()), "IOMMU_VEVENTQ_ALLOC", std::move(object),
                        command.out_veventq_fd, FileKind::eventQueue);
}

// (type) => ViommuEvent[]: each has a header and, unless the header reports lost events, the data of its type
Napi::Value readEvents(const Napi::CallbackInfo& info, File& self) {
  const Napi::Env env = info.Env();
  const bool arm = oneOf(Arguments(info), 0, "type", kEventTypes) == uapi::IOMMU_VEVENTQ_TYPE_ARM_SMMUV3;
  const size_t size = arm ? sizeof(uapi::iommu_vevent_arm_smmuv3) : sizeof(uapi::iommu_vevent_tegra241_cmdqv);
  const std::vector<uint8_t> bytes = readAll(env, self.live(env), 1);
  Napi::Array events = Napi::Array::New(env);
  const Reply reply(env, "read", nullptr);
  for (size_t at = 0; at < bytes.size();) {
    const auto rest = std::span<const uint8_t>(bytes).subspan(at);
    const auto header = structAt<uapi::iommufd_vevent_header>(reply, rest, "the last event's header");
    at += sizeof header;
    Napi::Object event = Napi::Object::New(env);
    const bool lost = (header.flags & uapi::IOMMU_VEVENTQ_FLAG_LOST_EVENTS) != 0;
    event.Set("type", lost ? "lost" : arm ? "arm-smmuv3" : "tegra241-cmdqv");
    event.Set("sequence", number(env, header.sequence));
    event.Set("lost", lost);
    if (!lost) {
      if (size > bytes.size() - at) reply.refuse("it ends in the middle of an event");
      std::array<uint64_t, 4> words{};
      std::memcpy(words.data(), bytes.data() + at, size);
      at += size;
      event.Set(arm ? "evt" : "lvcmdqErrMap", bigints(env, std::span(words).first(size / sizeof words[0])));
    }
    events.Set(events.Length(), event);
  }
  return events;
}

// (viommu, type, index, iova, length) => KernelObject
Napi::Value hwQueueAlloc(const Napi::CallbackInfo& info, File& self) {
  const Arguments arguments(info);
  uapi::iommu_hw_queue_alloc command{};
  command.size = sizeof command;
  command.viommu_id = arguments.u32(0, "viommu");
  command.type = oneOf(arguments, 1, "type", kQueueTypes);
  command.index = arguments.u32(2, "index");
  command.nesting_parent_iova = arguments.u64(3, "iova");
  command.length = arguments.u64(4, "length");
  return KernelObject::make(
      info.Env(), self.allocate(info.Env(), uapi::IOMMU_HW_QUEUE_ALLOC, "IOMMU_HW_QUEUE_ALLOC", &command,
                                command.out_hw_queue_id));
}

}  // namespace

std::vector<File::Call> viommuTable() {
  return {File::call<faultQueueAlloc>("faultQueueAlloc"), File::call<viommuAlloc>("viommuAlloc"),
          File::call<vdeviceAlloc>("vdeviceAlloc"), File::call<veventqAlloc>("veventqAlloc"),
          File::call<hwQueueAlloc>("hwQueueAlloc")};
}

std::vector<File::Call> faultQueueTable() {
  return {File::call<readFaults>("readFaults"), File::call<respondFault>("respondFault")};
}

std::vector<File::Call> eventQueueTable() { return {File::call<readEvents>("readEvents")}; }

}  // namespace vfio::binding
