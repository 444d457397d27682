// Shared code of the programs that print the answers of groups and containers: the calls on them, and the
// devices that are used. The numbers of groups differ between machines and are not printed.
#pragma once

#include <linux/capability.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <string>
#include <vector>

#include "../../native/uapi/vfio.h"
#include "../../native/uapi/vfio_container.h"
#include "trace_harness.h"

namespace vfio::trace {

using namespace uapi;

inline std::string answer(int64_t result) {
  return result < 0 ? strerrorname_np(static_cast<int>(-result)) : std::to_string(result);
}
inline void told(const char* what, int64_t result) { say("%s: %s", what, answer(result).c_str()); }
// Prints the answer of a call that returns a descriptor, without the descriptor's number.
inline int opened(const char* what, int fd) {
  say("%s: %s", what, fd < 0 ? answer(fd).c_str() : "a descriptor");
  return fd;
}
inline void shut(int& fd) {
  if (fd >= 0) host->close(fd);
  fd = -1;
}

template <typename Struct>
inline int call(int fd, uint32_t request, Struct& argument) {
  return host->ioctl(fd, request, reinterpret_cast<uintptr_t>(&argument));
}
inline int plain(int fd, uint32_t request, uintptr_t argument = 0) {
  return host->ioctl(fd, request, argument);
}

inline const std::string pci = "/sys/bus/pci/";
inline const char* const kAlone = "0000:00:10.0";
inline const char* const kFirst = "0000:03:01.0";
inline const char* const kSecond = "0000:03:02.0";

inline void bindTo(const char* bdf, const char* driver) {
  const std::string device = pci + "devices/" + bdf + "/";
  (void)put(device + "driver/unbind", bdf);
  (void)put(device + "driver_override", std::string(driver) + "\n");
  if (*driver != '\0') (void)put(pci + "drivers_probe", bdf);
}

inline std::string groupNumber(const char* bdf) {
  std::string target(4096, '\0');
  const int64_t size =
      host->readlink((pci + "devices/" + bdf + "/iommu_group").c_str(), target.data(), target.size());
  if (size < 0) return "none";
  target.resize(static_cast<size_t>(size));
  return target.substr(target.rfind('/') + 1);
}
inline int openGroup(const char* bdf) {
  return host->open(("/dev/vfio/" + groupNumber(bdf)).c_str(), O_RDWR);
}
inline int openContainer() { return host->open("/dev/vfio/vfio", O_RDWR); }
inline int openCdev(const char* bdf) {
  std::vector<std::string> names;
  if (host->list((pci + "devices/" + bdf + "/vfio-dev").c_str(), names) < 0 || names.empty()) return -ENOENT;
  return host->open(("/dev/vfio/devices/" + names.front()).c_str(), O_RDWR);
}
inline int setContainer(int group, int container) { return call(group, VFIO_GROUP_SET_CONTAINER, container); }
inline int deviceOf(int group, const char* name) {
  return plain(group, VFIO_GROUP_GET_DEVICE_FD, reinterpret_cast<uintptr_t>(name));
}
inline void sayStatus(const char* what, int group) {
  vfio_group_status status{.argsz = sizeof status, .flags = 77};
  const int result = call(group, VFIO_GROUP_GET_STATUS, status);
  say("status %s: %s flags %u", what, answer(result).c_str(), status.flags);
}
inline int bindCdev(int fd, int iommufd) {
  vfio_device_bind_iommufd bind{.argsz = 16, .iommufd = iommufd};
  return call(fd, VFIO_DEVICE_BIND_IOMMUFD, bind);
}

inline void sayHotReset(const char* what, int fd, const std::vector<int32_t>& groups, uint32_t count) {
  struct {
    vfio_pci_hot_reset_info head;
    vfio_pci_dependent_device devices[8];
  } info{.head = {.argsz = sizeof info}};
  int result = call(fd, VFIO_DEVICE_GET_PCI_HOT_RESET_INFO, info);
  say("hot reset info %s: %s flags %x count %u", what, answer(result).c_str(), info.head.flags,
      info.head.count);
  for (uint32_t i = 0; result == 0 && i < info.head.count; ++i) {
    const auto& entry = info.devices[i];
    const bool isGroup = (info.head.flags & VFIO_PCI_HOT_RESET_FLAG_DEV_ID) == 0;
    const bool right = std::to_string(entry.group_id) == groupNumber(kFirst);
    const std::string id =
        isGroup ? (right ? "the group" : "another group") : "device " + std::to_string(entry.devid);
    say("  %s %x:%x.%x", id.c_str(), entry.segment, entry.bus, entry.devfn);
  }
  std::vector<int32_t> request(3 + std::max<size_t>(groups.size(), 1));
  vfio_pci_hot_reset head{.argsz = static_cast<uint32_t>(request.size() * 4), .count = count};
  std::memcpy(request.data(), &head, sizeof head);
  for (size_t i = 0; i < groups.size(); ++i) request[3 + i] = groups[i];
  told("  reset", host->ioctl(fd, VFIO_DEVICE_PCI_HOT_RESET, reinterpret_cast<uint64_t>(request.data())));
}

inline void sayExtensions(const char* what, int fd) {
  std::string all;
  for (unsigned i = 0; i < 13; ++i) all += " " + answer(plain(fd, VFIO_CHECK_EXTENSION, i));
  all += " " + answer(plain(fd, VFIO_CHECK_EXTENSION, 0x100000001));
  say("extensions %s:%s", what, all.c_str());
}

// Gives a capability to this thread, if it may have it, or takes it away.
inline void setCapability(unsigned capability, bool wanted) {
  __user_cap_header_struct header = {_LINUX_CAPABILITY_VERSION_3, 0};
  __user_cap_data_struct data[_LINUX_CAPABILITY_U32S_3] = {};
  if (syscall(SYS_capget, &header, data) != 0) return;
  uint32_t& effective = data[CAP_TO_INDEX(capability)].effective;
  effective = wanted ? effective | CAP_TO_MASK(capability) : effective & ~CAP_TO_MASK(capability);
  (void)syscall(SYS_capset, &header, data);
}

}  // namespace vfio::trace
