// Shared virtual addressing under changes: four devices with two bonds each, one to this process and one to
// another, write to memory, while threads map, unmap, protect, trim and fork. Each word that is found is
// accounted for: it is one that a device wrote to that place, or it was never written.
//
//   sva_stress [SECONDS [SEED]]
#include <sys/mman.h>

#include <array>
#include <atomic>
#include <chrono>
#include <cstring>
#include <random>
#include <thread>
#include <vector>

#include "sva_harness.h"

namespace vfio::soft::check {
namespace {

constexpr unsigned kDevices = 4;
constexpr uint64_t kPages = 256;
constexpr uint64_t kWords = kPage / sizeof(uint64_t);

// A word says who wrote it, and where to.
uint64_t wordFor(unsigned device, uint64_t page, uint64_t index) {
  return uint64_t{0xd0 + device} << 56 | page << 32 | index << 16 | 0x5a5a;
}
bool isRight(uint64_t word, uint64_t page, uint64_t index) {
  const uint64_t device = (word >> 56) - 0xd0;
  return word == 0 || (device < kDevices && word == wordFor(static_cast<unsigned>(device), page, index));
}

// The memory: a part that changes all the time, and one that stays.
struct Region {
  char* at;
  [[nodiscard]] char* page(uint64_t which) const { return at + which * kPage; }
};

Region reserve() {
  void* const at =
      mmap(nullptr, 2 * kPages * kPage, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  return {static_cast<char*>(at)};
}

// Changes a page of the part that changes.
void disturb(const Region& region, std::mt19937_64& random) {
  char* const page = region.page(random() % kPages);
  switch (random() % 6) {
    case 0:
      munmap(page, kPage);
      break;
    case 1:
      (void)mmap(page, kPage, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0);
      break;
    case 2:
      mprotect(page, kPage, PROT_NONE);
      break;
    case 3:
      mprotect(page, kPage, PROT_READ);
      break;
    case 4:
      mprotect(page, kPage, PROT_READ | PROT_WRITE);
      break;
    default:
      madvise(page, kPage, MADV_DONTNEED);
  }
}

// Makes the part that changes readable, and counts the words: right ones, and wrong ones.
struct Count {
  uint64_t written = 0;
  uint64_t wrong = 0;
};
Count check(const Region& region, uint64_t from, uint64_t to) {
  Count count;
  for (uint64_t page = from; page < to; ++page) {
    char* const at = region.page(page);
    if (mprotect(at, kPage, PROT_READ) != 0) continue;  // unmapped
    for (uint64_t index = 0; index < kWords; ++index) {
      uint64_t word = 0;
      std::memcpy(&word, at + index * sizeof word, sizeof word);
      if (word != 0) ++count.written;
      if (!isRight(word, page, index)) ++count.wrong;
    }
  }
  return count;
}

// The other process: it changes its own copy of the memory until it is told to stop, and checks it then.
void runChild(const Region& region, int stop, uint64_t seed) {
  std::mt19937_64 random(seed);
  char byte;
  fcntl(stop, F_SETFL, O_NONBLOCK);
  while (::read(stop, &byte, 1) != 0) disturb(region, random);
  _exit(check(region, 0, 2 * kPages).wrong == 0 ? 0 : 1);
}

}  // namespace

int stress(double seconds, uint64_t seed) {
  const Region region = reserve();
  int pipe[2];
  if (pipe2(pipe, O_CLOEXEC) != 0) return 1;
  const pid_t child = fork();
  if (child == 0) {
    close(pipe[1]);
    runChild(region, pipe[0], seed);
  }
  close(pipe[0]);

  SvaMachine machine;
  std::array<iommu::Endpoint*, kDevices> devices{};
  std::vector<std::shared_ptr<iommu::Bond>> bonds;
  std::array<uint32_t, 2> pasids{};
  for (auto*& device : devices) {
    device = &machine.device();
    (void)machine.enable(*device);
    for (const pid_t pid : {0, child}) {
      std::shared_ptr<iommu::Bond> bond;
      claim("a bond", 0, machine.bind(*device, pid, bond));
      pasids[pid == 0 ? 0 : 1] = machine.pasidOf(bond).value_or(0);
      bonds.push_back(std::move(bond));
    }
  }

  std::atomic<bool> stop = false;
  std::atomic<uint64_t> changed = 0;
  std::atomic<uint64_t> moved = 0;
  std::atomic<uint64_t> refused = 0;
  std::vector<std::thread> threads;
  for (unsigned which = 0; which < 2; ++which) {
    threads.emplace_back([&, which] {
      std::mt19937_64 random(seed + 100 + which);
      while (!stop) {
        disturb(region, random);
        if (++changed % 512 != 0) continue;
        const pid_t forked = fork();
        if (forked == 0) _exit(0);
        waitpid(forked, nullptr, 0);
      }
    });
  }
  for (unsigned which = 0; which < kDevices; ++which) {
    threads.emplace_back([&, which] {
      std::mt19937_64 random(seed + 200 + which);
      std::vector<uint64_t> words(4 * kWords);
      for (uint64_t round = 0; !stop; ++round) {
        const uint64_t pages = 1 + random() % 4;
        const uint64_t first = random() % (2 * kPages - pages);
        for (uint64_t page = 0; page < pages; ++page) {
          for (uint64_t index = 0; index < kWords; ++index)
            words[page * kWords + index] = wordFor(which, first + page, index);
        }
        const auto address = reinterpret_cast<uint64_t>(region.page(first));
        const uint32_t pasid = pasids[random() % 2];
        const bool whole = machine.write(*devices[which], address, words.data(), pages * kPage, pasid);
        // What stays can always be reached.
        if (!whole && first >= kPages) std::abort();
        ++(whole ? moved : refused);
        std::vector<uint64_t> got(pages * kWords, 0);
        (void)machine.read(*devices[which], address, got.data(), pages * kPage, pasid);
        for (uint64_t word = 0; word < got.size(); ++word) {
          if (!isRight(got[word], first + word / kWords, word % kWords)) std::abort();
        }
        if (round % 64 == 0) (void)machine.host.takeFaults();
      }
    });
  }
  std::this_thread::sleep_for(std::chrono::duration<double>(seconds));
  stop = true;
  for (std::thread& thread : threads) thread.join();
  machine.inside([&] { bonds.clear(); });

  const Count changing = check(region, 0, kPages);
  const Count staying = check(region, kPages, 2 * kPages);
  std::printf("     %llu changes, %llu transfers moved, %llu refused; %llu words in memory\n",
              static_cast<unsigned long long>(changed.load()), static_cast<unsigned long long>(moved.load()),
              static_cast<unsigned long long>(refused.load()),
              static_cast<unsigned long long>(changing.written + staying.written));
  claim("devices moved data, and were refused some", moved > 0 && refused > 0);
  claim("each word of this process is one that was written there", 0,
        static_cast<int64_t>(changing.wrong + staying.wrong));
  close(pipe[1]);
  int status = -1;
  waitpid(child, &status, 0);
  claim("... and each word of the other process", 0, status);
  return failures == 0 ? 0 : 1;
}

}  // namespace vfio::soft::check

int main(int argc, char** argv) {
  return vfio::soft::check::stress(argc > 1 ? std::atof(argv[1]) : 2,
                                   argc > 2 ? std::strtoull(argv[2], nullptr, 10) : 1);
}
