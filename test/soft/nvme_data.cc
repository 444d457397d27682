// The data of the NVMe controller: I/O commands, PRPs and their lists, where the namespace is stored.
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cstdlib>
#include <cstring>
#include <numeric>
#include <random>

#include "nvme_harness.h"

using namespace vfio::soft;
using namespace vfio::soft::check;
using namespace vfio::uapi;

namespace {

void transfers() {
  Driver driver(R"(, "size": 8388608)");
  driver.enable();
  claim("queues are created", 0, driver.createQueues());
  Queue& io = driver.io;
  char* const from = driver.page(data);
  std::iota(from, from + (1 << 20), 0);
  for (size_t i = 0; i < 1 << 20; i += 512) std::memcpy(from + i, &i, sizeof i);
  char* const to = driver.page(data + 256);
  const auto same = [&](size_t size) { return std::memcmp(from, to, size) == 0; };
  const uint64_t source = Driver::iova(data);
  const uint64_t target = Driver::iova(data + 256);

  claim("a block is written with one PRP", 0, driver.run(io, driver.blocks(1, 5, 1, source)));
  claim("... and read", 0, driver.run(io, driver.blocks(2, 5, 1, target)));
  claim("... as it was", same(512));
  claim("two pages move with two PRPs", 0, driver.run(io, driver.blocks(1, 0, 16, source, source + kPage)));
  claim("... in any order of pages", 0, driver.run(io, driver.blocks(2, 0, 16, target, target + kPage)));
  claim("... as they were", same(8192));
  claim("data may begin inside a page", 0,
        driver.run(io, driver.blocks(2, 0, 8, target + 2048, target + 3 * kPage)));
  claim("... and goes on at the start of the next one",
        std::memcmp(from, to + 2048, 2048) == 0 && std::memcmp(from + 2048, to + 3 * kPage, 2048) == 0);

  auto* entries = reinterpret_cast<uint64_t*>(driver.page(list));
  auto* further = reinterpret_cast<uint64_t*>(driver.page(list2));
  // 128 pages: the first by PRP 1, the others by a list, from the last page backwards.
  const auto fill = [&](uint64_t base) {
    for (uint64_t i = 1; i < 128; ++i) entries[i - 1] = base + (128 - i) * kPage;
  };
  fill(source);
  claim("512 KiB are written by a list", 0,
        driver.run(io, driver.blocks(1, 100, 1024, source, Driver::iova(list))));
  fill(target);
  claim("... and read", 0, driver.run(io, driver.blocks(2, 100, 1024, target, Driver::iova(list))));
  claim("... as they were", same(512 << 10));
  std::memset(to, 0, 1 << 20);
  // The list begins two entries before the end of its page and goes on in another one.
  entries[510] = target + kPage;
  entries[511] = Driver::iova(list2);
  for (uint64_t i = 2; i < 128; ++i) further[i - 2] = target + (128 - i + 1) * kPage;
  claim("a list goes on in a second one", 0,
        driver.run(io, driver.blocks(2, 100, 1024, target, Driver::iova(list) + 510 * 8)));
  bool right = std::memcmp(from, to, kPage) == 0;
  for (uint64_t i = 2; i < 128; ++i) {
    const uint64_t was = i == 1 ? 1 : 128 - i;
    right = right && std::memcmp(from + was * kPage, to + (128 - i + 1) * kPage, kPage) == 0;
  }
  claim("... with the pages where the lists said", right);

  claim("more than 512 KiB are refused", 0x02,
        driver.run(io, driver.blocks(2, 0, 1025, target, Driver::iova(list))));
  claim("blocks past the end are refused", 0x80, driver.run(io, driver.blocks(2, 16384, 1, target)));
  claim("... also if only the last one is", 0x80,
        driver.run(io, driver.blocks(1, 16383, 2, source, source + kPage)));
  claim("... and a number that wraps", 0x80, driver.run(io, driver.blocks(1, ~uint64_t{0}, 2, source)));
  claim("a PRP at an odd address is refused", 0x13, driver.run(io, driver.blocks(2, 0, 1, target + 2)));
  claim("a second PRP inside a page is refused", 0x13,
        driver.run(io, driver.blocks(2, 0, 16, target, target + kPage + 8)));
  entries[0] = target + 8;
  claim("an entry of a list inside a page is refused", 0x13,
        driver.run(io, driver.blocks(2, 0, 32, target, Driver::iova(list))));
  claim("a list that is not mapped is a transfer error", 0x04,
        driver.run(io, driver.blocks(2, 0, 32, target, kHole)));
  claim("data that is not mapped too", 0x04, driver.run(io, driver.blocks(1, 5, 1, kHole)));
  claim("... and nothing was written",
        driver.run(io, driver.blocks(2, 0, 16, target, target + kPage)) == 0 && same(8192));
  Command other = driver.blocks(2, 0, 1, target);
  other.nsid = 2;
  claim("another namespace is refused", 0x0b, driver.run(io, other));
  other = driver.blocks(0x7e, 0, 1, target);
  claim("an opcode that it lacks is refused", 0x01, driver.run(io, other));
  claim("a flush is done", 0, driver.run(io, {.opcode = 0, .nsid = 1}));
  claim("... for all namespaces too", 0, driver.run(io, {.opcode = 0, .nsid = ~0u}));

  claim("zeroes are written", 0, driver.run(io, driver.blocks(8, 1, 2, 0)));
  claim("... there alone", driver.run(io, driver.blocks(2, 0, 8, target)) == 0 &&
                               std::all_of(to + 512, to + 1536, [](char byte) { return byte == 0; }) &&
                               std::memcmp(from, to, 512) == 0 &&
                               std::memcmp(from + 1536, to + 1536, 2560) == 0);
  const std::array<uint64_t, 4> ranges = {uint64_t{1} << 32, 0, uint64_t{2} << 32, 4};
  std::memcpy(driver.page(answer), ranges.data(), sizeof ranges);
  claim("ranges are deallocated", 0,
        driver.run(io, {.opcode = 9, .nsid = 1, .prp1 = Driver::iova(answer), .dw = {1, 4}}));
  claim("... and read as zero", driver.run(io, driver.blocks(2, 0, 8, target)) == 0 &&
                                    std::all_of(to, to + 1536, [](char byte) { return byte == 0; }) &&
                                    std::memcmp(from + 1536, to + 1536, 512) == 0 &&
                                    std::all_of(to + 2048, to + 3072, [](char byte) { return byte == 0; }));
  const std::array<uint64_t, 2> outside = {uint64_t{1} << 32, 16384};
  std::memcpy(driver.page(answer), outside.data(), sizeof outside);
  claim("a range outside is refused", 0x80,
        driver.run(io, {.opcode = 9, .nsid = 1, .prp1 = Driver::iova(answer), .dw = {0, 4}}));

  driver.host->ioctl(driver.fd, VFIO_DEVICE_RESET, 0);
  driver.master(true);
  driver.enable();
  claim("after a reset the data is still there",
        driver.createQueues() == 0 && driver.run(driver.io, driver.blocks(2, 4, 1, target)) == 0);
}

void order() {
  Driver driver;
  driver.enable();
  (void)driver.createQueues();
  // The completion queue has 8 entries, of which 7 can be in use.
  for (int i = 0; i < 7; ++i) (void)driver.submit(driver.io, {.opcode = 0, .nsid = 1});
  driver.host->settle();
  for (int i = 0; i < 5; ++i) (void)driver.submit(driver.io, {.opcode = 0, .nsid = 1});
  driver.host->settle();
  uint16_t expected = static_cast<uint16_t>(driver.lastId - 11);
  int taken = 0;
  bool inOrder = true;
  Completion each{};
  while (driver.take(driver.io, each)) {
    inOrder = inOrder && each.command == expected++;
    ++taken;
  }
  claim("a full completion queue holds commands back, and loses none", 12, taken);
  claim("... and they end in order", inOrder);
}

void variants() {
  Driver wide(R"(, "doorbellStride": 64, "size": "0x400000000000")");
  wide.stride = 64;
  claim("CAP tells the stride of doorbells", 4, static_cast<int64_t>(wide.get<uint64_t>(0) >> 32 & 15));
  wide.enable();
  claim("... and queues are rung there", 0, wide.createQueues());
  const uint64_t far = (uint64_t{1} << 37) - 1;
  std::memset(wide.page(data), 'x', 512);
  claim("the last block of 64 TiB is written", 0,
        wide.run(wide.io, wide.blocks(1, far, 1, Driver::iova(data))));
  claim("... and read", wide.run(wide.io, wide.blocks(2, far, 1, Driver::iova(data + 1))) == 0 &&
                            wide.page(data + 1)[511] == 'x');
  claim("... and is another one than block 2^32 - 1",
        wide.run(wide.io, wide.blocks(2, 0xffffffff, 1, Driver::iova(data + 1))) == 0 &&
            wide.page(data + 1)[511] == 0);

  std::array<char, 32> name{"/tmp/nvme-XXXXXX"};
  ::close(mkstemp(name.data()));
  const std::string file = R"(, "size": 1048576, "file": ")" + std::string(name.data()) + "\"";
  {
    Driver first(file);
    first.enable();
    std::memset(first.page(data), 'y', 512);
    claim("a block goes to a file",
          first.createQueues() == 0 && first.run(first.io, first.blocks(1, 7, 1, Driver::iova(data))) == 0);
  }
  Driver second(file);
  second.enable();
  claim("... where another host finds it",
        second.createQueues() == 0 &&
            second.run(second.io, second.blocks(2, 7, 1, Driver::iova(data))) == 0 &&
            second.page(data)[0] == 'y' && second.page(data)[511] == 'y');
  ::unlink(name.data());
}

// Pages of 8 KiB: lists are longer, and PRPs aligned to more.
void largePages() {
  Driver driver;
  driver.enable(0x00460001 | 1 << 7);
  claim("pages of 8 KiB are taken", driver.ready());
  claim("... and queues created", 0, driver.createQueues());
  for (size_t i = 0; i < 8 * kPage; ++i) driver.page(data + 1)[i] = static_cast<char>(i * 7 / 64);
  const auto move = [&](uint8_t opcode, uint64_t page) {
    auto* entries = reinterpret_cast<uint64_t*>(driver.page(list));
    entries[0] = Driver::iova(page + 1);
    entries[1] = Driver::iova(page + 3);
    return driver.run(driver.io, driver.blocks(opcode, 0, 40, Driver::iova(page), Driver::iova(list)));
  };
  claim("20 KiB are written, from the middle of a page on", 0, move(1, data + 1));
  claim("... and read", 0, move(2, data + 101));
  claim("... as they were", 0, std::memcmp(driver.page(data + 1), driver.page(data + 101), 5 * kPage));
  claim("the middle of a page is none for a second PRP", 0x13,
        driver.run(driver.io, driver.blocks(2, 0, 24, Driver::iova(data + 1), Driver::iova(data + 3))));
}

// Commands of random fields, with queues in the middle of them. Nobody knows what they do, but that the host
// lives and a reset helps.
void anyCommands() {
  Driver driver(R"(, "size": 1048576)");
  std::mt19937_64 next(1);
  const auto words = [&] {
    constexpr std::array<uint32_t, 8> usual = {0, 1, 2, 0x70001, 0x10001, 0xffffffff, 0x1ff0001, 0x80000000};
    return next() % 3 == 0 ? static_cast<uint32_t>(next()) : usual[next() % usual.size()];
  };
  const auto address = [&] {
    const uint64_t page = next() % 16 == 0 ? kHole : Driver::iova(next() % 1024);
    return next() % 4 == 0 ? page + next() % kPage : page;
  };
  unsigned fatal = 0;
  for (int round = 0; round < 200; ++round) {
    driver.disable();
    driver.enable();
    (void)driver.createQueues();
    for (int i = 0; i < 64; ++i) {
      Command command{.opcode = static_cast<uint8_t>(next() % 16 == 0 ? next() : next() % 13),
                      .flags = static_cast<uint8_t>(next() % 16 == 0 ? next() : 0),
                      .nsid = next() % 8 == 0 ? words() : 1,
                      .prp1 = address(),
                      .prp2 = address()};
      for (uint32_t& word : command.dw) word = words();
      (void)driver.submit(next() % 2 == 0 ? driver.admin : driver.io, command);
      if (next() % 4 == 0) driver.set(0x1000 + next() % 256 / 4 * 4, static_cast<uint32_t>(next() % 16));
      Completion taken{};
      while (driver.take(driver.admin, taken) || driver.take(driver.io, taken)) continue;
    }
    fatal += driver.fatal() ? 1 : 0;
  }
  claim("of 12800 random commands some were fatal, and most not", fatal < 200);
  driver.disable();
  driver.enable();
  std::memset(driver.page(data), 'z', 512);
  claim("after them a reset helps",
        driver.createQueues() == 0 &&
            driver.run(driver.io, driver.blocks(1, 7, 1, Driver::iova(data))) == 0 &&
            driver.run(driver.io, driver.blocks(2, 7, 1, Driver::iova(data + 1))) == 0 &&
            driver.page(data + 1)[0] == 'z');
}

}  // namespace

int main() {
  transfers();
  order();
  variants();
  largePages();
  anyCommands();
  std::printf("%d failures\n", failures);
  return failures == 0 ? 0 : 1;
}
