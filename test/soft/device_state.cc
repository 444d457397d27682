// The state of device models: it is saved, and loaded into another device of the same model. A state that is
// damaged or belongs to another model is refused.
#include <algorithm>
#include <array>
#include <cstring>
#include <memory>

#include "../../native/soft/devices/bridge.h"
#include "../../native/soft/devices/ivshmem.h"
#include "../../native/soft/devices/network.h"
#include "../../native/soft/devices/nvme/nvme.h"
#include "../../native/soft/devices/virtio/net.h"
#include "machine_harness.h"

using namespace vfio::soft;
using check::claim;

namespace {

using Bytes = std::vector<uint8_t>;

Bytes save(check::EduMachine& machine) {
  Bytes state;
  machine.inside([&] { state = machine.edu.saveModel(); });
  return state;
}

bool load(check::EduMachine& machine, const Bytes& state) {
  bool loaded = false;
  machine.inside([&] { loaded = machine.edu.loadModel(state); });
  return loaded;
}

uint64_t get(check::EduMachine& machine, uint64_t offset, unsigned width = 4) {
  uint64_t value = 0;
  machine.inside([&] { value = machine.edu.barRead(0, offset, width); });
  return value;
}

void set(check::EduMachine& machine, uint64_t offset, uint64_t value, unsigned width = 4) {
  machine.inside([&] { machine.edu.barWrite(0, offset, width, value); });
}

// An edu whose DMA reaches a buffer at IOVA 0x10000.
struct Edu {
  explicit Edu(char content, size_t pages = 1) : buffer(pages * check::kPage) {
    std::memset(buffer.bytes(), content, buffer.size());
    (void)machine.fd.mapAt(ioas, 0x10000, buffer.user(), buffer.size());
    (void)machine.attach(ioas);
  }
  check::EduMachine machine;
  check::Buffer buffer;
  uint32_t ioas = machine.fd.ioas();
};

// The values of its registers.
std::array<uint64_t, 7> registersOf(check::EduMachine& machine) {
  return {get(machine, 0x04),    get(machine, 0x08),    get(machine, 0x24),   get(machine, 0x20),
          get(machine, 0x80, 8), get(machine, 0x88, 8), get(machine, 0x90, 8)};
}

void edu() {
  Edu one('a');
  Edu other('b');
  set(one.machine, 0x04, 0x12345678);
  set(one.machine, 0x20, 0x80);
  set(one.machine, 0x08, 6);
  claim("its buffer is filled", "", one.machine.fetch(0x10000, 100));
  claim("its line is low at the other one", !other.machine.edu.lineAsserted());
  const Bytes state = save(one.machine);
  const auto registers = registersOf(one.machine);
  claim("it has the factorial, and its interrupt", registers[1] == 720 && registers[2] == 1);

  claim("the state is loaded into another one", load(other.machine, state));
  claim("... whose registers are as they were here", registersOf(other.machine) == registers);
  claim("... and whose line is high", other.machine.edu.lineAsserted());
  claim("... with the buffer", "", other.machine.store(0x10000, 100));
  claim("... which it can write to memory", std::string(100, 'a'), std::string(other.buffer.bytes(), 100));
  claim("... and no more of it", other.buffer.bytes()[100] == 'b');
  set(other.machine, 0x64, 1);
  claim("its interrupt can be acknowledged", !other.machine.edu.lineAsserted());

  set(one.machine, 0x04, 0);
  set(one.machine, 0x08, 3);
  one.machine.host.settle();
  claim("what happens later is undone by the state",
        load(one.machine, state) && registersOf(one.machine) == registers);
}

// The state is saved in the same call that starts the work, so that no part of the work is done yet.
void underWay() {
  Edu one('a');
  Edu other('b');
  Bytes computing, moving;
  one.machine.inside([&] {
    one.machine.edu.barWrite(0, 0x08, 4, 5);
    computing = one.machine.edu.saveModel();
  });
  one.machine.host.settle();
  one.machine.inside([&] {
    one.machine.edu.barWrite(0, 0x80, 8, 0x10000);
    one.machine.edu.barWrite(0, 0x88, 8, check::EduMachine::kBuffer);
    one.machine.edu.barWrite(0, 0x90, 8, 8);
    one.machine.edu.barWrite(0, 0x98, 8, 1);
    moving = one.machine.edu.saveModel();
  });
  claim("a factorial that was under way is loaded", load(other.machine, computing));
  other.machine.host.settle();
  claim("... and computed", 120, static_cast<int64_t>(get(other.machine, 0x08)));
  claim("... and done", 0, static_cast<int64_t>(get(other.machine, 0x20)));
  claim("a transfer that was under way is loaded", load(other.machine, moving));
  claim("... and runs", "", other.machine.finish());
  claim("... until it is done", !other.machine.busy());
  claim("... from the memory that this device reaches",
        other.machine.store(0x10000 + 64, 8).empty() && other.buffer.bytes()[64] == 'b');
}

void refused() {
  Edu one('a');
  set(one.machine, 0x04, 0x12345678);
  const Bytes state = save(one.machine);
  set(one.machine, 0x04, 0x11111111);
  const auto registers = registersOf(one.machine);
  size_t accepted = 0;
  for (size_t at = 0; at < state.size(); at += 1 + at / 64) {
    Bytes damaged = state;
    damaged[at] ^= 0x40;
    accepted += load(one.machine, damaged) ? 1 : 0;
  }
  claim("a state with one bit changed is refused", 0, static_cast<int64_t>(accepted));
  accepted = 0;
  for (size_t size = 0; size < state.size(); size += 1 + size / 64) {
    accepted += load(one.machine, Bytes(state.begin(), state.begin() + static_cast<long>(size))) ? 1 : 0;
  }
  claim("a state that was cut is refused", 0, static_cast<int64_t>(accepted));
  Bytes longer = state;
  longer.push_back(0);
  claim("a state with more behind it is refused", !load(one.machine, longer));
  claim("... and none of them changed anything", registersOf(one.machine) == registers);
  claim("the state itself is loaded", load(one.machine, state) && get(one.machine, 0x04) == 0xedcba987);
}

struct MemoryDevice {
  MemoryDevice(check::EduMachine& itsMachine, uint8_t devfn, std::unique_ptr<devices::Device> model,
               unsigned itsBar)
      : machine(itsMachine),
        bar(itsBar),
        function(std::make_unique<pci::Function>(
            machine.host,
            pci::Function::Place{
                &machine.bus, devfn, 0x600, 0, {0xd0000000, 0xd0100000, 0xd0200000}, pci::commandMemory},
            std::move(model), machine.unit, machine.group)) {}
  uint8_t* bytes() { return function->memory(bar); }
  check::EduMachine& machine;
  const unsigned bar;
  std::unique_ptr<pci::Function> function;
};

devices::Description memoryOnly(uint16_t device) {
  return {.vendor = 0x1234,
          .device = device,
          .classCode = 0x058000,
          .bars = {{{.kind = devices::BarKind::memory32, .size = 64, .backed = true}}}};
}

void memory() {
  check::EduMachine machine;
  MemoryDevice one(machine, 0x88, devices::makeSharedMemory(), 2);
  MemoryDevice other(machine, 0x90, devices::makeSharedMemory(), 2);
  std::memcpy(one.bytes() + 5000, "shared", 6);
  std::memset(one.bytes() + (1 << 20) - 4096, 7, 4096);
  const Bytes state = one.function->saveModel();
  claim("pages of zeroes take no room", state.size() < 3 * 4096);
  std::memset(other.bytes(), 0xff, 1 << 20);
  Bytes damaged = state;
  damaged[damaged.size() / 2] ^= 1;
  claim("damaged memory is refused", !other.function->loadModel(damaged));
  claim("... and nothing has changed", other.bytes()[5000] == 0xff && other.bytes()[0] == 0xff);
  claim("memory is loaded", other.function->loadModel(state));
  claim("... all of it", std::memcmp(one.bytes(), other.bytes(), 1 << 20) == 0);
  claim("another model's state is refused", !machine.edu.loadModel(state));
  claim("... the other way round too", !one.function->loadModel(machine.edu.saveModel()));

  MemoryDevice small(machine, 0x98, devices::makePassive(memoryOnly(1)), 0);
  MemoryDevice twin(machine, 0xa0, devices::makePassive(memoryOnly(1)), 0);
  MemoryDevice stranger(machine, 0xa8, devices::makePassive(memoryOnly(2)), 0);
  std::memcpy(small.bytes() + 60, "end", 4);
  const Bytes little = small.function->saveModel();
  claim("a BAR smaller than a page is loaded",
        twin.function->loadModel(little) && std::memcmp(twin.bytes() + 60, "end", 4) == 0);
  claim("a device with other ids refuses it", !stranger.function->loadModel(little));

  devices::Description bare = memoryOnly(3);
  bare.bars[0].backed = false;
  MemoryDevice none(machine, 0xb0, devices::makePassive(bare), 0);
  claim("a device without state has an empty one", none.function->saveModel().empty());
  claim("... and takes no other", none.function->loadModel({}) && !none.function->loadModel(little));
}

// An NVMe controller whose queues are at IOVA 0x10000, page after page: admin, I/O, and a page of data.
struct Nvme {
  Nvme(Edu& edu, uint8_t devfn, devices::NvmeOptions options)
      : machine(edu.machine),
        memory(edu.buffer.bytes()),
        device(machine, devfn, devices::makeNvme(options), 0) {
    device.function->configWrite(pci::regCommand, 2, pci::commandMemory | pci::commandMaster);
  }
  void set(uint64_t offset, uint64_t value, unsigned width = 4) {
    machine.inside([&] { device.function->barWrite(0, offset, width, value); });
  }
  void enable() {
    set(0x24, 7u << 16 | 7);
    set(0x28, 0x10000, 8);
    set(0x30, 0x11000, 8);
    set(0x14, 0x00460001);
    machine.host.settle();
  }
  void put(uint64_t page, unsigned slot, uint32_t opcode, uint64_t prp, std::array<uint32_t, 3> words) {
    std::array<uint32_t, 16> command{opcode, 1};
    std::memcpy(&command[6], &prp, sizeof prp);
    std::ranges::copy(words, command.begin() + 10);
    std::memcpy(memory + page * check::kPage + slot * sizeof command, command.data(), sizeof command);
  }
  Bytes save() {
    Bytes state;
    machine.inside([&] { state = device.function->saveModel(); });
    return state;
  }
  bool load(const Bytes& state) {
    bool loaded = false;
    machine.inside([&] { loaded = device.function->loadModel(state); });
    return loaded;
  }
  check::EduMachine& machine;
  char* memory;
  MemoryDevice device;
};

void nvme() {
  Edu edu('a', 5);
  Nvme one(edu, 0x88, {.size = 1 << 20});
  Nvme other(edu, 0x90, {.size = 1 << 20});
  Nvme larger(edu, 0x98, {.size = 2 << 20});
  std::memset(edu.buffer.bytes(), 0, 4 * check::kPage);
  one.enable();
  one.put(0, 0, 5, 0x13000, {7u << 16 | 1, 1});
  one.put(0, 1, 1, 0x12000, {7u << 16 | 1, 1u << 16 | 1});
  one.put(2, 0, 1, 0x14000, {9, 0, 0});
  one.set(0x1000, 2);
  one.machine.host.settle();
  one.set(0x1008, 1);
  one.machine.host.settle();
  claim("a block is written", 1 << 16,
        *reinterpret_cast<int32_t*>(edu.buffer.bytes() + 3 * check::kPage + 12));

  // A read of that block, which the device has not begun yet.
  one.put(2, 1, 2, 0x14000, {9, 0, 0});
  Bytes state;
  one.machine.inside([&] {
    one.device.function->barWrite(0, 0x1008, 4, 2);
    state = one.device.function->saveModel();
    one.device.function->reset();
  });
  claim("the state of a namespace has what was written, and no more", state.size() < 16 << 10);
  std::memset(edu.buffer.bytes() + 4 * check::kPage, 0, check::kPage);
  Bytes damaged = state;
  damaged[damaged.size() / 2] ^= 1;
  claim("a damaged state is refused", !other.load(damaged));
  claim("... and so is one of a namespace of another size", !larger.load(state));
  claim("the state is loaded", other.load(state));
  other.machine.host.settle();
  claim("... and the command that waited is done, with the data",
        edu.buffer.bytes()[4 * check::kPage] == 'a' && edu.buffer.bytes()[4 * check::kPage + 511] == 'a');
  claim("... and no more than that", edu.buffer.bytes()[4 * check::kPage + 512] == 0);
  uint64_t status = 0;
  other.machine.inside([&] { status = other.device.function->barRead(0, 0x1c, 4); });
  claim("... by a controller that is ready", 1, static_cast<int64_t>(status));
}

// A virtio network device with queues of 4 entries: that to receive in the page at IOVA 0x10000, that to send
// in the next one, and the buffers in the third.
struct VirtioNet {
  VirtioNet(Edu& edu, uint8_t devfn) : machine(edu.machine), memory(edu.buffer.bytes()) {
    auto model = devices::makeVirtioNet({});
    auto* station = dynamic_cast<devices::Station*>(model.get());
    device = std::make_unique<MemoryDevice>(machine, devfn, std::move(model), 0);
    station->connect(network, "0000:00:11.0");
    device->function->configWrite(pci::regCommand, 2, pci::commandMemory | pci::commandMaster);
  }
  void set(uint64_t offset, uint64_t value, unsigned width) {
    machine.inside([&] { device->function->barWrite(0, offset, width, value); });
  }
  void start() {
    for (const uint8_t status : {1, 3}) set(0x14, status, 1);
    set(0x08, 1, 4);
    set(0x0c, 3, 4);
    set(0x14, 11, 1);
    for (const uint16_t queue : {0, 1}) {
      const uint64_t page = 0x10000 + queue * check::kPage;
      set(0x16, queue, 2);
      set(0x18, 4, 2);
      set(0x20, page, 8);
      set(0x28, page + 0x200, 8);
      set(0x30, page + 0x400, 8);
      set(0x1c, 1, 2);
    }
    set(0x14, 15, 1);
    machine.host.settle();
  }
  // Makes a buffer of 128 bytes available, at `offset` of the third page.
  void offer(unsigned queue, uint16_t slot, uint64_t offset) {
    struct {
      uint64_t address;
      uint32_t length;
      uint16_t flags, next;
    } const descriptor{0x10000 + 2 * check::kPage + offset, 128, static_cast<uint16_t>(queue == 0 ? 2 : 0),
                       0};
    char* page = memory + queue * check::kPage;
    std::memcpy(page + slot * sizeof descriptor, &descriptor, sizeof descriptor);
    const std::array<uint16_t, 2> head{0, static_cast<uint16_t>(slot + 1)};
    std::memcpy(page + 0x200, head.data(), sizeof head);
    std::memcpy(page + 0x204 + 2 * size_t{slot}, &slot, sizeof slot);
  }
  [[nodiscard]] int used(unsigned queue) const { return memory[queue * check::kPage + 0x402]; }
  check::EduMachine& machine;
  char* memory;
  devices::Network network;
  std::unique_ptr<MemoryDevice> device;
};

void virtio() {
  Edu edu('a', 3);
  VirtioNet one(edu, 0x88), other(edu, 0x90);
  Nvme stranger(edu, 0x98, {.size = 1 << 20});
  std::memset(edu.buffer.bytes(), 0, 2 * check::kPage);
  one.start();
  one.offer(1, 0, 0);
  one.set(0x3004, 1, 4);
  one.machine.host.settle();
  claim("a frame is sent", 1, one.used(1));
  claim("... and waits for a buffer", 0, one.used(0));

  // A second frame, which the device has not begun yet.
  one.offer(1, 1, 0);
  Bytes state;
  one.machine.inside([&] {
    one.device->function->barWrite(0, 0x3004, 4, 1);
    state = one.device->function->saveModel();
    one.device->function->reset();
  });
  const auto loaded = [&](pci::Function& function, const Bytes& bytes) {
    bool result = false;
    edu.machine.inside([&] { result = function.loadModel(bytes); });
    return result;
  };
  Bytes damaged = state;
  damaged[damaged.size() / 2] ^= 1;
  claim("a damaged state is refused", !loaded(*other.device->function, damaged));
  claim("... and another model's", !loaded(*other.device->function, stranger.save()));
  claim("the state is loaded", loaded(*other.device->function, state));
  edu.machine.host.settle();
  claim("... and the frame that waited is sent", 2, other.used(1));
  other.offer(0, 0, 1024);
  other.offer(0, 1, 2048);
  other.set(0x3000, 0, 4);
  edu.machine.host.settle();
  claim("... and both are received", 2, other.used(0));
  const char* received = edu.buffer.bytes() + 2 * check::kPage + 2048;
  claim("... with their bytes", received[11] == 0 && received[12] == 'a' && received[127] == 'a');
}

}  // namespace

int main() {
  edu();
  underWay();
  refused();
  memory();
  nvme();
  virtio();
  std::printf("%s\n", check::failures == 0 ? "all held" : "FAILED");
  return check::failures == 0 ? 0 : 1;
}
