// Page requests between devices, units and the kernel, on all units and releases where these differ: whether
// they can be turned on, which requests a unit's driver lets pass, and what is grouped and answered. The
// statements' numbers stand before their claims. faults.cc checks the file that programs read.
#include "page_request_harness.h"

namespace vfio::soft::check {
namespace {

// --- turning page requests on

void turnedOn() {
  struct Case {
    const iommu::Model& model;
    PageRequestKind kind;
    int before;  // 6.16: attaching a table with a fault queue
    int since;
    int again;  // turned on a second time, before 6.16
  };
  const Case cases[] = {
      {models::vtd(), PageRequestKind::pri, 0, 0, -EBUSY},
      {models::vtd(), PageRequestKind::none, -ENODEV, -ENODEV, -ENODEV},
      {models::smmuv3(), PageRequestKind::stall, 0, 0, -EBUSY},
      {models::smmuv3(), PageRequestKind::pri, -EINVAL, 0, -EINVAL},
      {models::smmuv3(), PageRequestKind::none, -EINVAL, 0, -EINVAL},
      {models::amd(), PageRequestKind::pri, 0, 0, 0},
      {models::amd(), PageRequestKind::none, 0, 0, 0},
      {models::custom(), PageRequestKind::pri, 0, 0, -EBUSY},
      {models::custom(), PageRequestKind::none, -ENODEV, -ENODEV, -ENODEV},
  };
  for (const KernelVersion kernel : {KernelVersion{6, 13}, {6, 15}, {6, 16}, {7, 3}}) {
    for (const Case& test : cases) {
      const bool late = kernel >= KernelVersion{6, 16};
      const std::string id = &test.model == &models::vtd() ? "S14: " : "S15: ";
      const std::string name = id + kernel.text() + " " + std::string(test.model.name) +
                               (test.kind == PageRequestKind::none    ? " without requests"
                                : test.kind == PageRequestKind::stall ? " that stalls"
                                                                      : " with PRI");
      EduMachine machine(kernel, unitOf(test.model, test.kind));
      Queue queue(machine);
      uint32_t with = 0;
      claim("a table with faults", 0, table(machine, machine.fd.ioas(), queue, with));
      claim(name + ": attaches it", late ? test.since : test.before, machine.attachTo(with));
      machine.detach();
      const auto enable = [&machine] {
        int result = 0;
        machine.inside([&] {
          iommu::Endpoint& edu = *machine.edu.endpoint;
          result = machine.unit.model.enablesRequests(edu);
          if (result == 0) edu.requests.turnOn();
        });
        return result;
      };
      if (enable() != 0) continue;
      claim(name + ": is turned on again", late ? test.since : test.again, enable());
      claim(name + ": attaches while another part of the kernel has them on", late ? test.since : test.again,
            [&] {
              int result = 0;
              machine.inside([&] { result = machine.device->attach(with); });
              return result;
            }());
    }
  }
  // A virtual function asks through its physical one.
  for (const KernelVersion kernel : {KernelVersion{6, 13}, {6, 15}, {6, 16}, {7, 3}}) {
    EduMachine machine(kernel);
    Queue queue(machine);
    iommu::Group group = {.id = 71, .members = {}};
    iommu::Endpoint physical(machine.host, "0000:05:11.0", 0x588, machine.unit, group);
    machine.edu.endpoint->physical = &physical;
    uint32_t with = 0;
    claim("a table with faults", 0, table(machine, machine.fd.ioas(), queue, with));
    claim(kernel.text() + ": a virtual function whose physical one has no PRI", 0, machine.attachTo(with));
    machine.detach();
    physical.pageRequests = true;
    claim(kernel.text() + ": ... and one whose physical one has EINVAL", -EINVAL, machine.attachTo(with));
  }
}

// --- what a unit's driver does with a request by itself

void screened() {
  struct Case {
    const char* name;
    PageRequest request;
    Screening answer;
  };
  const auto with = [](uint32_t permissions, std::optional<uint32_t> pasid, uint64_t address = 0x1000,
                       bool last = true) {
    return PageRequest{address, permissions, 0, pasid, last};
  };
  for (const KernelVersion kernel : {KernelVersion{6, 11}, {6, 12}, {6, 13}, {6, 15}, {6, 16}, {7, 3}}) {
    Host host(std::make_shared<mm::Memory>(), {.kernel = kernel});
    const auto run = [&](const iommu::Model& model, PageRequestKind kind, const std::vector<Case>& cases) {
      iommu::Unit unit = unitOf(model, kind);
      iommu::Group group = {.id = 72, .members = {}};
      iommu::Endpoint endpoint(host, "0000:05:12.0", 0x590, unit, group);
      endpoint.pasidBits = 8;
      endpoint.pageRequests = true;
      endpoint.attach(std::nullopt, {.translation = std::make_shared<iommu::Domain>(host, unit)});
      for (const Case& test : cases) {
        claim(std::string(test.name) + " (" + kernel.text() + " " + std::string(model.name) + ")",
              static_cast<int>(test.answer), static_cast<int>(model.screens(endpoint, test.request)));
      }
      endpoint.attach(std::nullopt, {});
    };
    const bool plain = kernel >= KernelVersion{6, 13};
    run(models::vtd(), PageRequestKind::pri,
        {{"S25: a request without a PASID is refused until 6.13", with(kReads, std::nullopt),
          plain ? Screening::passed : Screening::refused},
         {"S25: one with a PASID passes", with(kReads, 5), Screening::passed},
         {"S26: a stop marker is dropped", with(0, 5), Screening::dropped},
         {"S26: what only executes looks like one", with(kExecutes, 5), Screening::dropped},
         {"S26: if it isn't the last, it passes", with(kExecutes, 5, 0x1000, false), Screening::passed},
         {"2.4: to execute and read is refused", with(kExecutes | kReads, 5), Screening::refused},
         {"2.4: to execute and write passes", with(kExecutes | kWrites, 5), Screening::passed},
         {"2.4: with privilege is refused", with(kPrivileged | kWrites, 5), Screening::refused},
         {"2.4: the highest address of the lower half passes", with(kReads, 5, (uint64_t{1} << 56) - 0x1000),
          Screening::passed},
         {"2.4: an address between the halves is refused", with(kReads, 5, uint64_t{1} << 56),
          Screening::refused},
         {"2.4: the upper half passes", with(kReads, 5, ~uint64_t{0xfff}), Screening::passed}});
    run(models::amd(), PageRequestKind::pri,
        {{"2.4: a request without a PASID fails", with(kReads, std::nullopt), Screening::failed},
         {"2.4: one with PASID 0 fails", with(kReads, 0), Screening::failed},
         {"2.4: one with a PASID that the device hasn't fails", with(kReads, 256), Screening::failed},
         {"2.4: the last of its PASIDs passes", with(kReads | kExecutes | kPrivileged, 255),
          Screening::passed}});
    const bool stalls = kernel >= KernelVersion{6, 16};
    run(models::smmuv3(), PageRequestKind::stall,
        {{"S23: a stall in a program's table is refused until 6.16", with(kReads, std::nullopt),
          stalls ? Screening::passed : Screening::refused}});
  }
}

// --- groups

void grouped() {
  for (const KernelVersion kernel : {KernelVersion{6, 15}, {6, 16}, {7, 3}}) {
    const std::string name = kernel.text() + ": ";
    Attached it(kernel, fullUnit(), kFaults | kPasids);
    EduMachine& machine = it.machine;
    claim("a PASID too", 0, machine.attachTo(it.id, 5));
    it.wait();
    it.send({0x1000, kReads, 0, std::nullopt, false});
    claim("S18: " + name + "a request that isn't the last gets no answer",
          machine.finish() == "" && machine.busy());
    claim("S26: " + name + "nor does a stop marker", [&] {
      it.send({0, 0, 0, 5, true});
      return machine.finish() == "" && machine.busy();
    }());
    claim("S18: ... nor is it delivered", 1, static_cast<int64_t>(it.queue.read().size()));
    it.send({0x2000, kReads, 3, 5, false});
    it.send({0x3000, kWrites | kExecutes, 4, 5, false});
    it.send({0x4000, kWrites, 3, std::nullopt, true});
    machine.host.settle();
    const std::vector<Record> group = it.queue.read();
    claim("S20: " + name + "a group is what has its number, whatever the PASID",
          group.size() == 2 && group[0].addr == 0x2000 && group[0].pasid == 5 &&
              group[0].flags == uapi::IOMMU_PGFAULT_FLAGS_PASID_VALID && group[1].addr == 0x4000 &&
              group[1].flags == uapi::IOMMU_PGFAULT_FLAGS_LAST_PAGE && group[0].cookie == group[1].cookie);
    it.send({0x5000, kWrites, 4, 5, true});
    machine.host.settle();
    const std::vector<Record> other = it.queue.read();
    claim("2.1: " + name + "the file shows the right to execute that is asked for",
          other.size() == 2 && other[0].perm == (kWrites | kExecutes) && other[1].perm == kWrites);
    claim("S27: " + name + "an answer of 2 EINVAL", -EINVAL, it.queue.answer(other[0].cookie, 2));
    claim("S27: ... to what nobody asked EINVAL", -EINVAL, it.queue.answer(99, 0));
    claim("S27: ... the right one", sizeof(Response), it.queue.answer(other[0].cookie, 1));
    // The PASID has no handler. The number is that of the group that the transfer waits for.
    it.send({0x6000, kReads, 0, 6, false});
    claim("S19: " + name + "without a handler, one that isn't the last is refused too", kRefused,
          machine.finish());
    claim("S19: ... and the transfer is over", !machine.busy());
  }
}

}  // namespace
}  // namespace vfio::soft::check

int main() {
  using namespace vfio::soft::check;
  turnedOn();
  screened();
  grouped();
  std::printf("%d claims failed\n", failures);
  return failures == 0 ? 0 : 1;
}
