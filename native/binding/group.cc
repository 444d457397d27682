// The calls of a VFIO group's file.
#include "../uapi/vfio.h"
#include "file.h"

namespace vfio::binding {
namespace {

// () => { viable, containerSet }
Napi::Value groupStatus(const Napi::CallbackInfo& info, File& self) {
  uapi::vfio_group_status command{};
  command.argsz = sizeof command;
  self.ioctl(info.Env(), uapi::VFIO_GROUP_GET_STATUS, "VFIO_GROUP_GET_STATUS", &command);
  Napi::Object answer = Napi::Object::New(info.Env());
  answer.Set("viable", (command.flags & uapi::VFIO_GROUP_FLAGS_VIABLE) != 0);
  answer.Set("containerSet", (command.flags & uapi::VFIO_GROUP_FLAGS_CONTAINER_SET) != 0);
  return answer;
}

// (container or iommufd: File)
Napi::Value groupSetContainer(const Napi::CallbackInfo& info, File& self) {
  const File* container = File::from(info[0]);
  if (!container || (container->kind() != FileKind::container && container->kind() != FileKind::iommufd))
    refuse(info.Env(), "a Container or an Iommufd", "to", info[0]);
  OpenFile& to = container->live(info.Env());
  int32_t fd = to.fd;
  const auto lock = to.kernel->changeCompat();  // the request may give an iommufd a compatibility IOAS
  self.ioctl(info.Env(), uapi::VFIO_GROUP_SET_CONTAINER, "VFIO_GROUP_SET_CONTAINER", &fd);
  return info.Env().Undefined();
}

// ()
Napi::Value groupUnsetContainer(const Napi::CallbackInfo& info, File& self) {
  self.ioctl(info.Env(), uapi::VFIO_GROUP_UNSET_CONTAINER, "VFIO_GROUP_UNSET_CONTAINER", nullptr);
  return info.Env().Undefined();
}

// (name) => File. The name is as in the group's `devices` folder, followed by " vf_token=UUID" if the device
// needs a token.
Napi::Value groupDevice(const Napi::CallbackInfo& info, File& self) {
  std::string name = Arguments(info).text(0, "name");
  const int fd =
      self.ioctl(info.Env(), uapi::VFIO_GROUP_GET_DEVICE_FD, "VFIO_GROUP_GET_DEVICE_FD", name.data());
  return File::make(info.Env(), self.open()->backend, fd, FileKind::device);
}

}  // namespace

std::vector<File::Call> groupTable() {
  return {File::call<groupStatus>("groupStatus"), File::call<groupSetContainer>("groupSetContainer"),
          File::call<groupUnsetContainer>("groupUnsetContainer"), File::call<groupDevice>("groupDevice")};
}

}  // namespace vfio::binding
