// The NVMe controller, by a small driver that knows it from the specification: numbers here are those of the
// NVM Express base specification 1.3, not the model's.
#include <fcntl.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cstring>
#include <numeric>

#include "../../native/soft/pci/registers.h"
#include "../../native/uapi/vfio.h"
#include "iommufd_harness.h"

using namespace vfio::soft;
using namespace vfio::soft::check;
using namespace vfio::uapi;

namespace {

constexpr uint64_t kConfig = uint64_t{VFIO_PCI_CONFIG_REGION_INDEX} << 40;
constexpr uint64_t kIova = 0x100000;
constexpr uint64_t kHole = 0x40000000;  // nothing is mapped there

struct Command {
  uint8_t opcode = 0;
  uint8_t flags = 0;
  uint16_t id = 0;
  uint32_t nsid = 0;
  uint64_t reserved[2] = {};
  uint64_t prp1 = 0;
  uint64_t prp2 = 0;
  uint32_t dw[6] = {};
};
static_assert(sizeof(Command) == 64);

struct Completion {
  uint32_t result;
  uint32_t reserved;
  uint16_t head, queue, command, status;
};

// What is where in the memory of the driver, by page.
enum Place : uint64_t { adminSubmission, adminCompletion, submission, completion, answer, list, list2, data };

struct Queue {
  uint16_t number;
  Place submissions, completions;
  uint16_t size;
  uint16_t tail = 0, head = 0, phase = 1;
};

class Driver {
 public:
  explicit Driver(const std::string& options = "")
      : host(std::make_unique<Host>(
            std::make_shared<mm::Memory>(),
            HostOptions{.topology = R"({ "devices": [{ "model": "nvme", "bdf": "0000:00:04.0",
                                    "driver": "vfio-pci")" +
                                    options + " }] }"})) {
    const int iommufd = host->open("/dev/iommu", O_RDWR);
    fd = host->open("/dev/vfio/devices/vfio0", O_RDWR);
    vfio_device_bind_iommufd bind{.argsz = sizeof bind, .iommufd = iommufd};
    iommu_ioas_alloc alloc{.size = sizeof alloc};
    bool ready = call(fd, VFIO_DEVICE_BIND_IOMMUFD, bind) == 0 && call(iommufd, IOMMU_IOAS_ALLOC, alloc) == 0;
    vfio_device_attach_iommufd_pt attach{.argsz = sizeof attach, .pt_id = alloc.out_ioas_id};
    iommu_ioas_map map{.size = sizeof map,
                       .flags = kBoth | kFixed,
                       .ioas_id = alloc.out_ioas_id,
                       .user_va = memory.user(),
                       .length = memory.size(),
                       .iova = kIova};
    ready = ready && call(fd, VFIO_DEVICE_ATTACH_IOMMUFD_PT, attach) == 0 &&
            call(iommufd, IOMMU_IOAS_MAP, map) == 0;
    claim("the device is opened, and its memory mapped", ready);
    master(true);
  }
  Driver(const Driver&) = delete;
  Driver& operator=(const Driver&) = delete;

  template <typename Struct>
  int call(int of, uint32_t request, Struct& argument) {
    return host->ioctl(of, request, reinterpret_cast<uintptr_t>(&argument));
  }
  void master(bool on) {
    const uint16_t command = on ? 6 : 2;
    (void)host->pwrite(fd, &command, sizeof command, kConfig + 4);
  }
  template <typename Value = uint32_t>
  Value get(uint64_t at) {
    Value value{};
    (void)host->pread(fd, &value, sizeof value, at);
    return value;
  }
  template <typename Value = uint32_t>
  void set(uint64_t at, Value value) {
    (void)host->pwrite(fd, &value, sizeof value, at);
  }
  char* page(uint64_t place) const { return memory.bytes() + place * kPage; }
  static uint64_t iova(uint64_t place) { return kIova + place * kPage; }

  void enable(uint32_t configuration = 0x00460001) {
    std::memset(page(adminSubmission), 0, 4 * kPage);
    admin = {0, adminSubmission, adminCompletion, 16};
    io = {1, submission, completion, 8};
    set(0x24, 15u << 16 | 15u);
    set<uint64_t>(0x28, iova(adminSubmission));
    set<uint64_t>(0x30, iova(adminCompletion));
    set(0x14, configuration);
    host->settle();
  }
  void disable() { set<uint32_t>(0x14, 0x00460000); }
  [[nodiscard]] bool ready() { return (get(0x1c) & 1) != 0; }
  [[nodiscard]] bool fatal() { return (get(0x1c) & 2) != 0; }

  void ring(const Queue& queue, bool completions, uint32_t value) {
    set(0x1000 + (queue.number * 2 + (completions ? 1 : 0)) * stride, value);
  }
  uint16_t submit(Queue& queue, Command command) {
    command.id = ++lastId;
    std::memcpy(page(queue.submissions) + queue.tail * sizeof command, &command, sizeof command);
    queue.tail = static_cast<uint16_t>((queue.tail + 1) % queue.size);
    ring(queue, false, queue.tail);
    return lastId;
  }
  // The next completion, if there is one.
  bool take(Queue& queue, Completion& into) {
    host->settle();
    std::memcpy(&into, page(queue.completions) + queue.head * sizeof into, sizeof into);
    if ((into.status & 1) != queue.phase) return false;
    queue.head = static_cast<uint16_t>((queue.head + 1) % queue.size);
    if (queue.head == 0) queue.phase ^= 1;
    ring(queue, true, queue.head);
    return true;
  }
  // The status code and its type of a command; -1 if nothing came of it.
  int run(Queue& queue, const Command& command) {
    const uint16_t id = submit(queue, command);
    if (!take(queue, last) || last.command != id || last.queue != queue.number) return -1;
    return last.status >> 1 & 0x7ff;
  }
  int createQueues() {
    const uint32_t sizeAndNumber = (io.size - 1u) << 16 | 1;
    const int created = run(admin, {.opcode = 5, .prp1 = iova(completion), .dw = {sizeAndNumber, 3}});
    return created != 0
               ? created
               : run(admin, {.opcode = 1, .prp1 = iova(submission), .dw = {sizeAndNumber, 1u << 16 | 1}});
  }
  Command blocks(uint8_t opcode, uint64_t first, uint32_t count, uint64_t prp1, uint64_t prp2 = 0) {
    return {.opcode = opcode,
            .nsid = 1,
            .prp1 = prp1,
            .prp2 = prp2,
            .dw = {static_cast<uint32_t>(first), static_cast<uint32_t>(first >> 32), count - 1}};
  }
  // Turns interrupts on, with these eventfds; without any, it unmasks the pin.
  int setIrqs(uint32_t index, const std::vector<int>& fds) {
    std::vector<int32_t> request(sizeof(vfio_irq_set) / 4);
    const vfio_irq_set head{
        .argsz = static_cast<uint32_t>(sizeof head + fds.size() * 4),
        .flags = fds.empty() ? VFIO_IRQ_SET_DATA_NONE | VFIO_IRQ_SET_ACTION_UNMASK
                             : VFIO_IRQ_SET_DATA_EVENTFD | VFIO_IRQ_SET_ACTION_TRIGGER,
        .index = index,
        .start = 0,
        .count = std::max<uint32_t>(1, static_cast<uint32_t>(fds.size())),
    };
    std::memcpy(request.data(), &head, sizeof head);
    request.insert(request.end(), fds.begin(), fds.end());
    return host->ioctl(fd, VFIO_DEVICE_SET_IRQS, reinterpret_cast<uintptr_t>(request.data()));
  }

  Buffer memory{4 << 20};
  std::unique_ptr<Host> host;
  int fd = -1;
  uint64_t stride = 4;
  uint16_t lastId = 0;
  Queue admin{}, io{};
  Completion last{};
};

uint64_t counted(int fd) {
  uint64_t count = 0;
  return ::read(fd, &count, sizeof count) == sizeof count ? count : 0;
}

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

}  // namespace

int main() {
  registers();
  identify();
  queues();
  transfers();
  order();
  interrupts();
  pin();
  events();
  fatal();
  variants();
  std::printf("%d failures\n", failures);
  return failures == 0 ? 0 : 1;
}
