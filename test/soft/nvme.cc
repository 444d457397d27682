// The NVMe controller: its registers, its queues and interrupts, admin commands, events.
#include <sys/eventfd.h>
#include <unistd.h>

#include "nvme_harness.h"

using namespace vfio::soft;
using namespace vfio::soft::check;
using namespace vfio::uapi;

namespace {

void registers() {
  Driver driver;
  const auto cap = driver.get<uint64_t>(0);
  claim("CAP: queues of up to 1024 entries, contiguous", (cap & 0xffff) == 1023 && (cap >> 16 & 1) == 1);
  claim("... doorbells of 4 bytes, the NVM command set, pages of 4 KiB and more",
        (cap >> 32 & 15) == 0 && (cap >> 37 & 1) == 1 && (cap >> 48 & 15) == 0);
  claim("VS is 1.3", 0x10300, driver.get(8));
  claim("it is disabled at first", !driver.ready());
  driver.enable();
  claim("it becomes ready", driver.ready());
  driver.disable();
  claim("... and is disabled again, with its registers kept",
        !driver.ready() && driver.get<uint64_t>(0x28) == kIova);
  driver.enable(0x00460001 | 9 << 7);
  claim("a page size that it lacks is fatal", driver.fatal() && !driver.ready());
  driver.disable();
  driver.enable(0x00460001 | 1 << 4);
  claim("so is a command set that it lacks", driver.fatal());
  driver.disable();
  driver.enable();
  driver.set<uint32_t>(0x14, 0x00460001 | 1 << 14);
  driver.host->settle();
  claim("a shutdown is completed", 2, driver.get(0x1c) >> 2 & 3);
  claim("... and no command is done any more", -1, driver.run(driver.admin, {.opcode = 6, .dw = {1}}));
  driver.disable();
  claim("a new life begins without it", 0, driver.get(0x1c));
  driver.enable();
  driver.host->ioctl(driver.fd, VFIO_DEVICE_RESET, 0);
  claim("a reset of the function disables it", !driver.ready() && driver.get(0x14) == 0);
}

void identify() {
  Driver driver(R"(, "size": 1048576, "blockSize": 4096)");
  driver.enable();
  const char* data = driver.page(answer);
  const auto ask = [&](uint32_t what, uint32_t nsid) {
    return driver.run(driver.admin, {.opcode = 6, .nsid = nsid, .prp1 = Driver::iova(answer), .dw = {what}});
  };
  const auto number = [data](size_t at, size_t size) {
    uint64_t value = 0;
    std::memcpy(&value, data + at, size);
    return value;
  };
  claim("the controller is identified", 0, ask(1, 0));
  claim("... by its ids", number(0, 2) == 0x1b36 && number(2, 2) == 0x1af4);
  claim("... with a model name", "Software NVMe controller                ", std::string(data + 24, 40));
  claim("... entries of 64 and 16 bytes, one namespace", number(512, 2) == 0x4466 && number(516, 4) == 1);
  claim("the namespace is identified", 0, ask(0, 1));
  claim("... with its size in blocks", 256, static_cast<int64_t>(number(0, 8)));
  claim("... none of them in use", 0, static_cast<int64_t>(number(16, 8)));
  claim("... of 4096 bytes", 12, static_cast<int64_t>(number(130, 1)));
  claim("another namespace is invalid", 0x0b, ask(0, 2));
  claim("the list of namespaces", 0, ask(2, 0));
  claim("... has one", number(0, 4) == 1 && number(4, 4) == 0);
  claim("... and none after it", ask(2, 1) == 0 && number(0, 4) == 0);
  claim("the namespace has a name", ask(3, 1) == 0 && number(0, 2) == 0x0801);
  claim("what it can't identify is refused", 0x02, ask(0x77, 1));
  claim("memory that is not mapped is a transfer error", 0x04,
        driver.run(driver.admin, {.opcode = 6, .prp1 = kHole, .dw = {1}}));
  claim("... which may be tried again", (driver.last.status & 0x8000) == 0);
  claim("an opcode that it lacks is refused", 0x01, driver.run(driver.admin, {.opcode = 0x7f}));
  claim("... for good", (driver.last.status & 0x8000) != 0);
  claim("an SGL is refused", 0x02, driver.run(driver.admin, {.opcode = 6, .flags = 0x40, .dw = {1}}));
}

void queues() {
  Driver driver;
  driver.enable();
  Queue& admin = driver.admin;
  const auto createCompletion = [&](uint32_t number, uint32_t entries, uint32_t dw11, uint64_t at) {
    return driver.run(admin, {.opcode = 5, .prp1 = at, .dw = {(entries - 1) << 16 | number, dw11}});
  };
  const auto createSubmission = [&](uint32_t number, uint32_t entries, uint32_t dw11, uint64_t at) {
    return driver.run(admin, {.opcode = 1, .prp1 = at, .dw = {(entries - 1) << 16 | number, dw11}});
  };
  const uint64_t at = Driver::iova(completion);
  claim("a completion queue 0 can't be created", 0x101, createCompletion(0, 8, 1, at));
  claim("... nor one past the last", 0x101, createCompletion(32, 8, 1, at));
  claim("... nor one with a single entry", 0x102, createCompletion(1, 1, 1, at));
  claim("... nor one with too many", 0x102, createCompletion(1, 1025, 1, at));
  claim("... nor one that is not contiguous", 0x02, createCompletion(1, 8, 0, at));
  claim("... nor one that begins inside a page", 0x13, createCompletion(1, 8, 1, at + 64));
  claim("... nor one with a vector that is not there", 0x108, createCompletion(1, 8, 32u << 16 | 3, at));
  claim("a submission queue without its completion queue", 0x100, createSubmission(1, 8, 1u << 16 | 1, at));
  claim("one is created", 0, createCompletion(1, 8, 1, at));
  claim("... once", 0x101, createCompletion(1, 8, 1, at));
  claim("a submission queue is created for it", 0,
        createSubmission(2, 8, 1u << 16 | 1, Driver::iova(submission)));
  claim("the number of queues can't change now", 0x0c,
        driver.run(admin, {.opcode = 9, .dw = {7, 3u << 16 | 3}}));
  claim("a completion queue in use can't be deleted", 0x10c, driver.run(admin, {.opcode = 4, .dw = {1}}));
  claim("the submission queue is deleted", 0, driver.run(admin, {.opcode = 0, .dw = {2}}));
  claim("... once", 0x101, driver.run(admin, {.opcode = 0, .dw = {2}}));
  claim("... and then the other", 0, driver.run(admin, {.opcode = 4, .dw = {1}}));
  claim("the admin queues can't be deleted", 0x101, driver.run(admin, {.opcode = 4, .dw = {0}}));

  claim("fewer queues can be asked for", 0, driver.run(admin, {.opcode = 9, .dw = {7, 3u << 16 | 3}}));
  claim("... and are what it gives", 3u << 16 | 3, driver.last.result);
  claim("... and no more", 0x101, createCompletion(5, 8, 1, at));
  claim("a feature is kept", 0, driver.run(admin, {.opcode = 9, .dw = {0x0b, 0x1f}}));
  claim("... and read", driver.run(admin, {.opcode = 10, .dw = {0x0b}}) == 0 && driver.last.result == 0x1f);
  claim("... but not saved", 0x10d, driver.run(admin, {.opcode = 9, .dw = {0x8000000bu, 1}}));
  claim("one that it lacks is refused", 0x02, driver.run(admin, {.opcode = 10, .dw = {0x55}}));
}

void interrupts() {
  Driver driver;
  std::vector<int> fds;
  for (int i = 0; i < 2; ++i) fds.push_back(eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
  claim("MSI-X is turned on", 0, driver.setIrqs(VFIO_PCI_MSIX_IRQ_INDEX, fds));
  driver.enable();
  const uint32_t sizeAndNumber = 7u << 16 | 1;
  claim("a queue is created with vector 1", 0,
        driver.run(driver.admin,
                   {.opcode = 5, .prp1 = Driver::iova(completion), .dw = {sizeAndNumber, 1u << 16 | 3}}));
  claim("... which vector 0 tells", 1, static_cast<int64_t>(counted(fds[0])));
  (void)driver.run(driver.admin,
                   {.opcode = 1, .prp1 = Driver::iova(submission), .dw = {sizeAndNumber, 1u << 16 | 1}});
  (void)counted(fds[0]);
  claim("an I/O command ends", 0, driver.run(driver.io, {.opcode = 0, .nsid = 1}));
  claim("... with vector 1 alone", counted(fds[1]) == 1 && counted(fds[0]) == 0);
  for (const int each : fds) ::close(each);
}

void pin() {
  Driver driver;
  const int fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
  const auto unmask = [&] { return driver.setIrqs(VFIO_PCI_INTX_IRQ_INDEX, {}); };
  claim("INTx is turned on", 0, driver.setIrqs(VFIO_PCI_INTX_IRQ_INDEX, {fd}));
  driver.enable();
  (void)driver.submit(driver.admin, {.opcode = 10, .dw = {7}});
  driver.host->settle();
  claim("a completion raises the pin", 1, static_cast<int64_t>(counted(fd)));
  claim("... which stays high until it is taken", unmask() == 0 && counted(fd) == 1);
  driver.set<uint32_t>(0x0c, 1);
  claim("... or masked", unmask() == 0 && counted(fd) == 0);
  driver.set<uint32_t>(0x10, 1);
  claim("... and no longer", 1, static_cast<int64_t>(counted(fd)));
  Completion taken{};
  claim("when it is taken the pin is low",
        driver.take(driver.admin, taken) && unmask() == 0 && counted(fd) == 0);
  ::close(fd);
}

void events() {
  Driver driver;
  driver.enable();
  Queue& admin = driver.admin;
  Completion event{};
  const uint16_t id = driver.submit(admin, {.opcode = 12});
  claim("a request for events stays outstanding", !driver.take(admin, event));
  driver.set<uint32_t>(0x1000 + 4 * 7, 1);
  claim("a doorbell of no queue ends it", driver.take(admin, event) && event.command == id);
  claim("... with that event, and its log", 0x010000, event.result);
  driver.ring(admin, false, 99);
  const uint16_t second = driver.submit(admin, {.opcode = 12});
  claim("another event waits until the log is read", !driver.take(admin, event));
  const uint32_t words = 64 / 4 - 1;
  (void)driver.submit(admin, {.opcode = 2, .prp1 = Driver::iova(answer), .dw = {words << 16 | 1}});
  claim("... and then it comes", driver.take(admin, event) && driver.take(admin, event) &&
                                     event.command == second && event.result == 0x010100);
  for (int i = 0; i < 4; ++i) (void)driver.submit(admin, {.opcode = 12});
  claim("more than four requests are refused", 0x105, driver.run(admin, {.opcode = 12}));
  const uint32_t aborted = static_cast<uint32_t>(driver.lastId - 1) << 16;
  const uint16_t abort = driver.submit(admin, {.opcode = 8, .dw = {aborted}});
  claim("a request is aborted",
        driver.take(admin, event) && event.command == abort - 2 && (event.status >> 1 & 0x7ff) == 0x07);
  claim("... and the Abort says so",
        driver.take(admin, event) && event.command == abort && event.result == 0);
  claim("another command is not found",
        driver.run(admin, {.opcode = 8, .dw = {0x77770001}}) == 0 && driver.last.result == 1);
  claim("the log of errors is read", 0,
        driver.run(admin, {.opcode = 2, .prp1 = Driver::iova(answer), .dw = {words << 16 | 1}}));
  uint16_t status = 0;
  std::memcpy(&status, driver.page(answer) + 12, sizeof status);
  claim("... and has the latest one", 0x07 < status >> 1 && status >> 1 == 0x105);
  claim("the log of health is read", 0,
        driver.run(admin, {.opcode = 2, .nsid = ~0u, .prp1 = Driver::iova(answer), .dw = {127u << 16 | 2}}));
  claim("... with a temperature and spare blocks",
        driver.page(answer)[3] == 100 && driver.page(answer)[1] == 313 - 256);
  claim("a log that it lacks is refused", 0x109,
        driver.run(admin, {.opcode = 2, .prp1 = Driver::iova(answer), .dw = {127u << 16 | 0x42}}));
}

void fatal() {
  Driver driver;
  driver.enable();
  driver.master(false);
  claim("without bus mastering no command is fetched", -1,
        driver.run(driver.admin, {.opcode = 6, .dw = {1}}));
  claim("... which is fatal", driver.fatal());
  claim("... and in the fault log", "bus mastering is off", driver.host->takeFaults().front().reason);
  driver.master(true);
  driver.disable();
  driver.enable();
  claim("a reset helps", driver.ready() && !driver.fatal());
  driver.set(0x1c, 0u);
  claim("queues are created", 0, driver.createQueues());
  claim("a completion queue that is not mapped can be made", 0,
        driver.run(driver.admin, {.opcode = 5, .prp1 = kHole, .dw = {7u << 16 | 2, 1}}));
  claim("... and used", 0,
        driver.run(driver.admin,
                   {.opcode = 1, .prp1 = Driver::iova(list), .dw = {7u << 16 | 2, 2u << 16 | 1}}));
  Queue lost{2, list, list2, 8};
  (void)driver.submit(lost, {.opcode = 0, .nsid = 1});
  driver.host->settle();
  claim("... but a completion that can't be posted is fatal", driver.fatal());
}

}  // namespace

int main() {
  registers();
  identify();
  queues();
  interrupts();
  pin();
  events();
  fatal();
  std::printf("%d failures\n", failures);
  return failures == 0 ? 0 : 1;
}
