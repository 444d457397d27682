#include "hosts.h"

#include <mutex>
#include <utility>
#include <vector>

#include "../controls.h"
#include "../inject/faulty_host.h"
#include "../kernel/kernel.h"
#include "../soft/host/host.h"
#include "../soft/mm/memory.h"

namespace vfio::binding {
namespace {

std::mutex lock;
std::vector<std::weak_ptr<Backend>>& softwareHosts() {
  static std::vector<std::weak_ptr<Backend>> hosts;
  return hosts;
}

// The memory of this process. All hosts share it, because a page may be mapped for devices of several hosts.
const std::shared_ptr<soft::mm::Memory>& processMemory() {
  static const auto memory = std::make_shared<soft::mm::Memory>();
  return memory;
}

soft::HostOptions optionsOf(const Arguments& arguments, size_t index) {
  soft::HostOptions options;
  if (!arguments[index].IsUndefined()) {
    const auto kernel = soft::KernelVersion::parse(arguments.text(index, "software.kernel"));
    if (!kernel || !soft::isKnown(*kernel)) {
      const std::string expected =
          "a release from '" + soft::kOldestKernel.text() + "' to '" + soft::kNewestKernel.text() + "'";
      refuse(arguments.env(), expected.c_str(), "software.kernel", arguments[index]);
    }
    options.kernel = *kernel;
  }
  if (!arguments[index + 1].IsUndefined()) options.topology = arguments.text(index + 1, "software.topology");
  if (!arguments[index + 2].IsUndefined())
    options.deterministic = arguments.boolean(index + 2, "software.deterministic");
  options.seed = arguments.optionalU64(index + 3, "software.seed").value_or(0);
  return options;
}

}  // namespace

std::shared_ptr<Backend> kernel() {
  static const auto backend = std::make_shared<KernelBackend>();
  return backend;
}

std::shared_ptr<Backend> makeSoftwareHost(const Arguments& arguments, size_t index) {
  std::shared_ptr<Backend> host;
  try {
    soft::HostOptions options = optionsOf(arguments, index);
    const uint64_t seed = options.seed;
    host = std::make_shared<inject::FaultyHost>(
        std::make_unique<soft::Host>(processMemory(), std::move(options)), seed);
  } catch (const std::invalid_argument& error) {
    refuseDescription(arguments.env(), error);
  }
  const std::lock_guard guard(lock);
  std::erase_if(softwareHosts(), [](const auto& weak) { return weak.expired(); });
  softwareHosts().push_back(host);
  return host;
}

void refuseDescription(Napi::Env env, const std::invalid_argument& error) {
  Napi::TypeError refused = Napi::TypeError::New(env, error.what());
  refused.Set("code", "ERR_INVALID_ARG_TYPE");
  throw refused;
}

void unmapMemory(void* address, size_t size) {
  processMemory()->unmap(reinterpret_cast<uint64_t>(address), size);
}

std::shared_ptr<Backend> hostOf(int fd) {
  const std::lock_guard guard(lock);
  for (const auto& weak : softwareHosts())
    if (auto host = weak.lock(); host && host->controls()->owns(fd)) return host;
  return kernel();
}

}  // namespace vfio::binding
