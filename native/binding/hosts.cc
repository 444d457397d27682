#include "hosts.h"

#include <mutex>
#include <utility>
#include <vector>

#include "../kernel/kernel.h"

namespace vfio::binding {
namespace {

std::mutex lock;
std::vector<std::weak_ptr<soft::Host>>& softwareHosts() {
  static std::vector<std::weak_ptr<soft::Host>> hosts;
  return hosts;
}

}  // namespace

std::shared_ptr<Backend> kernel() {
  static const auto backend = std::make_shared<KernelBackend>();
  return backend;
}

const std::shared_ptr<soft::mm::Memory>& processMemory() {
  static const auto memory = std::make_shared<soft::mm::Memory>();
  return memory;
}

std::shared_ptr<soft::Host> makeSoftwareHost(soft::HostOptions options) {
  auto host = std::make_shared<soft::Host>(processMemory(), std::move(options));
  const std::lock_guard guard(lock);
  std::erase_if(softwareHosts(), [](const auto& weak) { return weak.expired(); });
  softwareHosts().push_back(host);
  return host;
}

std::shared_ptr<Backend> hostOf(int fd) {
  const std::lock_guard guard(lock);
  for (const auto& weak : softwareHosts())
    if (const auto host = weak.lock(); host && host->owns(fd)) return host;
  return kernel();
}

}  // namespace vfio::binding
