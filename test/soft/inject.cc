// Faults that are injected: calls that fail before the host sees them, and devices in virtual time. Prints
// its claims; exits with 1 if one does not hold.
#include <fcntl.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <cstdio>
#include <memory>
#include <stdexcept>
#include <string>
#include <thread>
#include <vector>

#include "../../native/inject/faulty_host.h"
#include "../../native/soft/host/host.h"
#include "../../native/soft/mm/memory.h"
#include "../../native/uapi/iommufd.h"

using namespace vfio;
using namespace vfio::uapi;

namespace {

bool failed = false;

void claim(bool holds, const std::string& text) {
  std::printf("%s %s\n", holds ? "ok  " : "FAIL", text.c_str());
  failed |= !holds;
}

std::unique_ptr<inject::FaultyHost> makeHost(soft::HostOptions options = {}) {
  const uint64_t seed = options.seed;
  static const auto memory = std::make_shared<soft::mm::Memory>();
  return std::make_unique<inject::FaultyHost>(std::make_unique<soft::Host>(memory, std::move(options)), seed);
}

int allocate(Backend& host, int iommufd) {
  iommu_ioas_alloc alloc{.size = sizeof alloc};
  return host.ioctl(iommufd, IOMMU_IOAS_ALLOC, reinterpret_cast<uintptr_t>(&alloc));
}

void calls() {
  const auto host = makeHost();
  const int iommufd = host->open("/dev/iommu", O_RDWR);
  std::vector<std::string> struck;
  auto fault = host->injectCallFault(
      {"IOMMU_IOAS_ALLOC", ENOSPC, {.nth = 2}, [&](const char* what) { struck.emplace_back(what); }});
  claim(allocate(*host, iommufd) == 0 && allocate(*host, iommufd) == -ENOSPC && allocate(*host, iommufd) == 0,
        "the second call fails, and no other one");
  claim(struck == std::vector<std::string>{"IOMMU_IOAS_ALLOC"}, "the strike is told once");
  fault = host->injectCallFault({"", ENOMEM});
  claim(host->open("/dev/iommu", O_RDWR) == -ENOMEM && allocate(*host, iommufd) == -ENOMEM,
        "without a name each call that can fail does");
  iommu_destroy destroy{.size = sizeof destroy, .id = 1};
  claim(host->ioctl(iommufd, IOMMU_DESTROY, reinterpret_cast<uintptr_t>(&destroy)) == 0,
        "... but not those that clean up");
  fault.reset();
  claim(allocate(*host, iommufd) == 0, "a fault ends with its owner");
  int refused = 0;
  for (const char* name : {"close", "munmap", "IOMMU_IOAS", "nothing"}) {
    try {
      (void)host->injectCallFault({name, ENOMEM});
    } catch (const std::invalid_argument&) {
      ++refused;
    }
  }
  claim(refused == 4, "names that no such call has are refused");
  // Faults come and go while other threads make calls.
  std::atomic<bool> stop = false;
  std::atomic<unsigned> wrong = 0;
  std::vector<std::thread> threads;
  for (int i = 0; i < 2; ++i)
    threads.emplace_back([&] {
      while (!stop) {
        const int result = allocate(*host, iommufd);
        if (result != 0 && result != -ENOSPC) ++wrong;
      }
    });
  for (int i = 0; i < 2000; ++i) (void)host->injectCallFault({"ioctl", ENOSPC, {.probability = 0.5}});
  stop = true;
  for (auto& thread : threads) thread.join();
  claim(wrong == 0, "calls of other threads fail with the code of the fault, or not at all");
  host->close(iommufd);
}

void time() {
  const auto real = makeHost();
  claim(real->step() == -EOPNOTSUPP && real->advance(std::chrono::nanoseconds(1)) == -EOPNOTSUPP,
        "a host with real time has no steps");
  const auto host = makeHost({.deterministic = true});
  claim(host->step() == 0 && host->advance(std::chrono::hours(1)) == 0, "time passes with nothing to do");
  for (int i = 0; i < 4; ++i) (void)host->advance(std::chrono::nanoseconds::max());
  claim(host->step() == 0 && host->takeTrace().empty(), "the clock stops at its end");
  host->settle();
}

}  // namespace

int main() {
  calls();
  time();
  return failed ? 1 : 0;
}
