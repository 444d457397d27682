// The calls of a VFIO group's file.
#include "../uapi/vfio.h"
#include "file.h"

namespace vfio::binding {

// () => { viable, containerSet }
Napi::Value File::groupStatus(const Napi::CallbackInfo& info) {
  uapi::vfio_group_status command{};
  command.argsz = sizeof command;
  ioctl(info.Env(), uapi::VFIO_GROUP_GET_STATUS, "VFIO_GROUP_GET_STATUS", &command);
  Napi::Object answer = Napi::Object::New(info.Env());
  answer.Set("viable", (command.flags & uapi::VFIO_GROUP_FLAGS_VIABLE) != 0);
  answer.Set("containerSet", (command.flags & uapi::VFIO_GROUP_FLAGS_CONTAINER_SET) != 0);
  return answer;
}

// (container or iommufd: File)
Napi::Value File::groupSetContainer(const Napi::CallbackInfo& info) {
  const File* container = File::from(info[0]);
  if (!container) refuse(info.Env(), "a Container or an Iommufd", "to", info[0]);
  OpenFile& to = container->live(info.Env());
  int32_t fd = to.fd;
  const auto lock = to.kernel->changeCompat();  // an iommufd may get a compatibility IOAS by it
  ioctl(info.Env(), uapi::VFIO_GROUP_SET_CONTAINER, "VFIO_GROUP_SET_CONTAINER", &fd);
  return info.Env().Undefined();
}

// ()
Napi::Value File::groupUnsetContainer(const Napi::CallbackInfo& info) {
  ioctl(info.Env(), uapi::VFIO_GROUP_UNSET_CONTAINER, "VFIO_GROUP_UNSET_CONTAINER", nullptr);
  return info.Env().Undefined();
}

// (name, as in the group's devices folder, with " vf_token=UUID" behind it where one is needed) => File
Napi::Value File::groupDevice(const Napi::CallbackInfo& info) {
  std::string name = Arguments(info).text(0, "name");
  const int fd = ioctl(info.Env(), uapi::VFIO_GROUP_GET_DEVICE_FD, "VFIO_GROUP_GET_DEVICE_FD", name.data());
  return File::make(info.Env(), open()->backend, fd);
}

}  // namespace vfio::binding
