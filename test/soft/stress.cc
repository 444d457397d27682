// Many threads at the same time on two hosts of one process: map, unmap, copy, DMA, attach, close, munmap.
// Meant for ThreadSanitizer and AddressSanitizer, which find errors that the claims here can't.
#include <fcntl.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <functional>
#include <mutex>
#include <random>
#include <set>
#include <thread>

#include "../../native/uapi/vfio.h"
#include "iommufd_harness.h"

namespace vfio::soft::check {
namespace {

constexpr auto kDuration = std::chrono::milliseconds(1500);
constexpr uint64_t kPages = 64;
constexpr uint64_t kArea = uint64_t{1} << 32;    // the IOVAs that the mapping threads use
constexpr uint64_t kSteady = uint64_t{1} << 20;  // the IOVA of a mapping that stays; the edu can reach it
constexpr uint64_t kEduBuffer = 0x40000;

// How often a call succeeded, and the errors of the other calls.
struct Tally {
  std::atomic<uint64_t> worked{0};
  std::mutex lock;
  std::set<int> errors;

  void note(int64_t result) {
    if (result >= 0) {
      ++worked;
      return;
    }
    const std::lock_guard hold(lock);
    errors.insert(static_cast<int>(-result));
  }
  [[nodiscard]] bool onlyErrors(std::set<int> expected) {
    for (const int error : errors) {
      if (!expected.contains(error)) std::printf("     unexpected %s\n", std::strerror(error));
    }
    return std::includes(expected.begin(), expected.end(), errors.begin(), errors.end());
  }
};

// One host with an IOAS that its edu is attached to.
struct Machine {
  explicit Machine(std::shared_ptr<mm::Memory> memory) : host(std::move(memory)) {
    for (const char* bdf : {"0000:00:10.0", "0000:00:14.0"}) {
      put("/sys/bus/pci/devices/" + std::string(bdf) + "/driver_override", "vfio-pci");
      put("/sys/bus/pci/drivers_probe", bdf);
    }
    iommufd = host.open("/dev/iommu", O_RDWR | O_CLOEXEC);
    device = host.open("/dev/vfio/devices/vfio0", O_RDWR | O_CLOEXEC);
    uapi::vfio_device_bind_iommufd bind = {16, 0, iommufd, 0, 0};
    uapi::iommu_ioas_alloc first = {sizeof(first), 0, 0};
    uapi::iommu_ioas_alloc second = {sizeof(second), 0, 0};
    call(device, uapi::VFIO_DEVICE_BIND_IOMMUFD, bind);
    call(iommufd, uapi::IOMMU_IOAS_ALLOC, first);
    call(iommufd, uapi::IOMMU_IOAS_ALLOC, second);
    ioas = first.out_ioas_id;
    other = second.out_ioas_id;
    uapi::vfio_device_attach_iommufd_pt attach = {12, 0, ioas, 0};
    const uint16_t master = 6;
    ready = call(device, uapi::VFIO_DEVICE_ATTACH_IOMMUFD_PT, attach) == 0 &&
            host.pwrite(device, &master, sizeof(master), uint64_t{7} << 40 | 4) == 2;
  }

  void put(const std::string& path, const std::string& text) {
    const int fd = host.open(path.c_str(), O_WRONLY);
    (void)host.write(fd, text.data(), text.size());
    host.close(fd);
  }
  template <class Struct>
  int call(int fd, uint32_t request, Struct& arguments) {
    return host.ioctl(fd, request, reinterpret_cast<uintptr_t>(&arguments));
  }
  int map(uint32_t space, uint64_t iova, uint64_t user, uint64_t length) {
    uapi::iommu_ioas_map map = {sizeof(map), kBoth | kFixed, space, 0, user, length, iova};
    return call(iommufd, uapi::IOMMU_IOAS_MAP, map);
  }
  int unmap(uint32_t space, uint64_t iova, uint64_t length) {
    uapi::iommu_ioas_unmap unmap = {sizeof(unmap), space, iova, length};
    return call(iommufd, uapi::IOMMU_IOAS_UNMAP, unmap);
  }
  // Starts a DMA of the edu, to the page at kSteady or from it.
  int64_t dma(bool out) {
    const auto put = [this](uint64_t at, uint64_t value) {
      return host.pwrite(device, &value, sizeof(value), at);
    };
    put(0x80, out ? kEduBuffer : kSteady);
    put(0x88, out ? kSteady : kEduBuffer);
    put(0x90, 512);
    return put(0x98, out ? 3 : 1);
  }

  Host host;
  int iommufd;
  int device;
  uint32_t ioas = 0;
  uint32_t other = 0;
  bool ready = false;
};

using Job = std::function<void(std::mt19937_64&)>;

void stress() {
  const auto memory = std::make_shared<mm::Memory>();
  Machine one(memory);
  Machine two(memory);
  claim("two machines are ready", one.ready && two.ready);
  Buffer buffer(kPages * kPage);
  Buffer passing(kPages * kPage);  // its pages are mapped and unmapped
  const auto pageOf = [](const Buffer& from, std::mt19937_64& random) {
    return from.user() + random() % kPages * kPage;
  };
  claim("a mapping for the devices", one.map(one.ioas, kSteady, buffer.user(), kPage) == 0 &&
                                         two.map(two.ioas, kSteady, buffer.user(), kPage) == 0);

  Tally maps;
  Tally unmaps;
  Tally copies;
  Tally transfers;
  Tally opens;
  Tally attaches;
  Tally memoryCalls;
  std::vector<Job> jobs;
  for (Machine* machine : {&one, &two}) {
    for (int twice = 0; twice < 2; ++twice) {
      jobs.emplace_back([&, machine](std::mt19937_64& random) {
        const Buffer& from = random() % 4 == 0 ? passing : buffer;
        maps.note(machine->map(machine->ioas, kArea + random() % 256 * kPage, pageOf(from, random), kPage));
        unmaps.note(machine->unmap(machine->ioas, kArea + random() % 256 * kPage, kPage));
      });
    }
    jobs.emplace_back([&, machine](std::mt19937_64& random) {
      const uint64_t to = kArea + random() % 64 * kPage;
      uapi::iommu_ioas_copy copy = {sizeof(copy),
                                    kBoth | kFixed,
                                    machine->other,
                                    machine->ioas,
                                    kPage,
                                    to,
                                    kArea + random() % 256 * kPage};
      copies.note(machine->call(machine->iommufd, uapi::IOMMU_IOAS_COPY, copy));
      unmaps.note(machine->unmap(machine->other, kArea + random() % 64 * kPage, kPage));
    });
    jobs.emplace_back([&, machine](std::mt19937_64& random) {
      transfers.note(machine->dma(random() % 2 == 0));
      if (random() % 8 == 0) machine->host.settle();
      if (random() % 16 == 0) (void)machine->host.takeFaults();
    });
    // Opens an iommufd and a device, makes an address space with mappings, and closes both.
    jobs.emplace_back([&, machine](std::mt19937_64& random) {
      Host& host = machine->host;
      const int iommufd = host.open("/dev/iommu", O_RDWR | O_CLOEXEC);
      opens.note(iommufd);
      uapi::iommu_ioas_alloc alloc = {sizeof(alloc), 0, 0};
      opens.note(machine->call(iommufd, uapi::IOMMU_IOAS_ALLOC, alloc));
      const int device = host.open("/dev/vfio/devices/vfio1", O_RDWR | O_CLOEXEC);
      opens.note(device);
      uapi::vfio_device_bind_iommufd bind = {16, 0, iommufd, 0, 0};
      uapi::vfio_device_attach_iommufd_pt attach = {12, 0, alloc.out_ioas_id, 0};
      attaches.note(machine->call(device, uapi::VFIO_DEVICE_BIND_IOMMUFD, bind));
      attaches.note(machine->call(device, uapi::VFIO_DEVICE_ATTACH_IOMMUFD_PT, attach));
      uapi::iommu_ioas_map map = {sizeof(map), kBoth, alloc.out_ioas_id, 0, pageOf(buffer, random), kPage, 0};
      maps.note(machine->call(iommufd, uapi::IOMMU_IOAS_MAP, map));
      // The number of a closed file may belong to the other machine at once. So it is not used afterwards.
      const bool deviceFirst = random() % 2 == 0;
      opens.note(host.close(deviceFirst ? device : iommufd));
      opens.note(host.close(deviceFirst ? iommufd : device));
    });
  }
  // Pinned pages are replaced, and unmapped before the devices stop using them.
  jobs.emplace_back([&](std::mt19937_64& random) {
    memoryCalls.note(two.host.mmap(reinterpret_cast<void*>(pageOf(passing, random)), kPage,
                                   PROT_READ | PROT_WRITE,
                                   MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED | MAP_NORESERVE, -1, 0));
    const int64_t fresh =
        one.host.mmap(nullptr, kPage, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    memoryCalls.note(fresh);
    if (fresh < 0) return;
    const uint64_t iova = 2 * kArea + random() % 256 * kPage;
    maps.note(one.map(one.ioas, iova, static_cast<uint64_t>(fresh), kPage));
    memoryCalls.note(one.host.munmap(reinterpret_cast<void*>(fresh), kPage));
    if (random() % 2 == 0) unmaps.note(one.unmap(one.ioas, iova, kPage));
  });

  std::atomic<bool> stop{false};
  std::vector<std::thread> threads;
  for (size_t at = 0; at < jobs.size(); ++at) {
    threads.emplace_back([&, at] {
      std::mt19937_64 random(at);
      while (!stop) jobs[at](random);
    });
  }
  std::this_thread::sleep_for(kDuration);
  stop = true;
  for (std::thread& thread : threads) thread.join();

  claim("maps work, or say why not", maps.worked > 0 && maps.onlyErrors({EEXIST, EFAULT}));
  claim("unmaps do", unmaps.worked > 0 && unmaps.onlyErrors({ENOENT}));
  claim("copies do", copies.worked > 0 && copies.onlyErrors({ENOENT, EEXIST}));
  claim("devices take their orders", transfers.worked > 0 && transfers.onlyErrors({}));
  claim("files open and close", opens.worked > 0 && opens.onlyErrors({}));
  claim("devices bind and attach", attaches.worked > 0 && attaches.onlyErrors({}));
  claim("memory comes and goes", memoryCalls.worked > 0 && memoryCalls.onlyErrors({}));
  // Both hosts settle, since their devices share the page.
  for (Machine* machine : {&one, &two}) machine->host.settle();
  for (Machine* machine : {&one, &two}) {
    std::memset(buffer.bytes(), 0x5a, kPage);
    std::vector<char> got(512);
    (void)machine->dma(false);
    machine->host.settle();
    std::memset(buffer.bytes(), 0, kPage);
    (void)machine->dma(true);
    machine->host.settle();
    claim("a device still reads and writes memory", buffer.bytes()[0] == 0x5a && buffer.bytes()[511] == 0x5a);
    (void)machine->unmap(machine->ioas, 0, UINT64_MAX);
    (void)machine->unmap(machine->other, 0, UINT64_MAX);
  }
  uint64_t pins = 0;
  for (uint64_t at = 0; at < kPages; ++at) {
    pins += memory->pins(buffer.user() + at * kPage) + memory->pins(passing.user() + at * kPage);
  }
  claim("no page is left pinned", 0, static_cast<int64_t>(pins));
}

}  // namespace
}  // namespace vfio::soft::check

int main() {
  vfio::soft::check::stress();
  std::printf("%d claims failed\n", vfio::soft::check::failures);
  return vfio::soft::check::failures == 0 ? 0 : 1;
}
