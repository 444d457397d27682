// What becomes of page requests when an attachment ends, wherever they are at that time.
#include "page_request_harness.h"

namespace vfio::soft::check {
namespace {

// --- the end of an attachment

// Where a request is when the attachment ends.
enum class Where { hardware, waiting, read };

void flushed() {
  struct End {
    const char* name;
    std::function<void(Attached&, uint32_t plain, uint32_t other)> act;
    const char* outcome;
    bool busy;
  };
  const End ends[] = {
      {"detach", [](Attached& it, uint32_t, uint32_t) { it.machine.device->detach(); }, kRefused, false},
      {"replace by a table without a queue",
       [](Attached& it, uint32_t plain, uint32_t) { (void)it.machine.device->replace(plain); }, kRefused,
       false},
      {"replace by a table of another queue",
       [](Attached& it, uint32_t, uint32_t other) { (void)it.machine.device->replace(other); }, kRefused,
       false},
      {"unbind", [](Attached& it, uint32_t, uint32_t) { it.machine.device.reset(); }, kRefused, false},
      {"reset of the device",
       [](Attached& it, uint32_t, uint32_t) {
         it.machine.edu.reset();
         it.machine.edu.configWrite(pci::regCommand, 2, pci::commandMemory | pci::commandMaster);
       },
       "", false},
      {"removal of the device", [](Attached& it, uint32_t, uint32_t) { it.machine.edu.vanish(); }, "", false},
      {"a replacement that fails",
       [](Attached& it, uint32_t, uint32_t) {
         uint32_t none = 99;
         (void)it.machine.device->replace(none);
       },
       "", true},
  };
  for (const End& end : ends) {
    for (const Where where : {Where::hardware, Where::waiting, Where::read}) {
      const std::string name = std::string(end.name) + ", " +
                               (where == Where::hardware  ? "with a request in the unit's queue"
                                : where == Where::waiting ? "with one that isn't read"
                                                          : "with one that is read");
      char byte = 0;
      int done = 0;
      Attached it;
      EduMachine& machine = it.machine;
      Queue second(machine);
      uint32_t plain = 0, other = 0;
      claim("other tables", machine.fd.hwpt(machine.device->id(), it.ioas, plain) == 0 &&
                                table(machine, it.ioas, second, other) == 0);
      if (where == Where::hardware) {
        // All in one call: the kernel's thread does not read the queue meanwhile.
        machine.inside([&] {
          machine.edu.endpoint->dma.startWrite(0xa000, &byte, 1, std::nullopt, [&](bool) { ++done; });
          end.act(it, plain, other);
        });
        claim("2.6: " + name, end.outcome, machine.finish());
        claim("2.6: ... told the device: " + name, end.outcome[0] != 0 ? 1 : 0, done);
      } else {
        it.wait();
        if (where == Where::read) claim("read", 1, static_cast<int64_t>(it.queue.read().size()));
        machine.inside([&] { end.act(it, plain, other); });
        claim("2.6: " + name, end.outcome, machine.finish());
        if (end.name != std::string("removal of the device")) {
          claim("2.6: ... busy or not: " + name, end.busy, machine.busy());
        }
      }
      machine.host.settle();
      const bool kept = end.outcome[0] == 0;
      const size_t left = it.queue.read().size();
      claim("2.6: ... the queue of the table keeps what isn't refused: " + name,
            kept && where != Where::read ? 1 : 0, static_cast<int64_t>(left));
      claim("S28: ... and the other queue gets nothing: " + name, 0,
            static_cast<int64_t>(second.read().size()));
      if (kept) {
        claim("2.6: ... an answer to it is harmless: " + name, sizeof(Response), it.queue.answer(1, 0));
      } else {
        claim("S28: ... its cookie is unknown: " + name, -EINVAL, it.queue.answer(1, 0));
      }
    }
  }
}

// A replacement refuses what came by the old table, and leaves what came by another to the same queue.
void replaced(KernelVersion kernel) {
  char byte = 0;
  int done = 0;
  Attached it(kernel, fullUnit(), kFaults | kPasids);
  EduMachine& machine = it.machine;
  Queue second(machine);
  uint32_t other = 0;
  claim("another table, for a PASID",
        table(machine, it.ioas, second, other, kFaults | kPasids) == 0 && machine.attachTo(other, 5) == 0);
  machine.inside([&] { machine.edu.endpoint->dma.startWrite(0x1000, &byte, 1, 5, [&](bool) { ++done; }); });
  machine.host.settle();
  it.wait();
  claim("S28: replace, with a fault in either queue", 0, machine.attachTo(other));
  claim("S28: ... refuses the one of the old table", kRefused, machine.finish());
  const std::vector<Record> records = second.read();
  claim("S28: ... and leaves the one of the new table's queue",
        it.queue.read().empty() && done == 0 && records.size() == 1 && records[0].pasid == 5);
  machine.detach(5);
  claim("2.6: the detach of a PASID refuses its own", machine.finish() == kRefused && done == 1);
  claim("a PASID again", 0, machine.attachTo(other, 5));
  it.send({0x1000, kReads, 8, 5, false});
  machine.host.settle();
  machine.detach();
  it.send({0x2000, kReads, 8, 5, true});
  machine.host.settle();
  claim("2.2: while a PASID still has requests, incomplete groups stay", 2,
        static_cast<int64_t>(second.read().size()));
  machine.detach(5);
  claim("back", 0, machine.attachTo(it.id));
  it.send({0x1000, kReads, 9, std::nullopt, false});
  machine.host.settle();
  machine.detach();
  claim("back", 0, machine.attachTo(it.id));
  it.send({0x2000, kReads, 9, std::nullopt, true});
  machine.host.settle();
  claim("2.2: turning requests off drops incomplete groups", 1, static_cast<int64_t>(it.queue.read().size()));
}

}  // namespace
}  // namespace vfio::soft::check

int main() {
  using namespace vfio::soft::check;
  flushed();
  for (const vfio::soft::KernelVersion kernel : {vfio::soft::KernelVersion{6, 15}, {6, 16}, {7, 3}})
    replaced(kernel);
  std::printf("%d claims failed\n", failures);
  return failures == 0 ? 0 : 1;
}
