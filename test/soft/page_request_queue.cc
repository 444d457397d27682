// The queue of page requests in the unit and its overflow, the number of requests that a device may have
// without an answer, and stalls.
#include <map>

#include "page_request_harness.h"

namespace vfio::soft::check {
namespace {

// --- the queue of the unit

void overflown() {
  struct Case {
    const iommu::Model& model;
    size_t entries;
  };
  for (const Case& test : {Case{models::vtd(), 2048}, Case{models::amd(), 512}}) {
    const std::string name = std::string(test.model.name) + ": ";
    EduMachine machine(kNewestKernel, unitOf(test.model, PageRequestKind::pri));
    iommu::Endpoint& edu = *machine.edu.endpoint;
    Handler handler;
    char byte = 0;
    int done = 0;
    machine.inside([&] {
      const auto empty = std::make_shared<iommu::Domain>(machine.host, machine.unit);
      edu.attach(5, {.translation = empty, .pageRequests = &handler});
      // One group that will not be complete, one of 32 that is, and as many as the queue has room for.
      edu.requests.send({0x1000, kReads, 100, 5, false});
      for (uint64_t at = 1; at <= 32; ++at) edu.requests.send({at << 12, kReads, 101, 5, at == 32});
      for (size_t at = 33; at < test.entries; ++at) edu.requests.send({0x2000, kReads, 102, 5, false});
    });
    claim("2.4: " + name + "a full queue loses nothing", [&] {
      machine.host.settle();
      return handler.groups.size() == 1 && handler.groups[0].size() == 32;
    }());
    machine.inside([&] {
      handler.groups.clear();
      for (size_t at = 0; at < test.entries; ++at) edu.requests.send({0x3000, kReads, 103, 5, false});
      edu.dma.startWrite(0x5000, &byte, 1, 5, [&](bool) { ++done; });
    });
    machine.host.settle();
    claim("2.4: " + name + "a request more is lost, and the device asks again",
          handler.groups.size() == 1 && handler.groups[0].size() == 1 &&
              handler.groups[0][0].address == 0x5000 && done == 0);
    const uint32_t again = handler.groups[0][0].group;
    machine.inside([&] {
      handler.groups.clear();
      for (const uint32_t group : {100U, 102U, 103U}) edu.requests.send({0x6000, kReads, group, 5, true});
    });
    machine.host.settle();
    claim("2.4: " + name + "incomplete groups were dropped",
          handler.groups.size() == 3 && handler.requests() == 3);
    claim("2.4: " + name + "... without an answer", machine.host.takeFaults().empty() && done == 0);
    machine.inside([&] { edu.requests.respond(again, iommu::PageResponse::invalid); });
    claim("an answer ends the transfer", machine.finish() == kRefused && done == 1);
    machine.inside([&] { edu.attach(5, {}); });
  }
}

// A device has as many requests without an answer as it may have; further transfers stand in line.
void credit() {
  struct Case {
    const iommu::Model& model;
    PageRequestKind kind;
    size_t most;
  };
  for (const Case& test :
       {Case{models::vtd(), PageRequestKind::pri, 512}, Case{models::amd(), PageRequestKind::pri, 32},
        Case{models::smmuv3(), PageRequestKind::stall, 700}}) {
    const std::string name = std::string(test.model.name) + ": ";
    EduMachine machine(kNewestKernel, unitOf(test.model, test.kind));
    iommu::Endpoint& edu = *machine.edu.endpoint;
    Handler handler;
    constexpr size_t kTransfers = 700;
    char byte = 0;
    size_t done = 0;
    machine.inside([&] {
      const auto empty = std::make_shared<iommu::Domain>(machine.host, machine.unit);
      edu.attach(5, {.translation = empty, .pageRequests = &handler});
      for (uint64_t at = 0; at < kTransfers; ++at) {
        edu.dma.startWrite(at << 12, &byte, 1, 5, [&](bool) { ++done; });
      }
    });
    machine.host.settle();
    claim("2.4: " + name + "so many requests are without an answer", static_cast<int64_t>(test.most),
          static_cast<int64_t>(handler.requests()));
    std::map<uint32_t, int> numbers;
    for (const auto& group : handler.groups) ++numbers[group[0].group];
    claim("2.4: " + name + "... each with a number of its own", numbers.size() == test.most);
    if (test.kind == PageRequestKind::stall) {
      claim("S23: the number of a stall has 16 bits", numbers.rbegin()->first >= 512);
    }
    for (size_t rounds = 0; done != kTransfers && rounds < kTransfers; ++rounds) {
      machine.inside([&] {
        const auto groups = std::move(handler.groups);
        handler.groups.clear();
        for (const auto& group : groups) edu.requests.respond(group[0].group, iommu::PageResponse::invalid);
      });
      machine.host.settle();
      if (handler.requests() > test.most) break;
    }
    claim("2.4: " + name + "all others come after them", static_cast<int64_t>(kTransfers),
          static_cast<int64_t>(done));
    (void)machine.host.takeFaults();
    // What is in line when the device is reset is dropped.
    machine.inside([&] {
      for (uint64_t at = 0; at < kTransfers; ++at) {
        edu.dma.startWrite(at << 12, &byte, 1, 5, [&](bool) { ++done; });
      }
      edu.dma.drop();
      edu.attach(5, {});
    });
    machine.host.settle();
    claim("2.6: " + name + "a reset drops them", static_cast<int64_t>(kTransfers),
          static_cast<int64_t>(done));
  }
}

// --- stalls

void stalled() {
  for (const KernelVersion kernel : {KernelVersion{6, 13}, {6, 15}, {6, 16}, {7, 3}}) {
    const std::string name = kernel.text() + ": ";
    char bytes[8] = {};  // outlives the machine, whose end answers a read
    Attached it(kernel, unitOf(models::smmuv3(), PageRequestKind::stall));
    EduMachine& machine = it.machine;
    machine.start(EduMachine::kBuffer, 0xaff0, 0x20, true);
    const std::string reason = machine.finish();
    if (kernel < KernelVersion{6, 16}) {
      claim("S23: " + name + "a stall in a program's table is aborted at once",
            "the stalled access was aborted", reason);
      continue;
    }
    const std::vector<Record> first = it.queue.read();
    claim("S23: " + name + "a stall is one fault, and the last of its group",
          reason == "" && first.size() == 1 && first[0].flags == uapi::IOMMU_PGFAULT_FLAGS_LAST_PAGE &&
              first[0].addr == 0xa000 && first[0].perm == kWrites);
    Buffer buffer(kPage);
    claim("map", 0, machine.fd.mapAt(it.ioas, 0xa000, buffer.user(), kPage));
    std::memset(buffer.bytes(), 7, kPage);
    claim("S24: " + name + "success lets the unit try again",
          it.queue.answer(first[0].cookie, 0) == sizeof(Response) && machine.finish() == "" &&
              buffer.bytes()[kPage - 1] == 0);
    const std::vector<Record> second = it.queue.read();
    claim("S23: ... the next page is another stall", machine.busy() && second.size() == 1 &&
                                                         second[0].addr == 0xb000 &&
                                                         second[0].grpid != first[0].grpid);
    claim("S24: " + name + "invalid aborts the transaction, which is a fault",
          "the stalled access was aborted",
          it.queue.answer(second[0].cookie, 1) == sizeof(Response) ? machine.finish() : "no answer");
    claim("S24: ... and the device goes on", !machine.busy());
    machine.inside([&] {
      machine.edu.endpoint->dma.startRead(0xd000, bytes, sizeof(bytes), std::nullopt, [](bool) {},
                                          {.execute = true, .privileged = true});
    });
    machine.host.settle();
    const std::vector<Record> third = it.queue.read();
    claim("2.4: " + name + "a stall says what was asked for",
          third.size() == 1 && third[0].perm == (kReads | kExecutes | kPrivileged));
  }
}

}  // namespace
}  // namespace vfio::soft::check

int main() {
  using namespace vfio::soft::check;
  overflown();
  credit();
  stalled();
  std::printf("%d claims failed\n", failures);
  return failures == 0 ? 0 : 1;
}
