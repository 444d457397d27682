// A small driver for the virtio network device, which knows it from the virtio specification 1.2: numbers
// here, and in the checks that use it, are those of the specification, not the model's.
#pragma once

#include <fcntl.h>
#include <unistd.h>

#include <array>
#include <cstring>
#include <optional>
#include <string>
#include <vector>

#include "../../native/uapi/vfio.h"
#include "iommufd_harness.h"

namespace vfio::soft::check {

using namespace uapi;

inline constexpr uint64_t kConfig = uint64_t{VFIO_PCI_CONFIG_REGION_INDEX} << 40;
inline constexpr uint64_t kHole = 0x40000000;  // nothing is mapped there
inline constexpr uint64_t kRequired = uint64_t{3} << 32;
inline constexpr uint64_t kMergeable = uint64_t{1} << 15;
inline constexpr uint64_t kIndirect = uint64_t{1} << 28;
inline constexpr uint16_t kEntries = 8;

struct Descriptor {
  uint64_t address;
  uint32_t length;
  uint16_t flags, next;
};

using Bytes = std::vector<uint8_t>;

inline Bytes frameOf(uint8_t fill, size_t size) { return Bytes(size, fill); }

// One device of a machine, with a page for each part of its two queues, and buffers.
class Driver {
 public:
  Driver(Host& host, Buffer& memory, int iommufd, uint32_t ioas, const std::string& node, uint64_t iova)
      : host_(host), memory_(memory), iova_(iova), fd(host.open(node.c_str(), O_RDWR)) {
    vfio_device_bind_iommufd bind{.argsz = sizeof bind, .iommufd = iommufd};
    vfio_device_attach_iommufd_pt attach{.argsz = sizeof attach, .pt_id = ioas};
    iommu_ioas_map map{.size = sizeof map,
                       .flags = kBoth | kFixed,
                       .ioas_id = ioas,
                       .user_va = memory_.user(),
                       .length = memory_.size(),
                       .iova = iova};
    claim("the device is opened, and its memory mapped",
          call(fd, VFIO_DEVICE_BIND_IOMMUFD, bind) == 0 &&
              call(fd, VFIO_DEVICE_ATTACH_IOMMUFD_PT, attach) == 0 &&
              call(iommufd, IOMMU_IOAS_MAP, map) == 0);
    master(true);
    findStructures();
  }
  template <typename Struct>
  int call(int of, uint32_t request, Struct& argument) {
    return host_.ioctl(of, request, reinterpret_cast<uintptr_t>(&argument));
  }
  void master(bool on) {
    const uint16_t command = on ? 6 : 2;
    (void)host_.pwrite(fd, &command, sizeof command, kConfig + 4);
  }
  template <typename Value>
  Value get(uint64_t at) {
    Value value{};
    (void)host_.pread(fd, &value, sizeof value, at);
    return value;
  }
  template <typename Value>
  void set(uint64_t at, Value value) {
    (void)host_.pwrite(fd, &value, sizeof value, at);
  }
  [[nodiscard]] uint8_t status() { return get<uint8_t>(common + 0x14); }
  void setStatus(uint8_t value) { set<uint8_t>(common + 0x14, value); }
  [[nodiscard]] bool needsReset() { return (status() & 64) != 0; }

  // Goes through the states up to DRIVER_OK. Returns whether the device accepted the features.
  bool start(uint64_t features = kRequired, uint64_t receiveRing = 0) {
    setStatus(0);
    std::memset(memory_.bytes(), 0, 16 * kPage);
    tails_ = {};
    heads_ = {};
    setStatus(1);
    setStatus(3);
    for (uint32_t i = 0; i < 2; ++i) {
      set<uint32_t>(common + 0x08, i);
      set<uint32_t>(common + 0x0c, static_cast<uint32_t>(features >> 32 * i));
    }
    setStatus(11);
    if (status() != 11) return false;
    set<uint16_t>(common + 0x10, 0);
    for (uint16_t queue = 0; queue < 2; ++queue) {
      set<uint16_t>(common + 0x16, queue);
      set<uint16_t>(common + 0x18, kEntries);
      set<uint16_t>(common + 0x1a, queue + 1);
      set<uint64_t>(common + 0x20, at(4 * queue));
      set<uint64_t>(common + 0x28, queue == 0 && receiveRing != 0 ? receiveRing : at(4 * queue + 1));
      // As some drivers do: in halves.
      set<uint32_t>(common + 0x30, static_cast<uint32_t>(at(4 * queue + 2)));
      set<uint32_t>(common + 0x34, 0);
      set<uint16_t>(common + 0x1c, 1);
    }
    setStatus(15);
    host_.settle();
    return true;
  }

  // --- rings
  [[nodiscard]] uint64_t at(uint64_t page) const { return iova_ + page * kPage; }
  [[nodiscard]] char* page(uint64_t number) const { return memory_.bytes() + number * kPage; }
  Descriptor* table(uint16_t queue) { return reinterpret_cast<Descriptor*>(page(4 * queue)); }
  // Makes a chain available.
  void offer(uint16_t queue, uint16_t head, bool kick = true) {
    auto* ring = reinterpret_cast<uint16_t*>(page(4 * queue + 1));
    ring[2 + tails_[queue] % kEntries] = head;
    ring[1] = ++tails_[queue];
    if (kick) notify(queue);
  }
  void notify(uint16_t queue) {
    set<uint16_t>(common + 0x16, queue);
    set<uint16_t>(bell + uint64_t{multiplier} * get<uint16_t>(common + 0x1e), queue);
  }
  struct Used {
    uint32_t head, length;
  };
  // The next used entry, if there is one.
  std::optional<Used> take(uint16_t queue) {
    host_.settle();
    const char* ring = page(4 * queue + 2);
    uint16_t index = 0;
    std::memcpy(&index, ring + 2, sizeof index);
    if (index == heads_[queue]) return std::nullopt;
    Used used{};
    std::memcpy(&used, ring + 4 + heads_[queue]++ % kEntries * sizeof used, sizeof used);
    return used;
  }
  // Descriptor `number` of the queue that receives is a buffer of its own page.
  void offerBuffer(uint16_t number, uint32_t size = kPage) {
    table(0)[number] = {at(16 + number), size, 2, 0};
    offer(0, number);
  }
  [[nodiscard]] Bytes buffer(uint16_t number, size_t from, size_t size) const {
    const char* bytes = page(16 + number);
    return {bytes + from, bytes + from + size};
  }
  // Sends a frame, whose header and bytes are in buffers of their own. Returns whether it was taken.
  bool send(const Bytes& frame) {
    std::memset(page(12), 0, 12);
    std::memcpy(page(13), frame.data(), frame.size());
    table(1)[0] = {at(12), 12, 1, 1};
    table(1)[1] = {at(13), static_cast<uint32_t>(frame.size()), 0, 0};
    offer(1, 0);
    return take(1).has_value();
  }
  // Does a frame arrive, as it was sent, in this buffer?
  bool arrives(uint16_t number, const Bytes& frame) {
    const auto used = take(0);
    uint16_t buffers = 0;
    std::memcpy(&buffers, page(16 + number) + 10, sizeof buffers);
    return used && used->head == number && used->length == 12 + frame.size() && buffers == 1 &&
           buffer(number, 12, frame.size()) == frame;
  }
  int setIrqs(uint32_t index, const std::vector<int>& fds) {
    std::vector<int32_t> request(sizeof(vfio_irq_set) / 4);
    const vfio_irq_set head{.argsz = static_cast<uint32_t>(sizeof head + fds.size() * 4),
                            .flags = VFIO_IRQ_SET_DATA_EVENTFD | VFIO_IRQ_SET_ACTION_TRIGGER,
                            .index = index,
                            .start = 0,
                            .count = static_cast<uint32_t>(fds.size())};
    std::memcpy(request.data(), &head, sizeof head);
    request.insert(request.end(), fds.begin(), fds.end());
    return host_.ioctl(fd, VFIO_DEVICE_SET_IRQS, reinterpret_cast<uintptr_t>(request.data()));
  }

 private:
  void findStructures() {
    uint8_t found = 0;
    for (uint8_t cap = get<uint8_t>(kConfig + 0x34); cap != 0; cap = get<uint8_t>(kConfig + cap + 1)) {
      if (get<uint8_t>(kConfig + cap) != 9) continue;
      const auto type = get<uint8_t>(kConfig + cap + 3);
      const uint64_t place =
          (uint64_t{get<uint8_t>(kConfig + cap + 4)} << 40) + get<uint32_t>(kConfig + cap + 8);
      if (type == 1) common = place;
      if (type == 2) bell = place;
      if (type == 2) multiplier = get<uint32_t>(kConfig + cap + 16);
      if (type == 3) isr = place;
      if (type == 4) specific = place;
      if (type == 5) window = kConfig + cap;
      found |= static_cast<uint8_t>(1 << type);
    }
    claim("its capabilities say where the structures are", 0x3e, found);
  }

  Host& host_;
  Buffer& memory_;
  const uint64_t iova_;
  std::array<uint16_t, 2> tails_{}, heads_{};

 public:
  int fd;
  uint64_t common = 0, bell = 0, isr = 0, specific = 0, window = 0;
  uint32_t multiplier = 0;
};

// A machine with two of these devices.
struct Machine {
  explicit Machine(const std::string& first = "", const std::string& second = "")
      : host(std::make_shared<mm::Memory>(),
             HostOptions{.topology = R"({ "devices": [{ "model": "virtio-net", "bdf": "0000:00:04.0",
                                       "driver": "vfio-pci")" +
                                     first + R"( }, { "model": "virtio-net", "bdf": "0000:00:05.0",
                                       "driver": "vfio-pci")" +
                                     second + " }] }"}),
        iommufd(host.open("/dev/iommu", O_RDWR)) {
    iommu_ioas_alloc alloc{.size = sizeof alloc};
    (void)host.ioctl(iommufd, IOMMU_IOAS_ALLOC, reinterpret_cast<uintptr_t>(&alloc));
    ioas = alloc.out_ioas_id;
  }
  Driver driver(unsigned number) {
    return {host,
            memories[number],
            iommufd,
            ioas,
            "/dev/vfio/devices/vfio" + std::to_string(number),
            0x100000u * (number + 1)};
  }
  std::array<Buffer, 2> memories{Buffer(32 * kPage), Buffer(32 * kPage)};  // they outlive the host
  Host host;
  int iommufd;
  uint32_t ioas = 0;
};

inline uint64_t counted(int fd) {
  uint64_t count = 0;
  return ::read(fd, &count, sizeof count) == sizeof count ? count : 0;
}

}  // namespace vfio::soft::check
