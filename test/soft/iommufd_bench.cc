// Measures the time of mapping, translating and DMA on the software host, and the bytes that a mapping takes.
// Prints the figures and checks none of them.
#include <malloc.h>
#include <time.h>

#include <algorithm>
#include <chrono>
#include <random>

#include "iommufd_harness.h"

namespace vfio::soft::check {
namespace {

// The processor time of this thread, so that other programs on the machine affect it less.
struct Clock {
  using duration = std::chrono::nanoseconds;
  using rep = duration::rep;
  using period = duration::period;
  using time_point = std::chrono::time_point<Clock>;
  static constexpr bool is_steady = true;
  static time_point now() {
    timespec time = {};
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &time);
    return time_point(std::chrono::seconds(time.tv_sec) + std::chrono::nanoseconds(time.tv_nsec));
  }
};

double since(Clock::time_point start) {
  return std::chrono::duration<double, std::nano>(Clock::now() - start).count();
}

size_t heap() {
  const struct mallinfo2 info = mallinfo2();
  return info.uordblks + info.hblkhd;
}

// The time of one run of `job`: the median of `samples` samples, each with `each` runs.
template <class Job>
double medianOf(int samples, int each, const Job& job) {
  std::vector<double> times;
  for (int sample = 0; sample < samples; ++sample) {
    const auto start = Clock::now();
    for (int round = 0; round < each; ++round) job();
    times.push_back(since(start) / each);
  }
  std::ranges::sort(times);
  return times[times.size() / 2];
}

// `live` mappings of 4 KiB each. Their pages are separate, and in random order of address.
void mappings(Host& host, uint64_t live) {
  iommu::Unit unit = vtd();
  iommu::Group group = {1, {}};
  iommu::Endpoint nic(host, "0000:01:00.0", 0x100, unit, group);
  Fd fd(host);
  std::unique_ptr<iommufd::BoundDevice> device;
  const uint32_t ioas = fd.ioas();
  uint32_t pt = ioas;
  if (iommufd::bind(fd.file, nic, device) != 0 || device->attach(pt) != 0) return;

  // Only every other page is mapped, so that no two pinned pages are adjacent. The page of the n-th mapping
  // is computed, so that finding it costs the same for any number of mappings.
  Buffer buffer(live * 2 * kPage);
  std::memset(buffer.bytes(), 1, buffer.size());
  const auto pageOf = [&](uint64_t at) { return buffer.user() + at * 7919 % live * 2 * kPage; };
  const auto iovaOf = [](uint64_t at) { return (uint64_t{1} << 32) + at * kPage; };
  std::mt19937_64 random(3);

  const size_t before = heap();
  const auto start = Clock::now();
  for (uint64_t at = 0; at < live; ++at) {
    if (fd.mapAt(ioas, iovaOf(at), pageOf(at), kPage) != 0) std::printf("map failed\n");
  }
  const double filling = since(start) / static_cast<double>(live);
  const double bytes = static_cast<double>(heap() - before) / static_cast<double>(live);

  // A random mapping is unmapped and mapped again.
  const double pair = medianOf(400, 1000, [&] {
    const uint64_t at = random() % live;
    if (fd.unmap(ioas, iovaOf(at), kPage) != 0) std::printf("unmap failed\n");
    if (fd.mapAt(ioas, iovaOf(at), pageOf(at), kPage) != 0) std::printf("map failed\n");
  });
  // The same, and the host chooses the IOVA.
  const double chosen = medianOf(400, 1000, [&] {
    const uint64_t at = random() % live;
    uint64_t iova = 0;
    if (fd.unmap(ioas, iovaOf(at), kPage) != 0) std::printf("unmap failed\n");
    if (fd.map(ioas, kBoth, pageOf(at), kPage, iova) != 0) std::printf("map failed\n");
    if (iova == iovaOf(at)) return;
    if (fd.unmap(ioas, iova, kPage) != 0) std::printf("unmap failed\n");
    if (fd.mapAt(ioas, iovaOf(at), pageOf(at), kPage) != 0) std::printf("map failed\n");
  });
  // One more mapping, always the same one.
  const double same = medianOf(400, 1000, [&] {
    if (fd.mapAt(ioas, uint64_t{1} << 40, pageOf(0), kPage) != 0) std::printf("map failed\n");
    if (fd.unmap(ioas, uint64_t{1} << 40, kPage) != 0) std::printf("unmap failed\n");
  });
  const auto domain = std::static_pointer_cast<iommu::Domain>(nic.translation());
  uint64_t sum = 0;
  const double translate = medianOf(400, 1000, [&] {
    const auto run = domain->translate(iovaOf(random() % live), 8);
    sum += run ? run->user : 0;
  });
  std::printf(
      "%8llu mappings: fill %4.0f ns; unmap+map of a random one %4.0f ns, at a chosen place %4.0f ns, of one "
      "%4.0f ns; "
      "translate %3.0f ns; %.0f bytes each%s\n",
      static_cast<unsigned long long>(live), filling, pair, chosen, same, translate, bytes,
      sum == 0 ? " (nothing translated)" : "");
}

void transfer(Host& host, const char* name, uint64_t piece) {
  iommu::Unit unit = vtd();
  iommu::Group group = {1, {}};
  iommu::Endpoint nic(host, "0000:01:00.0", 0x100, unit, group);
  Fd fd(host);
  std::unique_ptr<iommufd::BoundDevice> device;
  const uint32_t ioas = fd.ioas();
  uint32_t pt = ioas;
  if (iommufd::bind(fd.file, nic, device) != 0 || device->attach(pt) != 0) return;
  constexpr uint64_t kSize = 64 << 20;
  Buffer target(kSize);
  Buffer source(kSize);
  std::memset(target.bytes(), 1, kSize);
  std::memset(source.bytes(), 2, kSize);
  // With small pieces, adjacent pieces have separate addresses too. memcpy moves the same pieces.
  for (uint64_t at = 0; at < kSize; at += piece) {
    const uint64_t shown = piece == kSize ? 0 : (at ^ piece);
    if (fd.mapAt(ioas, 0x100000000 + at, target.user() + shown, piece) != 0) std::printf("map failed\n");
  }
  double plain = 1e18;
  double read = 1e18;
  double write = 1e18;
  for (int round = 0; round < 9; ++round) {
    auto start = Clock::now();
    for (uint64_t at = 0; at < kSize; at += piece) {
      std::memcpy(target.bytes() + (piece == kSize ? 0 : (at ^ piece)), source.bytes() + at, piece);
    }
    plain = std::min(plain, since(start));
    start = Clock::now();
    if (!nic.dma.write(0x100000000, source.bytes(), kSize)) std::printf("DMA failed\n");
    write = std::min(write, since(start));
    start = Clock::now();
    if (!nic.dma.read(0x100000000, source.bytes(), kSize)) std::printf("DMA failed\n");
    read = std::min(read, since(start));
  }
  std::printf("64 MiB DMA, %s: write %.2f, read %.2f of memcpy's speed (%.1f GB/s)\n", name, plain / write,
              plain / read, static_cast<double>(kSize) / plain);
}

void small(Host& host) {
  (void)host;
  char bytes[64] = {};
  Buffer buffer(kPage);
  for (const size_t size : {4, 16, 40, 64}) {
    constexpr int kRounds = 2000000;
    int errors = 0;
    const auto start = Clock::now();
    for (int round = 0; round < kRounds; ++round) {
      errors += mm::Memory::copyIn(bytes, buffer.user(), size) != 0 ? 1 : 0;
    }
    std::printf("guarded copy of %zu bytes: %.1f ns%s\n", size, since(start) / kRounds,
                errors != 0 ? " (failed)" : "");
  }
  constexpr int kRounds = 20000;
  int errors = 0;
  const auto start = Clock::now();
  for (int round = 0; round < kRounds; ++round) errors += mm::Memory::copyIn(bytes, 8, 8) != 0 ? 1 : 0;
  std::printf("guarded copy that faults: %.0f ns%s\n", since(start) / kRounds,
              errors != kRounds ? " (didn't)" : "");
}

}  // namespace
}  // namespace vfio::soft::check

int main() {
  using namespace vfio::soft::check;
  vfio::soft::Host host(std::make_shared<vfio::soft::mm::Memory>(), {.kernel = {6, 12}});
  small(host);
  for (const uint64_t live : {1000, 100000, 1000000}) mappings(host, live);
  transfer(host, "one mapping", 64 << 20);
  transfer(host, "4 KiB mappings", 4096);
}
