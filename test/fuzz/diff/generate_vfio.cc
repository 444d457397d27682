// Sequences on VFIO's device files: QEMU's edu alone in its group, and two of them in one.
//
// Some uses of edu are left out (docs/fuzzing.md): QEMU ends the guest if a transfer leaves the device's
// buffer, and a factorial takes an unknown time.
#include "generate_vfio.h"

#include <algorithm>
#include <functional>

namespace vfio::fuzz {
namespace {

constexpr uint64_t kConfig = uint64_t{7} << 40;
constexpr uint64_t kScratch = Arena::kArgument + 0xc00;
constexpr uint64_t kBuffer = 0x40000;  // edu's own buffer
constexpr uint64_t kBufferSize = 4096;
constexpr unsigned kMostTransfers = 4;  // each takes 100 ms in QEMU

}  // namespace

VfioGenerator::Device& VfioGenerator::device() {
  if (devices_.empty()) openDevice();
  return random().of(devices_);
}

void VfioGenerator::openDevice() {
  const unsigned node = static_cast<unsigned>(random().percent(60) ? 0 : random().below(3));
  const unsigned flags = random().percent(95) ? 2 : static_cast<unsigned>(random().below(3));
  devices_.push_back(
      {b_.open("/dev/vfio/devices/vfio" + std::to_string(node), flags), b_.fresh('i'), false, flags == 2});
  if (random().percent(92)) bind(devices_.back());
  if (random().percent(75)) attach(devices_.back());
  if (random().percent(70)) writeRegister(devices_.back(), kConfig + 4, 2, number(6));
}

void VfioGenerator::bind(Device& device) {
  const Value iommufd = random().percent(97) ? variable(iommufd_.context().fd) : number(0xffffffff);
  b_.ioctl(device.fd, 0x3b76, {u32(0x10), u32(0), u32(iommufd), u32(0)}, {{device.id, 12, 4}});
  device.bound = true;
}

void VfioGenerator::attach(Device& device) {
  const std::string table = b_.fresh('i');
  Context& context = iommufd_.context();
  b_.ioctl(device.fd, 0x3b77, {u32(0xc), u32(0), u32(iommufd_.attachTarget(context))}, {{table, 8, 4}});
  context.tables.push_back({table, false, {}});
}

void VfioGenerator::detach(Device& device) { b_.ioctl(device.fd, 0x3b78, {u32(8), u32(0)}); }

void VfioGenerator::info(Device& device) {
  const auto size = [this](uint64_t right) {
    return u32(random().percent(85) ? right : random().below(2 * right));
  };
  switch (random().below(8)) {
    case 0:
      b_.ioctl(device.fd, 0x3b6b, {size(24), u32(0), u32(0), u32(0), u32(0), u32(0)});
      break;
    case 1:
    case 2:
      b_.ioctl(device.fd, 0x3b6c,
               {size(32), u32(0), u32(random().percent(90) ? random().below(10) : b_.odd()), u32(0), u64(0),
                u64(0)});
      break;
    case 3:
    case 4:
      b_.ioctl(device.fd, 0x3b6d,
               {size(16), u32(0), u32(random().percent(90) ? random().below(6) : b_.odd()), u32(0)});
      break;
    case 5: {
      const uint64_t room = random().percent(60) ? 12 + 8 * random().below(6) : random().below(64);
      b_.ioctl(device.fd, 0x3b70, {u32(room), u32(0), u32(0), u64(0), u64(0), u64(0), u64(0)});
      break;
    }
    case 6: {  // GET_HW_INFO of this device
      Context& context = iommufd_.context();
      b_.ioctl(context.fd, 0x3b8a,
               {u32(0x28), u32(0), u32(variable(device.id)), u32(random().below(40)),
                u64(memory(Builder::kData)), u32(0), u8(0), u8(0), u8(0), u8(0), u64(0)});
      break;
    }
    default: {
      Context& context = iommufd_.context();
      const std::string table = b_.fresh('i');
      const uint64_t flags = random().percent(85) ? random().below(3) : random().below(16);
      const Value parent = iommufd_.attachTarget(context);
      b_.ioctl(context.fd, 0x3b89,
               {u32(0x30), u32(flags), u32(variable(device.id)), u32(parent), u32(0), u32(0), u32(0), u32(0),
                u64(0), u32(0), u32(0)},
               {{table, 16, 4}});
      context.tables.push_back({table, false, {}});
    }
  }
}

void VfioGenerator::interrupts(Device& device) {
  const uint64_t index = random().percent(80) ? random().below(2) : random().below(6);
  uint64_t action = random().percent(60) ? 32 : uint64_t{8} << random().below(3);
  uint64_t data = uint64_t{1} << (random().percent(60) ? 2 : random().below(3));
  if (random().percent(4)) action |= 8;
  if (random().percent(4)) data |= 1;
  const uint64_t start = random().percent(92) ? 0 : random().below(3);
  const uint64_t count = random().percent(75) ? 1 : random().below(4);
  std::vector<Token> bytes = {u32(0), u32(action | data), u32(index), u32(start), u32(count)};
  uint64_t size = 20;
  for (uint64_t i = 0; i < count && (data & 6) != 0; ++i) {
    if ((data & 4) != 0) {
      // shared-eventfd: the eventfds that the kernel waits on are never those that it signals.
      auto& pool = action == 32 ? events_ : inputs_;
      const bool none = pool.empty() || random().percent(15);
      bytes.push_back(u32(none ? number(0xffffffff) : variable(random().of(pool))));
      size += 4;
    } else {
      bytes.push_back(u8(random().below(2)));
      size += 1;
    }
  }
  // early-intx: QEMU's IO-APIC loses a level that was raised before the kernel configured the pin.
  if (index == 0 && action == 32) {
    writeRegister(device, kConfig + 4, 2, number(6));
    writeRegister(device, 0x64, 4, number(0xffffffff));
  }
  bytes[0] = u32(random().percent(95) ? size : random().below(48));
  b_.ioctl(device.fd, 0x3b6e, bytes);
}

void VfioGenerator::writeRegister(Device& device, uint64_t offset, unsigned width, Value value) {
  b_.add({.op = Op::pwrite,
          .operands = {variable(device.fd), memory(kScratch), number(width), number(offset)},
          .bytes = {{width, std::move(value)}}});
}

void VfioGenerator::raise(Device& device) {
  writeRegister(device, random().percent(60) ? 0x60 : 0x64, 4,
                number(random().percent(80) ? 1 : random().below(256)));
  if (!events_.empty()) b_.simple(Op::count, random().of(events_));
}

void VfioGenerator::registers(Device& device) {
  static constexpr uint64_t offsets[] = {0x00, 0x04, 0x04, 0x20, 0x24, 0x80, 0x88, 0x90, 0xa0, 0x100};
  uint64_t offset = random().of(offsets);
  static constexpr uint64_t sizes[] = {4, 4, 4, 8, 1, 2, 3, 16};
  uint64_t size = random().of(sizes);
  if (offset < 0x20) size = std::min<uint64_t>(size, 8 - offset);  // edu-factorial: it can't be reset to 0
  if (random().percent(10)) offset = (uint64_t{1} << 20) - random().below(8);
  if (random().percent(5)) offset = ((1 + random().below(9)) << 40) + random().below(16);
  if (random().percent(8) && device.writable) {  // a factorial
    writeRegister(device, 8, 4, number(random().below(64)));
    b_.transfer(Op::pread, device.fd, memory(kScratch), 4, 8);
    return;
  }
  if (random().percent(35) && offset == 4) {
    writeRegister(device, 4, 4, number(random().next() & 0xffffffff));
    return;
  }
  const Value at = random().percent(92) ? memory(kScratch) : b_.userMemory(1).address;
  b_.transfer(Op::pread, device.fd, at, size, offset);
}

void VfioGenerator::configuration(Device& device) {
  static constexpr uint64_t offsets[] = {0,    4,    4,    4,    6,    8,    0x0c, 0x10,
                                         0x14, 0x2c, 0x30, 0x34, 0x3c, 0x40, 0x42, 0x44};
  uint64_t offset = random().of(offsets) + (random().percent(15) ? random().below(4) : 0);
  if (random().percent(10)) offset = random().below(300);
  static constexpr unsigned widths[] = {1, 2, 2, 4, 4, 4, 8};
  const unsigned width = random().of(widths);
  if (random().percent(60)) {
    const uint64_t size = random().percent(60) ? width : random().below(280);
    b_.transfer(Op::pread, device.fd, memory(kScratch), size, kConfig + offset);
  } else {
    const uint64_t value = offset == 4 ? random().below(8) | (random().below(2) << 10) : random().next();
    writeRegister(device, kConfig + offset, width,
                  number(width == 8 ? value : value & ((uint64_t{1} << 8 * width) - 1)));
  }
}

void VfioGenerator::dma(Device& device) {
  if (!device.writable || transfers_++ >= kMostTransfers) return registers(device);
  Context& context = iommufd_.context();
  Value iova = number(random().below(48) * Arena::kPage);
  uint64_t size = 1 + random().below(random().percent(50) ? 64 : kBufferSize - 1);
  if (!context.areas.empty() && random().percent(92)) {
    const Area& area = random().of(context.areas);
    iova = area.iova;
    const uint64_t length = std::clamp<uint64_t>(area.length, 1, 64 * Arena::kPage);
    if (random().percent(70)) iova.number += random().below(length);
  }
  if (random().percent(4)) iova.number += uint64_t{1} << (28 + random().below(30));
  const uint64_t inside = kBuffer + random().below(kBufferSize - size);
  const bool toMemory = random().percent(55);
  const Value buffer = number(inside);
  const uint64_t command = 1 | (toMemory ? 2 : 0) | (random().percent(25) ? 4 : 0);
  b_.add({.op = Op::dma,
          .operands = {variable(device.fd), toMemory ? buffer : iova, toMemory ? iova : buffer, number(size),
                       number(command)}});
  b_.transfer(Op::pread, device.fd, memory(kScratch), 4, 0x24);
  if (!events_.empty() && random().percent(50)) b_.simple(Op::count, random().of(events_));
}

void VfioGenerator::reset(Device& device) {
  if (random().percent(75)) {
    b_.ioctlValue(device.fd, 0x3b6f, 0);
  } else {
    b_.ioctl(device.fd, 0x3b71, {u32(12), u32(0), u32(random().percent(90) ? 0 : 1)});
  }
}

void VfioGenerator::feature(Device& device) {
  static constexpr uint64_t operations[] = {
      1 << 16, 1 << 17, 1 << 18, (1 << 18) | (1 << 16), (1 << 18) | (1 << 17), 0};
  const uint64_t flags = random().below(16) | random().of(operations);
  b_.ioctl(device.fd, 0x3b75,
           {u32(random().percent(80) ? 24 : random().below(32)), u32(flags), u64(0), u64(0)});
}

void VfioGenerator::eventfd(Device&) {
  if (events_.size() < 3) {
    for (auto* pool : {&events_, &inputs_}) {
      pool->push_back(b_.fresh('f'));
      b_.add({.op = Op::eventfd, .result = pool->back()});
    }
  } else if (random().percent(60)) {
    b_.simple(Op::count, random().of(events_));
  } else {
    b_.simple(Op::signal, random().of(random().percent(75) ? inputs_ : events_));
  }
}

void VfioGenerator::file(Device& device) {
  switch (random().below(8)) {
    case 0:
    case 1: {
      const std::string at = b_.fresh('a');
      const uint64_t size = Arena::kPage * (1 + random().below(3));
      const uint64_t offset = (random().percent(75) ? 0 : random().below(10)) << 40;
      b_.add({.op = Op::mmap,
              .result = at,
              .operands = {variable(device.fd), number(size), number(random().below(4)),
                           number(random().percent(85) ? 1 : random().below(4)), number(offset)}});
      if (random().percent(80)) b_.add({.op = Op::munmap, .operands = {variable(at), number(size)}});
      break;
    }
    case 2: {
      const std::string copy = b_.fresh('f');
      b_.add({.op = Op::dup, .result = copy, .operands = {variable(device.fd)}});
      if (random().percent(50)) b_.simple(Op::close, device.fd);
      device.fd = copy;
      break;
    }
    case 3:
      b_.simple(Op::close, device.fd);
      break;
    case 4:
      b_.transfer(random().percent(50) ? Op::read : Op::write, device.fd, memory(kScratch), 0);
      break;
    case 5:
      openDevice();
      break;
    case 6: {
      b_.ioctl(
          device.fd, 0x3b74,
          {u32(32), u32(uint64_t{1} << random().below(4)),
           u64(random().percent(85) ? 4 : random().below(1 << 20)), u64(random().below(1 << 16)),
           u32(inputs_.empty() || random().percent(25) ? number(0xffffffff) : variable(random().of(inputs_))),
           u32(0)});
      break;
    }
    default:
      b_.ioctlValue(device.fd, 0x3b60 + random().below(0x20), 0);
  }
}

void VfioGenerator::generate() {
  Context& context = iommufd_.openContext();
  if (random().percent(85)) eventfd(device());
  iommufd_.map(context);
  struct Choice {
    unsigned weight;
    void (VfioGenerator::*make)(Device&);
  };
  static constexpr Choice choices[] = {
      {4, &VfioGenerator::bind},       {10, &VfioGenerator::attach},        {4, &VfioGenerator::detach},
      {10, &VfioGenerator::info},      {16, &VfioGenerator::interrupts},    {8, &VfioGenerator::raise},
      {12, &VfioGenerator::registers}, {16, &VfioGenerator::configuration}, {16, &VfioGenerator::dma},
      {1, &VfioGenerator::reset},      {3, &VfioGenerator::feature},        {5, &VfioGenerator::eventfd},
      {6, &VfioGenerator::file},
  };
  unsigned total = 0;
  for (const Choice& choice : choices) total += choice.weight;
  const uint64_t length = 8 + random().below(32);
  for (uint64_t i = 0; i < length; ++i) {
    if (random().percent(35)) {
      if (random().percent(50)) {
        iommufd_.map(iommufd_.context());
      } else {
        iommufd_.step();
      }
      continue;
    }
    auto left = random().below(total);
    for (const Choice& choice : choices) {
      if (left < choice.weight) {
        (this->*choice.make)(device());
        break;
      }
      left -= choice.weight;
    }
  }
}

}  // namespace vfio::fuzz
