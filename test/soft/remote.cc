// Device models that live elsewhere: the host releases its lock while such a model answers, so that the model
// can make other calls of the host. If a call waits for ever, the program ends after a minute.
#include <sys/eventfd.h>
#include <unistd.h>

#include "remote_harness.h"

using namespace vfio::soft;
using namespace vfio::soft::check;
using namespace vfio::uapi;

namespace {

void otherCallsGoOn() {
  Machine machine;
  const int fd = machine.open(0);
  Gate reading;
  machine.chips[0].onRead = [&] { reading.pass(); };
  int64_t got = 0;
  {
    const Thread reader([&] { got = machine.read(fd); });
    reading.awaitArrival();
    claim("while a model reads, the host answers", machine.answers());
    claim("... and the device's config space does", 0x34, machine.read(fd, kConfig));
    claim("... and its other registers take writes", 1, machine.host->pwrite(fd, "x", 1, 8));
    reading.open();
  }
  claim("the read has its value", 42, got);

  const int64_t bar = machine.host->mmap(nullptr, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
  auto* registers = reinterpret_cast<uint8_t*>(bar);
  Gate loading, storing;
  machine.chips[0].onRead = [&] { loading.pass(); };
  machine.chips[0].onWrite = [&](uint64_t) { storing.pass(); };
  uint64_t value = 0;
  int stored = -1;
  {
    const Thread loader([&] { (void)machine.host->registerRead(registers + 4, 4, value); });
    const Thread storer([&] { stored = machine.host->registerWrite(registers + 8, 4, 7); });
    loading.awaitArrival();
    storing.awaitArrival();
    claim("while a model takes a load and a store, the host answers", machine.answers());
    claim("the mapping can be taken away", 0, machine.host->munmap(registers, 4096));
    loading.open();
    storing.open();
  }
  claim("the load has its value", 44, static_cast<int64_t>(value));
  claim("the store is done", 0, stored);
  machine.chips[0].onRead = [] {};
  machine.chips[0].onWrite = [](uint64_t) {};
}

void callsBack() {
  Machine machine;
  const int fd = machine.open(0);
  const int event = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
  struct {
    vfio_irq_set head;
    int32_t fd;
  } trigger{
      {sizeof trigger, VFIO_IRQ_SET_DATA_EVENTFD | VFIO_IRQ_SET_ACTION_TRIGGER, VFIO_PCI_MSI_IRQ_INDEX, 0, 1},
      event};
  claim("its interrupt leads to an eventfd", 0, machine.call(fd, VFIO_DEVICE_SET_IRQS, trigger));
  devices::Port& port = *machine.chips[0].port;
  std::atomic<bool> answered = false;
  machine.chips[0].onRead = [&] {
    const Thread own([&] {
      answered = machine.answers() && machine.read(fd, kConfig) == 0x34;
      if (port.dmaWrite(kIova, "remote", 6, std::nullopt)) port.sendMessage(0);
    });
  };
  claim("a model whose own thread calls the host answers", 42, machine.read(fd));
  uint64_t count = 0;
  claim("... and got its answers", answered);
  claim("... its DMA has arrived", "remote", std::string(machine.buffer.bytes(), 6));
  claim("... its message too", ::read(event, &count, sizeof count) == sizeof count && count == 1);
  machine.chips[0].onRead = [&] { answered = machine.answers(); };
  answered = false;
  claim("it can call the host from the thread that asks", machine.read(fd) == 42 && answered);
  machine.chips[0].onRead = [] {};

  std::array<char, 6> copy{};
  claim("DMA that nobody asked for", port.dmaRead(kIova, copy.data(), copy.size(), std::nullopt));
  claim("... has the bytes", "remote", std::string(copy.data(), copy.size()));
  claim("DMA to where nothing is fails", !port.dmaRead(0x900000, copy.data(), 6, std::nullopt));
  claim("... and is in the fault log", 1, static_cast<int64_t>(machine.host->takeFaults().size()));
  std::atomic<int> outcome = -1;
  port.startRead(kIova, copy.data(), copy.size(), {},
                 [&](bool moved) { outcome = moved && machine.answers() ? 1 : 0; });
  machine.host->settle();
  claim("the outcome of a transfer comes without the lock", 1, outcome);

  Gate working;
  std::atomic<bool> worked = false;
  port.post(std::chrono::nanoseconds::zero(), [&] {
    working.pass();
    worked = true;
  });
  working.awaitArrival();
  claim("while posted work runs, the host answers", machine.answers());
  const Thread opener([&] { working.open(); });
  machine.host->settle();
  claim("settle() waits for it", worked);
  ::close(event);
}

void closedDuringACall() {
  Machine machine;
  const int fd = machine.open(0);
  Gate reading;
  machine.chips[0].onRead = [&] { reading.pass(); };
  const unsigned before = machine.chips[0].resets;
  int64_t got = 0;
  {
    const Thread reader([&] { got = machine.read(fd); });
    reading.awaitArrival();
    claim("the device is closed while it is read", 0, machine.host->close(fd));
    claim("... its descriptor is gone", -EBADF, machine.read(fd));
    claim("... the device stays in use, and is not reset", machine.chips[0].resets == before);
    claim("... so that it can't be unplugged", -EBUSY, machine.host->removeDevice(kAddresses[0]));
    reading.open();
  }
  claim("the read has its value", 42, got);
  claim("... and after it the device was reset", machine.chips[0].resets == before + 1);
  claim("... and can be unplugged", 0, machine.host->removeDevice(kAddresses[0]));
  claim("... which destroys its model", machine.chips[0].destroyed);
}

void opensDuringAReset() {
  Machine machine;
  const int first = machine.open(0);
  Gate resetting;
  devices::Port& port = *machine.chips[0].port;
  std::atomic<bool> silent = false;
  machine.chips[0].onReset = [&] {
    std::array<char, 6> copy{};
    port.setLine(true);
    silent = !port.dmaRead(kIova, copy.data(), copy.size(), std::nullopt) && !port.messagesEnabled();
    resetting.pass();
  };
  int second = -1;
  {
    const Thread closer([&] { (void)machine.host->close(first); });
    resetting.awaitArrival();
    claim("in reset a model reaches nothing", silent && machine.host->takeFaults().empty());
    second = machine.openNode(0);
    claim("a device whose model is in reset can't be bound", -EBUSY, machine.bind(second));
    resetting.open();
  }
  machine.chips[0].onReset = [] {};
  claim("... but then it can", 0, machine.bind(second));
  uint16_t status = 0;
  (void)machine.host->pread(second, &status, sizeof status, kConfig + pci::regStatus);
  claim("... and its line is low", 0, status & pci::statusInterrupt);
}

void resetDuringACall() {
  Machine machine;
  const int fd = machine.open(0);
  Gate reading;
  machine.chips[0].onRead = [&] { reading.pass(); };
  const unsigned before = machine.chips[0].resets;
  int64_t got = 0;
  {
    const Thread reader([&] { got = machine.read(fd); });
    reading.awaitArrival();
    claim("a device is reset while it is read", 0, machine.host->ioctl(fd, VFIO_DEVICE_RESET, 0));
    claim("... and its model has heard of it", machine.chips[0].resets == before + 1);
    claim("... and config space is as it was", pci::commandMemory | pci::commandMaster,
          machine.read(fd, kConfig + pci::regCommand));
    reading.open();
  }
  claim("the read has its value", 42, got);
  machine.chips[0].onRead = [] {};
  machine.chips[0].onReset = [&] { (void)machine.answers(); };
  claim("a model can call the host in its reset", 0, machine.host->ioctl(fd, VFIO_DEVICE_RESET, 0));
  machine.chips[0].onReset = [] {};
}

void unpluggedDuringACall() {
  Machine machine;
  Control& control = machine.chips[1];
  devices::Port& port = *control.port;
  Gate resetting;
  control.onReset = [&] { resetting.pass(); };
  {
    // No program has the device open: only the reset prevents its removal.
    const Thread writer([&] { (void)machine.put(machine.path(1) + "/reset", "1"); });
    resetting.awaitArrival();
    claim("a device whose model is in a call can't be unplugged", -EBUSY,
          machine.host->removeDevice(kAddresses[1]));
    claim("... and stays", 0x34,
          machine.read(machine.host->open((machine.path(1) + "/config").c_str(), O_RDONLY), 0));
    resetting.open();
  }
  std::atomic<bool> gone = false;
  control.onDestroy = [&] {
    const Thread own([&] {
      char byte = 0;
      gone = machine.answers() && !port.dmaRead(kIova, &byte, 1, std::nullopt) && !port.memory(0);
    });
  };
  claim("afterwards it can", 0, machine.host->removeDevice(kAddresses[1]));
  claim("its model is destroyed without the lock, and its port does nothing", gone && control.destroyed);
  control.onDestroy = [] {};
  machine.host->addDevice(R"({ "model": "chip1", "bdf": "0000:00:11.0" })", {});
  control.onReset = [] {};
  claim("another one is plugged in there", 42, machine.read(machine.open(1)));
}

void twoAtATime() {
  Machine machine;
  const int one = machine.open(0);
  const int other = machine.open(1);
  Gate both;
  machine.chips[0].onRead = machine.chips[1].onRead = [&] { both.pass(); };
  int64_t first = 0, second = 0;
  {
    const Thread reader([&] { first = machine.read(one, 1); });
    const Thread another([&] { second = machine.read(other, 3); });
    both.awaitArrival(2);
    both.open();
  }
  claim("two models answer at the same time", first == 41 && second == 43);
}

void neighbours() {
  Machine machine;
  const int fd = machine.open(2);
  const int peer = machine.open(3);
  devices::Port& port = *machine.chips[2].port;
  Gate reading;
  machine.chips[3].onRead = [&] { reading.pass(); };
  uint32_t word = 0;
  bool moved = true;
  claim("an access that must call no other model is not made",
        !port.dmaReadAlone(0xfdf00000 - 2, &word, 4, std::nullopt) &&
            !port.dmaWriteAlone(0xfdf00000, &word, 4, std::nullopt) && word == 0);
  claim("... but one that goes to the IOMMU is",
        std::optional(false) == port.dmaReadAlone(0x1000, &word, 4, 1));
  {
    const Thread dma([&] { moved = port.dmaRead(0xfdf00000, &word, 4, std::nullopt); });
    reading.awaitArrival();
    claim("while a neighbour's register is read, the host answers", machine.answers());
    claim("... and the one that reads can be reset", 0, machine.host->ioctl(fd, VFIO_DEVICE_RESET, 0));
    (void)machine.host->close(fd);
    claim("... but not unplugged", -EBUSY, machine.host->removeDevice(kAddresses[2]));
    reading.open();
  }
  claim("the transfer is gone with the reset", !moved && word == 0);
  claim("then it can be unplugged", 0, machine.host->removeDevice(kAddresses[2]));
  machine.chips[3].onRead = [] {};
  claim("the neighbour is there", 42, machine.read(peer));
}

void ioEvents() {
  Machine machine;
  const int fd = machine.open(0);
  const int event = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
  Gate writing;
  std::atomic<uint64_t> written = 0;
  machine.chips[0].onWrite = [&](uint64_t value) {
    written = value;
    writing.pass();
  };
  vfio_device_ioeventfd set{
      .argsz = sizeof set, .flags = VFIO_DEVICE_IOEVENTFD_32, .offset = 8, .data = 0x55, .fd = event};
  claim("an eventfd writes a register", 0, machine.call(fd, VFIO_DEVICE_IOEVENTFD, set));
  const uint64_t one = 1;
  (void)!::write(event, &one, sizeof one);
  writing.awaitArrival();
  claim("while the model takes it, the host answers", machine.answers());
  claim("... and the device can be closed", 0, machine.host->close(fd));
  claim("... but not unplugged", -EBUSY, machine.host->removeDevice(kAddresses[0]));
  writing.open();
  int removed = -EBUSY;
  while (removed == -EBUSY) removed = machine.host->removeDevice(kAddresses[0]);
  claim("... until it is done", removed == 0 && written == 0x55);
  ::close(event);
}

void state() {
  EduMachine machine;
  Control control;
  std::unique_ptr<pci::Function> function;
  bool answered = false;
  control.onRead = [&] { answered = !machine.host.release().empty() && !machine.host.owns(-1); };
  machine.inside([&] {
    function = std::make_unique<pci::Function>(
        machine.host, pci::Function::Place{&machine.bus, 0x88, 0x588, 0, {0xd0000000}, pci::commandMemory},
        std::make_unique<Chip>(control), machine.unit, machine.group);
    const auto saved = function->saveModel();
    claim("a model can call the host while it is saved", saved.size() == 3 && answered);
    answered = false;
    claim("... and while it is loaded", function->loadModel(saved) && answered);
    claim("... and refuse", !function->loadModel({}));
    function.reset();
    claim("it lives on until the end of the call", !control.destroyed);
  });
  claim("... and no longer", control.destroyed);
}

// All kinds of calls at the same time, for the sanitizers.
void stress() {
  Machine machine;
  std::atomic<bool> stop = false;
  std::atomic<unsigned> opened = 0;
  const int kept = machine.open(1);
  (void)machine.toVfio(0);
  {
    const Thread reader([&] {
      while (!stop) (void)machine.read(kept);
    });
    const Thread resetter([&] {
      while (!stop) (void)machine.host->ioctl(kept, VFIO_DEVICE_RESET, 0);
    });
    const Thread device([&] {
      char byte = 0;
      devices::Port& port = *machine.chips[1].port;
      while (!stop) {
        (void)port.dmaRead(kIova, &byte, 1, std::nullopt);
        port.setLine(true);
        port.post(std::chrono::nanoseconds::zero(), [&] { port.setLine(false); });
      }
    });
    const Thread opener([&] {
      for (unsigned i = 0; i < 200; ++i) {
        const int fd = machine.openNode(0);
        if (machine.bind(fd) == 0) ++opened;
        (void)machine.read(fd);
        (void)machine.host->close(fd);
      }
      stop = true;
    });
  }
  claim("nobody disturbs a device that one thread opens and closes", 200, opened);
  machine.host->settle();
}

}  // namespace

int main() {
  alarm(240);
  otherCallsGoOn();
  callsBack();
  closedDuringACall();
  opensDuringAReset();
  resetDuringACall();
  unpluggedDuringACall();
  twoAtATime();
  neighbours();
  ioEvents();
  state();
  stress();
  std::printf("%s\n", check::failures == 0 ? "all held" : "FAILED");
  return check::failures == 0 ? 0 : 1;
}
