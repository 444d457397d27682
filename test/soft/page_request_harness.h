// Shared code of the checks of page requests: units that have them, a fault queue, an edu that is attached to
// a page table with one, and a handler of another part of the kernel.
#pragma once

#include "../../native/soft/iommu/model.h"
#include "machine_harness.h"

namespace vfio::soft::check {

using iommu::PageRequest;
using iommu::PageRequestKind;
using iommu::Screening;
using Record = uapi::iommu_hwpt_pgfault;
using Response = uapi::iommu_hwpt_page_response;
namespace models = iommu::models;

inline constexpr uint32_t kFaults = uapi::IOMMU_HWPT_FAULT_ID_VALID;
inline constexpr uint32_t kPasids = uapi::IOMMU_HWPT_ALLOC_PASID;
inline constexpr uint32_t kReads = uapi::IOMMU_PGFAULT_PERM_READ;
inline constexpr uint32_t kWrites = uapi::IOMMU_PGFAULT_PERM_WRITE;
inline constexpr uint32_t kExecutes = uapi::IOMMU_PGFAULT_PERM_EXEC;
inline constexpr uint32_t kPrivileged = uapi::IOMMU_PGFAULT_PERM_PRIV;
inline constexpr const char* kRefused = "the page request was refused";

inline iommu::Unit unitOf(const iommu::Model& model, PageRequestKind requests) {
  return iommu::makeUnit({.model = &model, .pasidBits = 20, .pageRequests = requests});
}

struct Queue {
  explicit Queue(EduMachine& machine) : host(machine.host) {
    uapi::iommu_fault_alloc alloc = {sizeof(alloc), 0, 0, 0};
    claim("a fault queue", 0, machine.fd.call(uapi::IOMMU_FAULT_QUEUE_ALLOC, alloc));
    id = alloc.out_fault_id;
    fd = static_cast<int>(alloc.out_fault_fd);
  }
  ~Queue() {
    if (fd >= 0) host.close(fd);
  }
  Queue(const Queue&) = delete;
  Queue& operator=(const Queue&) = delete;
  std::vector<Record> read() const {
    std::vector<Record> records(64);
    const int64_t size = host.read(fd, records.data(), records.size() * sizeof(Record));
    records.resize(size > 0 ? static_cast<size_t>(size) / sizeof(Record) : 0);
    return records;
  }
  int64_t read(void* to, size_t size) const { return host.read(fd, to, size); }
  // What poll says of the file; it waits for a record for that time.
  short polled(int milliseconds = 0) const {
    pollfd state = {fd, POLLIN | POLLOUT, 0};
    if (milliseconds != 0) {
      state.events = POLLIN;
      poll(&state, 1, milliseconds);
      state.events = POLLIN | POLLOUT;
    }
    poll(&state, 1, 0);
    return state.revents;
  }
  int64_t answer(uint32_t cookie, uint32_t code) const {
    const Response response = {cookie, code};
    return host.write(fd, &response, sizeof(response));
  }

  Host& host;
  uint32_t id = 0;
  int fd = -1;
};

inline int table(EduMachine& machine, uint32_t ioas, const Queue& queue, uint32_t& id,
                 uint32_t flags = kFaults) {
  uapi::iommu_hwpt_alloc alloc = {};
  alloc.size = sizeof(alloc);
  alloc.flags = flags;
  alloc.dev_id = machine.device->id();
  alloc.pt_id = ioas;
  alloc.fault_id = queue.id;
  const int result = machine.fd.call(uapi::IOMMU_HWPT_ALLOC, alloc);
  id = alloc.out_hwpt_id;
  return result;
}

// An edu that is attached to a table with a fault queue.
struct Attached {
  explicit Attached(KernelVersion kernel = kNewestKernel, iommu::Unit unit = fullUnit(),
                    uint32_t flags = kFaults)
      : machine(kernel, std::move(unit)), queue(machine), ioas(machine.fd.ioas()) {
    claim(kernel.text() + " " + std::string(machine.unit.model.name) + ": a table with faults, attached",
          table(machine, ioas, queue, id, flags) == 0 && machine.attachTo(id) == 0);
  }
  // A write of the device that waits for the page, as its first group of requests: number 0.
  void wait(uint64_t iova = 0xa000) {
    machine.start(EduMachine::kBuffer, iova, 8, true);
    claim("the device waits", machine.finish() == "" && machine.busy());
  }
  void send(const PageRequest& request) {
    machine.inside([&] { machine.edu.endpoint->requests.send(request); });
  }

  EduMachine machine;
  Queue queue;
  const uint32_t ioas;
  uint32_t id = 0;
};

// A handler of another part of the kernel, which keeps what it is given.
struct Handler final : iommu::PageRequestHandler {
  void take(iommu::Endpoint&, std::vector<PageRequest> group) override { groups.push_back(std::move(group)); }
  void forget(const iommu::Endpoint&) override {}
  [[nodiscard]] size_t requests() const {
    size_t all = 0;
    for (const auto& group : groups) all += group.size();
    return all;
  }
  std::vector<std::vector<PageRequest>> groups;
};

}  // namespace vfio::soft::check
