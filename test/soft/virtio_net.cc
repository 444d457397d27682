// The virtio network device: its registers and states, its queues and interrupts, and frames between devices.
#include <sys/eventfd.h>
#include <unistd.h>

#include <cstring>
#include <random>
#include <vector>

#include "virtio_harness.h"

using namespace vfio::soft;
using namespace vfio::soft::check;
using namespace vfio::uapi;

namespace {

void states() {
  Machine machine(R"(, "mac": "52:54:00:12:34:56")");
  Driver driver = machine.driver(0);
  claim("it is a network device of virtio 1", driver.get<uint32_t>(kConfig) == 0x10411af4 &&
                                                  driver.get<uint8_t>(kConfig + 8) == 1 &&
                                                  driver.get<uint16_t>(kConfig + 10) == 0x0200);
  const auto mac = driver.get<uint32_t>(driver.specific);
  claim("its configuration has the MAC address", 0x12005452, mac);
  claim("... and a link that is up", 1, driver.get<uint16_t>(driver.specific + 6));
  claim("it has two queues", 2, driver.get<uint16_t>(driver.common + 0x12));
  claim("... of 256 entries", 256, driver.get<uint16_t>(driver.common + 0x18));
  driver.set<uint16_t>(driver.common + 0x16, 2);
  claim("... and no third", 0, driver.get<uint16_t>(driver.common + 0x18));
  driver.set<uint32_t>(driver.common, 0);
  claim("it offers its features", 0x10018020, driver.get<uint32_t>(driver.common + 4));
  driver.set<uint32_t>(driver.common, 1);
  claim("... of both halves", 3, driver.get<uint32_t>(driver.common + 4));
  driver.set<uint32_t>(driver.common, 2);
  claim("... and none behind them", 0, driver.get<uint32_t>(driver.common + 4));
  claim("the status is 0 at first", 0, driver.status());
  claim("a driver without VERSION_1 is not accepted", !driver.start(uint64_t{1} << 33));
  claim("... nor one that would bypass the IOMMU", !driver.start(uint64_t{1} << 32));
  claim("... nor a feature that it lacks", !driver.start(kRequired | 1));
  claim("the features that it needs are", driver.start() && driver.status() == 15);
  driver.set<uint32_t>(driver.common + 0x08, 1);
  driver.set<uint32_t>(driver.common + 0x0c, 0);
  claim("... and can't be changed any more", 3, driver.get<uint32_t>(driver.common + 0x0c));
  driver.set<uint16_t>(driver.common + 0x16, 1);
  driver.set<uint16_t>(driver.common + 0x18, 4);
  driver.set<uint64_t>(driver.common + 0x20, 0);
  claim("a queue that is enabled can't be changed",
        driver.get<uint16_t>(driver.common + 0x18) == kEntries &&
            driver.get<uint64_t>(driver.common + 0x20) == driver.at(4));
  driver.set<uint16_t>(driver.common + 0x1a, 3);
  claim("a vector that it lacks is refused", 0xffff, driver.get<uint16_t>(driver.common + 0x1a));
  driver.setStatus(1);
  claim("bits of the status stay", 15, driver.status());
  driver.setStatus(0);
  claim("0 resets it", driver.status() == 0 && driver.get<uint16_t>(driver.common + 0x1c) == 0 &&
                           driver.get<uint16_t>(driver.common + 0x18) == 256);
  driver.set<uint16_t>(driver.common + 0x18, 100);
  driver.set<uint16_t>(driver.common + 0x18, 512);
  claim("a size that it can't have is refused", 256, driver.get<uint16_t>(driver.common + 0x18));
  claim("it starts anew", driver.start() && driver.status() == 15);
  machine.host.ioctl(driver.fd, VFIO_DEVICE_RESET, 0);
  claim("a reset of the function resets it too", 0, driver.status());
}

// What the capability for config space stands for is read and written there.
void window() {
  Machine machine;
  Driver driver = machine.driver(0);
  const auto choose = [&](uint32_t offset, uint32_t length) {
    driver.set<uint8_t>(driver.window + 4, 0);
    driver.set<uint32_t>(driver.window + 8, static_cast<uint32_t>(offset));
    driver.set<uint32_t>(driver.window + 12, length);
  };
  const uint64_t data = driver.window + 16;
  const auto offset = static_cast<uint32_t>(driver.common);
  choose(offset + 0x14, 1);
  claim("the status is read through config space", 0, driver.get<uint8_t>(data));
  driver.set<uint8_t>(data, 3);
  claim("... and written", driver.status() == 3 && driver.get<uint32_t>(data) == 3);
  choose(offset + 0x12, 2);
  claim("a register of two bytes too", 2, driver.get<uint16_t>(data));
  choose(offset, 4);
  driver.set<uint32_t>(data, 1);
  claim("... and one of four", 1, driver.get<uint32_t>(driver.common));
  for (const auto& [place, length] : {std::pair(offset + 0x14, 3u), {offset + 0x15, 2}, {0xfffffffcu, 4}}) {
    choose(place, length);
    driver.set<uint32_t>(data, 0);
  }
  claim("an access that no bus makes is none", driver.status() == 3 && driver.get<uint32_t>(data) == 0);
}

void loop() {
  Machine machine;
  Driver driver = machine.driver(0);
  claim("its own MAC address has its place on the bus", [&] {
    const auto low = driver.get<uint16_t>(driver.specific + 4);
    return driver.get<uint32_t>(driver.specific) == 0x00005452 && low == 0x2000;
  }());
  claim("it starts", driver.start());
  driver.offerBuffer(0);
  driver.offerBuffer(1);
  const Bytes frame = frameOf(0x5a, 60), longer = frameOf(0xa5, 1514);
  claim("a frame is taken", driver.send(frame));
  claim("... and comes back", driver.arrives(0, frame));
  claim("... and another one", driver.send(longer) && driver.arrives(1, longer));
  claim("a frame without a buffer waits", driver.send(frame) && !driver.take(0));
  driver.offerBuffer(2);
  claim("... until there is one", driver.arrives(2, frame));
  claim("a frame that is too short is lost", driver.send(frameOf(1, 13)) && !driver.take(0));
  driver.offerBuffer(3, 40);
  claim("one that is too long for the buffer too", driver.send(frame) && !driver.take(0));
  claim("... and the buffer is still there",
        driver.send(frameOf(2, 20)) && driver.arrives(3, frameOf(2, 20)));
  for (uint16_t i = 0; i < 100; ++i) {  // the rings wrap
    const Bytes each = frameOf(static_cast<uint8_t>(i), 64);
    driver.offerBuffer(i % kEntries);
    if (!driver.send(each) || !driver.arrives(i % kEntries, each)) return claim("100 frames", false);
  }
  claim("100 frames", true);
  claim("nothing is wrong", !driver.needsReset() && machine.host.takeFaults().empty());
}

void chains() {
  Machine machine;
  Driver driver = machine.driver(0);
  claim("it starts with more features", driver.start(kRequired | kMergeable | kIndirect));
  for (uint16_t i = 0; i < 3; ++i) driver.offerBuffer(i, 512);
  Bytes frame(1200);
  for (size_t i = 0; i < frame.size(); ++i) frame[i] = static_cast<uint8_t>(i * 7);
  claim("a frame that needs three buffers is sent", driver.send(frame));
  const auto one = driver.take(0), two = driver.take(0), three = driver.take(0);
  claim("... and is in them",
        one && two && three && one->length == 512 && two->length == 512 && three->length == 1212 - 1024);
  uint16_t buffers = 0;
  std::memcpy(&buffers, driver.page(16) + 10, sizeof buffers);
  claim("... whose number is in the header", 3, buffers);
  Bytes joined = driver.buffer(0, 12, 500);
  for (const Bytes& more : {driver.buffer(1, 0, 512), driver.buffer(2, 0, 188)})
    joined.insert(joined.end(), more.begin(), more.end());
  claim("... in order", joined == frame);

  // A table of its own, with a header and a frame in two parts.
  driver.offerBuffer(3);
  auto* table = reinterpret_cast<Descriptor*>(driver.page(14));
  std::memcpy(driver.page(13), frame.data(), 100);
  table[0] = {driver.at(12), 12, 1, 2};
  table[2] = {driver.at(13), 50, 1, 1};
  table[1] = {driver.at(13) + 50, 50, 0, 0};
  driver.table(1)[5] = {driver.at(14), 3 * sizeof(Descriptor), 4, 0};
  driver.offer(1, 5);
  const auto taken = driver.take(1);
  claim("an indirect chain is taken", taken && taken->head == 5);
  claim("... with its frame", driver.arrives(3, {frame.begin(), frame.begin() + 100}));
}

void cable() {
  Machine machine(R"(, "peer": "0000:00:05.0")", R"(, "peer": "0000:00:04.0")");
  Driver one = machine.driver(0), other = machine.driver(1);
  claim("one starts", one.start());
  claim("a frame to a device that is not ready is lost", one.send(frameOf(1, 60)));
  claim("the other starts", other.start());
  other.offerBuffer(0);
  one.offerBuffer(0);
  claim("... and has received nothing", !other.take(0));
  const Bytes there = frameOf(2, 100), back = frameOf(3, 200);
  claim("a frame arrives at the other", one.send(there) && other.arrives(0, there) && !one.take(0));
  claim("... and an answer at the first", other.send(back) && one.arrives(0, back) && !other.take(0));
  other.setStatus(0);
  claim("after a reset it receives nothing", one.send(there) && other.start());
  other.offerBuffer(0);
  claim("... and has kept nothing", !other.take(0));
  claim("the memory of one is not reached for the other", machine.host.takeFaults().empty());
  for (int i = 0; i < 300; ++i) (void)one.send(there);
  for (uint16_t i = 0; i < kEntries; ++i) (void)other.take(0);
  claim("what is too much is lost, and nobody waits for it", one.send(there) && !one.needsReset());
  (void)machine.host.close(other.fd);
  claim("the other is unplugged", 0, machine.host.removeDevice("0000:00:05.0"));
  claim("... and frames to it are lost", one.send(there) && !one.needsReset());
}

void interrupts() {
  Machine machine;
  Driver driver = machine.driver(0);
  std::vector<int> fds;
  for (int i = 0; i < 3; ++i) fds.push_back(eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
  claim("MSI-X is turned on", 0, driver.setIrqs(VFIO_PCI_MSIX_IRQ_INDEX, fds));
  (void)driver.start();
  driver.offerBuffer(0);
  claim("a frame is sent and received", driver.send(frameOf(1, 60)) && driver.take(0));
  claim("... with the vector of each queue",
        counted(fds[0]) == 0 && counted(fds[1]) == 1 && counted(fds[2]) == 1);
  const uint16_t quiet = 1;
  std::memcpy(driver.page(5), &quiet, sizeof quiet);
  driver.offerBuffer(1);
  claim("a queue whose driver wants no interrupts raises none",
        driver.send(frameOf(1, 60)) && counted(fds[1]) == 1 && counted(fds[2]) == 0);
  driver.offer(1, 99);
  machine.host.settle();
  claim("a need for a reset is a change", driver.needsReset() && counted(fds[0]) == 1);
  for (const int each : fds) ::close(each);
}

void pin() {
  Machine machine;
  Driver driver = machine.driver(0);
  const int fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
  claim("INTx is turned on", 0, driver.setIrqs(VFIO_PCI_INTX_IRQ_INDEX, {fd}));
  (void)driver.start();
  claim("a frame raises the pin", driver.send(frameOf(1, 60)) && counted(fd) == 1);
  claim("... and the ISR says why", 1, driver.get<uint8_t>(driver.isr));
  claim("... once", 0, driver.get<uint8_t>(driver.isr));
  driver.offer(1, 99);
  machine.host.settle();
  claim("a change too", 2, driver.get<uint8_t>(driver.isr));
  ::close(fd);
}

// Each of these makes the device ask for a reset, and a reset helps.
void errors() {
  Machine machine;
  Driver driver = machine.driver(0);
  const auto fails = [&](const char* what, bool fault, const auto& attempt) {
    (void)driver.start(kRequired | kIndirect);
    driver.offerBuffer(0);
    attempt();
    machine.host.settle();
    claim(std::string(what) + " needs a reset", driver.needsReset());
    claim("... with a fault in the log", fault, !machine.host.takeFaults().empty());
    driver.offerBuffer(1);
    claim("... until which nothing is done", !driver.send(frameOf(1, 60)) && !driver.take(0));
    (void)driver.start();
    driver.offerBuffer(0);
    claim("... and which helps", driver.send(frameOf(1, 60)) && driver.arrives(0, frameOf(1, 60)));
  };
  const auto sends = [&](Descriptor first, Descriptor second = {}) {
    driver.table(1)[0] = first;
    driver.table(1)[1] = second;
    driver.offer(1, 0);
  };
  fails("a head outside the table", false, [&] { driver.offer(1, kEntries); });
  fails("a next one outside the table", false, [&] { sends({driver.at(12), 100, 1, kEntries}); });
  fails("a circle", false, [&] { sends({driver.at(12), 100, 1, 1}, {driver.at(12), 100, 1, 0}); });
  fails("a buffer to send that can be written", false, [&] { sends({driver.at(12), 100, 2, 0}); });
  fails("a frame without a header", false, [&] { sends({driver.at(12), 11, 0, 0}); });
  fails("an empty indirect table", false, [&] { sends({driver.at(14), 0, 4, 0}); });
  fails("an indirect table of no whole size", false, [&] { sends({driver.at(14), 17, 4, 0}); });
  fails("an indirect table with a next one", false, [&] { sends({driver.at(14), 16, 5, 1}); });
  fails("an indirect table in another", false, [&] {
    *reinterpret_cast<Descriptor*>(driver.page(14)) = {driver.at(14), 16, 4, 0};
    sends({driver.at(14), 16, 4, 0});
  });
  fails("more than the queue can hold", false, [&] {
    for (int i = 0; i <= kEntries; ++i) driver.offer(1, 0, false);
    driver.notify(1);
  });
  fails("a buffer that is not mapped", true, [&] { sends({kHole, 100, 0, 0}); });
  fails("an indirect table that is not mapped", true, [&] { sends({kHole, 32, 4, 0}); });
  fails("a buffer to receive that can't be written", false, [&] {
    driver.table(0)[0].flags = 0;
    (void)driver.send(frameOf(1, 60));
  });
  fails("a buffer to receive that is not mapped", true, [&] {
    driver.table(0)[0].address = kHole;
    (void)driver.send(frameOf(1, 60));
  });
  fails("a device without bus mastering", true, [&] {
    driver.master(false);
    driver.notify(1);
    machine.host.settle();
    driver.master(true);
  });
  (void)driver.start(kRequired, kHole);
  driver.notify(0);
  (void)driver.send(frameOf(1, 60));
  claim("a ring that is not mapped needs a reset too", driver.needsReset());
  (void)driver.start();
  driver.table(1)[0] = {driver.at(14), 32, 4, 0};
  driver.offer(1, 0);
  machine.host.settle();
  claim("so does an indirect table that was not agreed on", driver.needsReset());
}

// Rings full of numbers that mean nothing.
void garbage() {
  Machine machine;
  Driver driver = machine.driver(0);
  std::mt19937 numbers(1);
  unsigned refused = 0;
  for (unsigned round = 0; round < 2000; ++round) {
    (void)driver.start(kRequired | kIndirect | (round % 2 == 0 ? kMergeable : 0));
    for (uint16_t queue = 0; queue < 2; ++queue) {
      for (uint16_t i = 0; i < kEntries; ++i) {
        const uint64_t address = driver.at(12 + numbers() % 20) + numbers() % kPage;
        const auto flags = static_cast<uint16_t>(numbers() % 9);
        driver.table(queue)[i] = {numbers() % 16 == 0 ? numbers() : address,
                                  static_cast<uint32_t>(numbers() % 300), flags,
                                  static_cast<uint16_t>(numbers() % (kEntries + 1))};
      }
    }
    for (uint64_t page = 12; page < 32; ++page) {
      for (int i = 0; i < 8; ++i) driver.page(page)[numbers() % kPage] = static_cast<char>(numbers());
    }
    for (unsigned i = numbers() % kEntries; i-- > 0;) driver.offer(numbers() % 2, numbers() % kEntries);
    machine.host.settle();
    refused += driver.needsReset() ? 1 : 0;
    (void)machine.host.takeFaults();
  }
  claim("most such rings need a reset, and not all", refused > 1000 && refused < 2000);
  (void)driver.start();
  driver.offerBuffer(0);
  claim("... which helps", driver.send(frameOf(1, 60)) && driver.arrives(0, frameOf(1, 60)));
}

}  // namespace

int main() {
  states();
  window();
  loop();
  chains();
  cable();
  interrupts();
  pin();
  errors();
  garbage();
  std::printf("%s\n", failures == 0 ? "all held" : "FAILED");
  return failures == 0 ? 0 : 1;
}
