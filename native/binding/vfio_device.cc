// The calls of a VFIO device's file, but for its regions.
#include <array>
#include <charconv>
#include <cstdio>
#include <cstring>
#include <vector>

#include "../uapi/vfio.h"
#include "async.h"
#include "file.h"
#include "replies.h"
#include "values.h"

namespace vfio::binding {
namespace {

uint32_t actionFlag(const Arguments& arguments, size_t index) {
  const std::string name = arguments.text(index, "action");
  if (name == "trigger") return uapi::VFIO_IRQ_SET_ACTION_TRIGGER;
  if (name == "mask") return uapi::VFIO_IRQ_SET_ACTION_MASK;
  if (name == "unmask") return uapi::VFIO_IRQ_SET_ACTION_UNMASK;
  refuse(arguments.env(), "'trigger', 'mask' or 'unmask'", "action", arguments[index]);
}

// "00112233-4455-6677-8899-aabbccddeeff": the bytes in that order.
std::array<uint8_t, 16> uuid(const Arguments& arguments, size_t index) {
  const std::string text = arguments.text(index, "token");
  std::array<uint8_t, 16> bytes{};
  size_t at = 0;
  bool good = text.size() == 36;
  for (uint8_t& byte : bytes) {
    if (!good) break;
    if ((at == 8 || at == 13 || at == 18 || at == 23) && text[at++] != '-') good = false;
    const auto [end, error] = std::from_chars(text.data() + at, text.data() + at + 2, byte, 16);
    good = good && error == std::errc() && end == text.data() + at + 2;
    at += 2;
  }
  if (!good)
    refuse(arguments.env(), "a UUID such as '00112233-4455-6677-8899-aabbccddeeff'", "token",
           arguments[index]);
  return bytes;
}

// (iommufd: File, token?: a UUID) => device id
Napi::Value bindIommufd(const Napi::CallbackInfo& info, File& self) {
  const File* iommufd = File::from(info[0]);
  if (!iommufd || iommufd->kind() != FileKind::iommufd) refuse(info.Env(), "an Iommufd", "iommufd", info[0]);
  uapi::vfio_device_bind_iommufd command{};
  // Without a token the struct can have its first, short size, which every kernel accepts.
  command.argsz = uapi::vfio_device_bind_iommufd_min;
  std::array<uint8_t, 16> token{};
  if (!info[1].IsUndefined()) {
    token = uuid(Arguments(info), 1);
    command.argsz = sizeof command;
    command.flags = uapi::VFIO_DEVICE_BIND_FLAG_TOKEN;
    command.token_uuid_ptr = reinterpret_cast<uint64_t>(token.data());
  }
  command.iommufd = iommufd->live(info.Env()).fd;
  self.ioctl(info.Env(), uapi::VFIO_DEVICE_BIND_IOMMUFD, "VFIO_DEVICE_BIND_IOMMUFD", &command);
  return Napi::Number::New(info.Env(), command.out_devid);
}

// (token: a UUID)
Napi::Value setVfToken(const Napi::CallbackInfo& info, File& self) {
  struct {
    uapi::vfio_device_feature feature;
    std::array<uint8_t, 16> token;
  } command{};
  command.feature.argsz = sizeof command;
  command.feature.flags = uapi::VFIO_DEVICE_FEATURE_SET | uapi::VFIO_DEVICE_FEATURE_PCI_VF_TOKEN;
  command.token = uuid(Arguments(info), 0);
  self.ioctl(info.Env(), uapi::VFIO_DEVICE_FEATURE, "VFIO_DEVICE_FEATURE_PCI_VF_TOKEN", &command);
  return info.Env().Undefined();
}

// (ptId, pasid?) => the page table in use
Napi::Value attach(const Napi::CallbackInfo& info, File& self) {
  const Arguments arguments(info);
  const std::optional<uint32_t> pasid = arguments.optionalU32(1, "pasid");
  uapi::vfio_device_attach_iommufd_pt command{};
  command.argsz = pasid ? sizeof command : uapi::vfio_device_attach_iommufd_pt_min;
  command.flags = pasid ? uapi::VFIO_DEVICE_ATTACH_PASID : 0;
  command.pt_id = arguments.u32(0, "to");
  command.pasid = pasid.value_or(0);
  self.ioctl(info.Env(), uapi::VFIO_DEVICE_ATTACH_IOMMUFD_PT, "VFIO_DEVICE_ATTACH_IOMMUFD_PT", &command);
  return Napi::Number::New(info.Env(), command.pt_id);
}

// (pasid?)
Napi::Value detach(const Napi::CallbackInfo& info, File& self) {
  const std::optional<uint32_t> pasid = Arguments(info).optionalU32(0, "pasid");
  uapi::vfio_device_detach_iommufd_pt command{};
  command.argsz = pasid ? sizeof command : uapi::vfio_device_detach_iommufd_pt_min;
  command.flags = pasid ? uapi::VFIO_DEVICE_DETACH_PASID : 0;
  command.pasid = pasid.value_or(0);
  self.ioctl(info.Env(), uapi::VFIO_DEVICE_DETACH_IOMMUFD_PT, "VFIO_DEVICE_DETACH_IOMMUFD_PT", &command);
  return info.Env().Undefined();
}

// () => { numRegions, numIrqs, pci, resettable }
Napi::Value deviceInfo(const Napi::CallbackInfo& info, File& self) {
  uapi::vfio_device_info command{};
  command.argsz = sizeof command;
  self.ioctl(info.Env(), uapi::VFIO_DEVICE_GET_INFO, "VFIO_DEVICE_GET_INFO", &command);
  Napi::Object answer = Napi::Object::New(info.Env());
  answer.Set("numRegions", command.num_regions);
  answer.Set("numIrqs", command.num_irqs);
  answer.Set("pci", (command.flags & uapi::VFIO_DEVICE_FLAGS_PCI) != 0);
  answer.Set("resettable", (command.flags & uapi::VFIO_DEVICE_FLAGS_RESET) != 0);
  return answer;
}

// (index) => { count, eventfd, maskable, automasked, resizable }
Napi::Value irqInfo(const Napi::CallbackInfo& info, File& self) {
  uapi::vfio_irq_info command{};
  command.argsz = sizeof command;
  command.index = Arguments(info).u32(0, "index");
  self.ioctl(info.Env(), uapi::VFIO_DEVICE_GET_IRQ_INFO, "VFIO_DEVICE_GET_IRQ_INFO", &command);
  constexpr size_t kMost = size_t{1} << 16;  // a PCI function has 2,048
  Reply(info.Env(), "ioctl", "VFIO_DEVICE_GET_IRQ_INFO").counted(command.count, kMost, "vectors");
  Napi::Object answer = Napi::Object::New(info.Env());
  answer.Set("count", command.count);
  answer.Set("eventfd", (command.flags & uapi::VFIO_IRQ_INFO_EVENTFD) != 0);
  answer.Set("maskable", (command.flags & uapi::VFIO_IRQ_INFO_MASKABLE) != 0);
  answer.Set("automasked", (command.flags & uapi::VFIO_IRQ_INFO_AUTOMASKED) != 0);
  answer.Set("resizable", (command.flags & uapi::VFIO_IRQ_INFO_NORESIZE) == 0);
  return answer;
}

// (index, start, count, action): without data. Returns the result of the ioctl, see setIrqEventfds.
Napi::Value setIrqs(const Napi::CallbackInfo& info, File& self) {
  const Arguments arguments(info);
  uapi::vfio_irq_set command{};
  command.argsz = sizeof command;
  command.index = arguments.u32(0, "index");
  command.start = arguments.u32(1, "start");
  command.count = arguments.u32(2, "count");
  command.flags = uapi::VFIO_IRQ_SET_DATA_NONE | actionFlag(arguments, 3);
  return Napi::Number::New(
      info.Env(), self.ioctl(info.Env(), uapi::VFIO_DEVICE_SET_IRQS, "VFIO_DEVICE_SET_IRQS", &command));
}

// (index, start, action, eventfds: Int32Array) => 0, or, if nothing was enabled, how many vectors are
// available
Napi::Value setIrqEventfds(const Napi::CallbackInfo& info, File& self) {
  const Arguments arguments(info);
  if (!info[3].IsTypedArray() || info[3].As<Napi::TypedArray>().TypedArrayType() != napi_int32_array)
    refuse(info.Env(), "an Int32Array", "eventfds", info[3]);
  const auto eventfds = info[3].As<Napi::Int32Array>();
  const size_t bytes = eventfds.ElementLength() * sizeof(int32_t);
  uapi::vfio_irq_set header{};
  header.argsz = static_cast<uint32_t>(sizeof header + bytes);
  header.index = arguments.u32(0, "index");
  header.start = arguments.u32(1, "start");
  header.count = static_cast<uint32_t>(eventfds.ElementLength());
  header.flags = uapi::VFIO_IRQ_SET_DATA_EVENTFD | actionFlag(arguments, 2);
  std::vector<uint8_t> command(header.argsz);
  std::memcpy(command.data(), &header, sizeof header);
  if (bytes) std::memcpy(command.data() + sizeof header, eventfds.Data(), bytes);
  return Napi::Number::New(
      info.Env(), self.ioctl(info.Env(), uapi::VFIO_DEVICE_SET_IRQS, "VFIO_DEVICE_SET_IRQS", command.data()));
}

// () => Promise<void>. A function reset takes 100 ms or more, so it runs off the event loop.
Napi::Value reset(const Napi::CallbackInfo& info, File& self) {
  (void)self.live(info.Env());
  return AsyncCall::start(
      info.Env(), {"ioctl", "VFIO_DEVICE_RESET"},
      [file = self.open()]() -> int64_t {
        return file->backend->ioctl(file->fd, uapi::VFIO_DEVICE_RESET, 0);
      },
      [](Napi::Env env, int64_t) { return env.Undefined(); });
}

// () => { deviceIds, functions: { bdf, id }[] }: the functions that a hot reset would reset. If `deviceIds`
// is true, `id` is a device id in the iommufd; otherwise it is a group number.
Napi::Value hotResetInfo(const Napi::CallbackInfo& info, File& self) {
  const Napi::Env env = info.Env();
  OpenFile& open = self.live(env);
  const Reply reply(env, "ioctl", "VFIO_DEVICE_GET_PCI_HOT_RESET_INFO");
  uapi::vfio_pci_hot_reset_info header{};
  using Dependent = uapi::vfio_pci_dependent_device;
  Room room(reply, sizeof header + 16 * sizeof(Dependent));
  for (;;) {
    header = {};
    room.begin(header);
    const int result = open.backend->ioctl(open.fd, uapi::VFIO_DEVICE_GET_PCI_HOT_RESET_INFO,
                                           reinterpret_cast<uintptr_t>(room.data()));
    room.end(header);
    const size_t needed = sizeof header + size_t{header.count} * sizeof(Dependent);
    if (result == -ENOSPC && needed > room.size()) {
      room.grow(needed);
      continue;
    }
    if (result < 0) throwErrno(env, result, "ioctl", "VFIO_DEVICE_GET_PCI_HOT_RESET_INFO");
    break;
  }
  Napi::Array functions = Napi::Array::New(env);
  for (const Dependent& each :
       entriesOf<Dependent>(reply, room.bytes(), sizeof header, header.count, "functions")) {
    char bdf[32];
    std::snprintf(bdf, sizeof bdf, "%04x:%02x:%02x.%x", each.segment, each.bus, each.devfn >> 3,
                  each.devfn & 7);
    Napi::Object function = Napi::Object::New(env);
    function.Set("bdf", bdf);
    function.Set("id", number(env, each.devid));
    functions.Set(functions.Length(), function);
  }
  Napi::Object answer = Napi::Object::New(env);
  answer.Set("deviceIds", (header.flags & uapi::VFIO_PCI_HOT_RESET_FLAG_DEV_ID) != 0);
  answer.Set("functions", functions);
  return answer;
}

// (groups: File[]) => Promise<void>. Runs off the event loop, like reset.
Napi::Value hotReset(const Napi::CallbackInfo& info, File& self) {
  (void)self.live(info.Env());
  if (!info[0].IsArray()) refuse(info.Env(), "an array", "groups", info[0]);
  const auto list = info[0].As<Napi::Array>();
  std::vector<std::shared_ptr<OpenFile>> groups;
  for (uint32_t i = 0; i < list.Length(); ++i) {
    const Napi::Value value = list[i];
    const File* group = File::from(value);
    if (!group || group->kind() != FileKind::group) refuse(info.Env(), "a Group", "groups", value);
    (void)group->live(info.Env());
    groups.push_back(group->open());
  }
  return AsyncCall::start(
      info.Env(), {"ioctl", "VFIO_DEVICE_PCI_HOT_RESET"},
      [file = self.open(), groups = std::move(groups)]() -> int64_t {
        uapi::vfio_pci_hot_reset header{};
        header.count = static_cast<uint32_t>(groups.size());
        header.argsz = static_cast<uint32_t>(sizeof header + groups.size() * sizeof(int32_t));
        std::vector<uint8_t> command(header.argsz);
        std::memcpy(command.data(), &header, sizeof header);
        for (size_t i = 0; i < groups.size(); ++i) {
          const int32_t fd = groups[i]->fd;
          std::memcpy(command.data() + sizeof header + i * sizeof fd, &fd, sizeof fd);
        }
        return file->backend->ioctl(file->fd, uapi::VFIO_DEVICE_PCI_HOT_RESET,
                                    reinterpret_cast<uintptr_t>(command.data()));
      },
      [](Napi::Env env, int64_t) { return env.Undefined(); });
}

}  // namespace

std::vector<File::Call> deviceTable() {
  return {File::call<bindIommufd>("bindIommufd"),
          File::call<setVfToken>("setVfToken"),
          File::call<attach>("attach"),
          File::call<detach>("detach"),
          File::call<deviceInfo>("deviceInfo"),
          File::call<irqInfo>("irqInfo"),
          File::call<setIrqs>("setIrqs"),
          File::call<setIrqEventfds>("setIrqEventfds"),
          File::call<reset>("reset"),
          File::call<hotResetInfo>("hotResetInfo"),
          File::call<hotReset>("hotReset")};
}

}  // namespace vfio::binding
