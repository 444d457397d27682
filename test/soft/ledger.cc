// The ledger of what the kernel has mapped (native/ledger), on the software host: its rules one by one, then
// four threads at once, with two descriptors of one iommufd and a container over it. Meant for
// ThreadSanitizer too.
#include "../../native/ledger/kept.h"
#include "../../native/ledger/requests.h"
#include "../../native/ledger/space_handle.h"

#include <fcntl.h>

#include <algorithm>
#include <atomic>
#include <barrier>
#include <map>
#include <mutex>
#include <random>
#include <thread>

#include "iommufd_harness.h"

namespace vfio::soft::check {
namespace {

using ledger::Manner;
using ledger::Memory;
using ledger::Object;
using ledger::OpenFile;
using ledger::SpaceHandle;

constexpr uint64_t kEverything = UINT64_MAX;

std::atomic<uint64_t> nextMapping = 1;

// Memory that counts how many of its kind the ledger still holds.
std::atomic<int64_t> alive = 0;
Memory token() {
  ++alive;
  return {new char, [](const void* made) {
            delete static_cast<const char*>(made);
            --alive;
          }};
}

struct File {
  explicit File(const std::shared_ptr<Host>& host)
      : open(std::make_shared<OpenFile>(host, host->open("/dev/iommu", O_RDWR | O_CLOEXEC), false)) {}
  // Another descriptor of the same open file.
  explicit File(const OpenFile& other)
      : open(std::make_shared<OpenFile>(other.backend, other.backend->dup(other.fd), true)) {}

  [[nodiscard]] std::shared_ptr<SpaceHandle> allocate() const {
    std::shared_ptr<Object> made;
    const int result = open->kernel->make(true, made, [&](uint32_t& id) {
      uapi::iommu_ioas_alloc command{sizeof command, 0, 0};
      const int asked = open->ioctl(uapi::IOMMU_IOAS_ALLOC, &command);
      id = command.out_ioas_id;
      return asked;
    });
    return result < 0 ? nullptr : std::make_shared<SpaceHandle>(open, made, true);
  }
  [[nodiscard]] std::shared_ptr<SpaceHandle> find(uint32_t id) const {
    return std::make_shared<SpaceHandle>(open, open->kernel->space(id), false);
  }
  const std::shared_ptr<OpenFile> open;
};

struct Made {
  int result;
  uint64_t mapping;
  uint64_t iova;
};

// Maps by the iommufd's request. Without `iova` the kernel chooses the IOVA.
Made map(const OpenFile& file, SpaceHandle& handle, uint64_t address, uint64_t length,
         std::optional<uint64_t> iova, Memory memory = token()) {
  ledger::Space::Wanted wanted{nextMapping++, length, true, std::move(memory), iova};
  const int result = handle.space->map(wanted, [&](ledger::Space::Wanted& asked) {
    uapi::iommu_ioas_map command{
        sizeof command,        kBoth | (asked.iova ? kFixed : 0), handle.object->id, 0, address, length,
        asked.iova.value_or(0)};
    const int mapped = file.ioctl(uapi::IOMMU_IOAS_MAP, &command);
    if (mapped >= 0) asked.iova = command.iova;
    return mapped;
  });
  return {result, wanted.mapping, wanted.iova.value_or(0)};
}

int unmap(const OpenFile& file, SpaceHandle& handle, uint64_t iova, uint64_t length,
          uint64_t* bytes = nullptr) {
  uint64_t unmapped = 0;
  const int result = handle.space->unmap(
      iova, length, Manner::wholeRange, unmapped, [&](uint64_t start, uint64_t size, uint64_t& out) {
        return ledger::unmapIoas(file, handle.object->id, start, size, out);
      });
  if (bytes) *bytes = unmapped;
  return result;
}

// Does the kernel map all recorded pieces? IOAS_COPY finds that out without a change: each piece must be
// copied as a whole.
bool agrees(const OpenFile& file, const SpaceHandle& handle) {
  uint64_t recorded = 0;
  for (const auto& piece : handle.space->mapped()) {
    recorded += piece.length;
    uapi::iommu_ioas_alloc scratch{sizeof scratch, 0, 0};
    if (file.ioctl(uapi::IOMMU_IOAS_ALLOC, &scratch) < 0) return false;
    uapi::iommu_ioas_copy copy{sizeof copy,  kBoth, scratch.out_ioas_id, handle.object->id,
                               piece.length, 0,     piece.iova};
    const int copied = file.ioctl(uapi::IOMMU_IOAS_COPY, &copy);
    if (ledger::destroyObject(file, scratch.out_ioas_id) < 0 || copied < 0) return false;
  }
  // Whether anything else is mapped shows only when everything is unmapped (unmapsAsRecorded).
  return recorded == 0 || !handle.space->empty();
}

// Unmaps the recorded pieces one by one. Each call must return the piece's length, and then nothing is left.
bool unmapsAsRecorded(const OpenFile& file, SpaceHandle& handle) {
  for (const auto& piece : handle.space->mapped()) {
    uint64_t bytes = 0;
    if (unmap(file, handle, piece.iova, piece.length, &bytes) != 0 || bytes != piece.length) return false;
  }
  uint64_t left = 0;
  const int result = ledger::unmapIoas(file, handle.object->id, 0, kEverything, left);
  return result == 0 && left == 0 && handle.space->empty();
}

std::shared_ptr<Host> makeHost() { return std::make_shared<Host>(std::make_shared<mm::Memory>()); }

struct Area {
  Area() : bytes(std::make_unique<uint8_t[]>(kPage * 65)) {}
  [[nodiscard]] uint64_t at(uint64_t page) const {
    return (reinterpret_cast<uint64_t>(bytes.get()) + kPage - 1) / kPage * kPage + page * kPage;
  }
  std::unique_ptr<uint8_t[]> bytes;
};

void rules() {
  const auto host = makeHost();
  const File first(host);
  const File twin(*first.open);
  const File other(host);
  const Area area;
  claim("two descriptors of one open file share a ledger, and another open file has its own",
        first.open->kernel == twin.open->kernel && first.open->kernel != other.open->kernel);
  const OpenFile& file = *first.open;

  auto space = first.allocate();
  auto same = twin.find(space->object->id);
  claim("what one maps, the other has too",
        map(file, *space, area.at(0), 4 * kPage, 0x10000).result == 0 && same->space->mapped().size() == 1);
  claim("an unmap that cuts is ENOENT, and what lies below the cut one is gone",
        map(file, *space, area.at(4), 4 * kPage, 0x20000).result == 0 &&
            unmap(file, *space, 0x10000, 0x12000) == -ENOENT && space->space->mapped().size() == 1 &&
            alive == 1);
  uint64_t bytes = 0;
  const Made made = map(file, *space, area.at(0), kPage, std::nullopt);
  claim("an undo by number unmaps that mapping, once",
        space->unmapMapping(file, made.mapping, made.iova, kPage, bytes) == 0 && bytes == kPage &&
            space->unmapMapping(file, made.mapping, made.iova, kPage, bytes) == 0 && bytes == 0);
  const Made again = map(file, *space, area.at(0), kPage, made.iova);
  claim("an undo does nothing to a later mapping at the same place",
        again.result == 0 && space->unmapMapping(file, made.mapping, made.iova, kPage, bytes) == 0 &&
            bytes == 0 && space->space->holds(again.mapping, made.iova, kPage));
  claim("a range that wraps is EOVERFLOW, of no length EINVAL, and unmaps nothing",
        unmap(file, *space, made.iova, kEverything - 1) == -EOVERFLOW &&
            unmap(file, *space, made.iova, 0) == -EINVAL && space->space->mapped().size() == 2);
  claim("what is recorded is what the kernel unmaps", unmapsAsRecorded(file, *space) && alive == 0);

  // Destroys the object without the ledger, as another process may.
  (void)map(file, *space, area.at(0), kPage, 0x1000);
  const uint32_t id = space->object->id;
  claim("an object that somebody else has destroyed is gone, with its memory",
        ledger::destroyObject(file, id) == 0 && alive == 1 && (space->close(), alive == 0));
  auto next = first.allocate();
  claim("an id that is given again is another object: what the first one had does nothing to it",
        next->object->id == id && map(file, *next, area.at(0), kPage, 0x1000).result == 0 &&
            (same->close(), space->close(), next->space->mapped().size() == 1) &&
            first.open->kernel->destroy(file, *space->object) == -ENOENT && !next->space->hasEnded());
  claim("a handle that only looked it up ends nothing",
        (twin.find(id)->close(), !next->space->hasEnded() && next->space->mapped().size() == 1));
  next->close();
  claim("its owner's end destroys it",
        next->space->hasEnded() && alive == 0 && ledger::destroyObject(file, id) == -ENOENT);
}

// Type1 of the first version returns how many bytes it unmapped, but not which. If the number does not match
// the record, the memory is kept and reported.
void doubt() {
  ledger::Space space;
  const auto record = [&](uint64_t iova, uint64_t length) {
    ledger::Space::Wanted wanted{nextMapping++, length, true, token(), iova};
    return space.map(wanted, [](auto&) { return 0; });
  };
  claim("(recorded)", record(0x1000, 0x1000) == 0 && record(0x3000, 0x1000) == 0);
  uint64_t bytes = 0;
  const uint64_t before = ledger::doubts();
  const int result = space.unmap(0x1000, 0x4000, Manner::firstVersion, bytes,
                                 [](uint64_t, uint64_t, uint64_t& out) { return out = 0x1000, 0; });
  std::vector<std::pair<const char*, uint64_t>> kept;
  space.doubtful(kept);
  claim("fewer bytes than are recorded: all of it is kept, with the reason",
        result == 0 && alive == 2 && kept.size() == 2 && ledger::doubts() == before + 1);
  claim("a mapping that the kernel takes at the place proves that the earlier one is gone",
        record(0x1000, 0x1000) == 0 && alive == 2);
  ledger::Space unknown;
  ledger::Space::Wanted wanted{nextMapping++, 0x2000, true, token(), 0x1000};
  (void)unknown.map(wanted, [](auto&) { return 0; });
  (void)unknown.unmap(0, 0x2000, Manner::unknown, bytes,
                      [](uint64_t, uint64_t, uint64_t& out) { return out = 0x2000, 0; });
  claim("nothing is let go by a container of an unknown kind, unless exactly it was unmapped", alive == 3);
}

// Four threads on one address space, each with a share of its own.
void stress() {
  constexpr int kThreads = 4;
  constexpr int kRounds = 60;
  constexpr int kCallsOfARound = 200;
  const auto host = makeHost();
  const File owner(host);
  const auto space = owner.allocate();
  const Area area;
  std::atomic<uint64_t> calls = 0;
  std::atomic<bool> agreed = true;
  const int64_t before = alive;
  std::barrier<> together(kThreads);
  const auto work = [&](int thread) {
    std::mt19937_64 random(static_cast<uint64_t>(thread) + 1);
    const auto below = [&](uint64_t bound) { return random() % bound; };
    const File mine(*owner.open);
    const auto handle = mine.find(space->object->id);
    std::vector<Made> mappings;
    for (int round = 0; round < kRounds; ++round) {
      for (int call = 0; call < kCallsOfARound; ++call) {
        const uint64_t place = 0x100000 + below(64) * kPage;
        const uint64_t length = (1 + below(4)) * kPage;
        switch (below(9)) {
          case 0:
          case 1:
          case 2:
          case 3: {
            const Made made = map(*mine.open, *handle, area.at(below(60)), length,
                                  below(2) == 0 ? std::optional(place) : std::nullopt);
            if (made.result == 0) mappings.push_back({static_cast<int>(length), made.mapping, made.iova});
            break;
          }
          case 4:
            (void)unmap(*mine.open, *handle, place, length * 4);
            break;
          case 5:
          case 6:
          case 7:
            if (!mappings.empty()) {
              const size_t at = below(mappings.size());
              uint64_t bytes = 0;
              const Made one = mappings[at];
              (void)handle->unmapMapping(*mine.open, one.mapping, one.iova, static_cast<uint64_t>(one.result),
                                         bytes);
              mappings.erase(mappings.begin() + static_cast<int64_t>(at));
            }
            break;
          default:
            if (below(20) == 0) (void)unmap(*mine.open, *handle, 0, kEverything);
        }
        ++calls;
      }
      together.arrive_and_wait();
      if (thread == 0) {
        int64_t memory = 0;
        for (const auto& piece : space->space->mapped()) memory += static_cast<int64_t>(piece.length > 0);
        if (!agrees(*owner.open, *space) || alive - before > memory) agreed = false;
      }
      together.arrive_and_wait();
    }
    handle->close();
  };
  std::vector<std::thread> threads;
  for (int thread = 0; thread < kThreads; ++thread) threads.emplace_back(work, thread);
  for (auto& thread : threads) thread.join();
  std::printf("     %llu calls of %d threads, %zu pieces at the end\n",
              static_cast<unsigned long long>(calls.load()), kThreads, space->space->mapped().size());
  claim("after each round, all that is recorded is mapped, and no other memory is kept", agreed.load());
  claim("at the end what is recorded is what the kernel unmaps", unmapsAsRecorded(*owner.open, *space));
  claim("and all memory has been let go", alive == before);
}

// A share is closed while calls are running: the last of these calls ends the address space, and no thread
// waits.
void endings() {
  const auto host = makeHost();
  const Area area;
  bool right = true;
  for (int time = 0; time < 300; ++time) {
    const File owner(host);
    const auto space = owner.allocate();
    std::atomic<bool> started = false;
    std::thread other([&] {
      const auto file = owner.open;
      for (int call = 0; call < 20; ++call) {
        (void)map(*file, *space, area.at(static_cast<uint64_t>(call)), kPage, std::nullopt);
        started = true;
      }
    });
    while (!started) std::this_thread::yield();
    space->close();
    other.join();
    right = right && space->space->hasEnded() && space->space->empty();
  }
  claim("an address space that is closed beside calls on it ends, with all its memory", right && alive == 3);
}

// A kernel before Linux 6.18 does not find a mapping that ends with the highest address, and says that it
// unmapped 0 bytes.
void hidden() {
  constexpr uint64_t kTop = UINT64_MAX - kPage + 1;
  const int64_t before = alive;
  ledger::Space space;
  const auto mapAt = [&](uint64_t iova) {
    ledger::Space::Wanted wanted = {nextMapping++, kPage, true, token(), iova};
    return space.map(wanted, [](auto&) { return 0; });
  };
  const auto says = [](uint64_t told) {
    return [told](uint64_t, uint64_t, uint64_t& bytes) {
      bytes = told;
      return 0;
    };
  };
  uint64_t bytes = 0;
  claim("a mapping ends with the highest address", 0, mapAt(kTop));
  claim("... beside another one", 0, mapAt(0));
  for (const Manner manner : {Manner::wholeRange, Manner::firstVersion, Manner::unknown}) {
    (void)space.unmap(kTop, kPage, manner, bytes, says(0));
    (void)space.unmap(0, kPage, manner, bytes, says(0));
    (void)space.unmap(0, kEverything, manner, bytes, says(kPage));
    claim("... after unmaps of fewer bytes both are kept", before + 2, alive);
  }
  claim("... and are listed as mapped", 2, static_cast<int64_t>(space.mapped().size()));
  const uint64_t last = nextMapping - 2;
  claim("... a mapping that is disposed too", 0, space.unmapMapping(last, kTop, kPage, bytes, says(0)));
  claim("... and its memory", before + 2, alive);
  claim("the kernel maps that address again", 0, mapAt(kTop));
  claim("... and both memories of it are kept", before + 3, alive);
  (void)space.unmap(kTop, kPage, Manner::wholeRange, bytes, says(kPage));
  claim("an unmap that tells all bytes is a proof", before + 1, alive);
  (void)space.unmap(0, kPage, Manner::wholeRange, bytes, says(0));
  claim("... and without such a mapping success is one, as before", before, alive);
}

int run() {
  rules();
  hidden();
  doubt();
  alive = 3;  // the memory that doubt() keeps for good is not counted below
  stress();
  endings();
  return failures;
}

}  // namespace
}  // namespace vfio::soft::check

int main() { return vfio::soft::check::run() == 0 ? 0 : 1; }
