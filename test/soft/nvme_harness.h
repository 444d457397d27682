// A small driver for the NVMe controller, which knows it from the specification: numbers here, and in the
// checks that use it, are those of the NVM Express base specification 1.3, not the model's.
#pragma once

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>
#include <memory>
#include <string>
#include <vector>

#include "../../native/uapi/vfio.h"
#include "iommufd_harness.h"

namespace vfio::soft::check {

using namespace uapi;

inline constexpr uint64_t kConfig = uint64_t{VFIO_PCI_CONFIG_REGION_INDEX} << 40;
inline constexpr uint64_t kIova = 0x100000;
inline constexpr uint64_t kHole = 0x40000000;  // nothing is mapped there

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

// What is where in the memory of the driver, by page of 4 KiB. All but the data has 8 KiB.
enum Place : uint64_t {
  adminSubmission = 0,
  adminCompletion = 2,
  submission = 4,
  completion = 6,
  answer = 8,
  list = 10,
  list2 = 12,
  data = 14,
};

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
    std::memset(page(adminSubmission), 0, answer * kPage);
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

inline uint64_t counted(int fd) {
  uint64_t count = 0;
  return ::read(fd, &count, sizeof count) == sizeof count ? count : 0;
}

}  // namespace vfio::soft::check
