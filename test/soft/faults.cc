// Fault queues: page requests of a device that waits for pages, and answers by another thread.
#include <unistd.h>

#include <atomic>
#include <thread>

#include "../../native/uapi/iommufd_data.h"
#include "page_request_harness.h"

namespace vfio::soft::check {
namespace {

int allocate(EduMachine& machine, uint32_t pt, uint32_t queue, uint32_t& id, uint32_t flags = kFaults) {
  uapi::iommu_hwpt_alloc alloc = {};
  alloc.size = sizeof(alloc);
  alloc.flags = flags;
  alloc.dev_id = machine.device->id();
  alloc.pt_id = pt;
  alloc.fault_id = queue;
  const int result = machine.fd.call(uapi::IOMMU_HWPT_ALLOC, alloc);
  id = alloc.out_hwpt_id;
  return result;
}

// The calls on the descriptor of an empty queue.
void empty() {
  EduMachine machine;
  Queue queue(machine);
  Record records[2] = {};
  claim("an empty queue polls writable only", POLLOUT, queue.polled());
  claim("... reads as nothing", 0, queue.read(records, sizeof(records)));
  claim("... reads by whole records ESPIPE", -ESPIPE, queue.read(records, 39));
  claim("... has no positions ESPIPE", -ESPIPE, machine.host.pread(queue.fd, records, sizeof(Record), 0));
  claim("... takes whole answers ESPIPE", -ESPIPE, machine.host.write(queue.fd, records, 7));
  claim("... to what was asked EINVAL", -EINVAL, queue.answer(1, 0));
  claim("... of two kinds EINVAL", -EINVAL, queue.answer(1, 2));
  claim("... that can be read EFAULT", -EFAULT,
        machine.host.write(queue.fd, reinterpret_cast<void*>(8), sizeof(Response)));
  claim("it is closed on exec", FD_CLOEXEC, fcntl(queue.fd, F_GETFD));

  uapi::iommu_fault_alloc alloc = {sizeof(alloc), 1, 0, 0};
  claim("flags EOPNOTSUPP", -EOPNOTSUPP, machine.fd.call(uapi::IOMMU_FAULT_QUEUE_ALLOC, alloc));
  Buffer readOnly(kPage);
  auto* const there = reinterpret_cast<uapi::iommu_fault_alloc*>(readOnly.bytes());
  *there = {sizeof(alloc), 0, 0, 0};
  mprotect(readOnly.bytes(), kPage, PROT_READ);
  const int before = dup(0);
  claim("nowhere to answer EFAULT", -EFAULT, machine.fd.call(uapi::IOMMU_FAULT_QUEUE_ALLOC, *there));
  close(before);
  const int after = dup(0);
  close(after);
  claim("... leaves no descriptor", before, after);
  claim("... and no object", queue.id + 1, machine.fd.ioas());

  uint32_t ioas = machine.fd.ioas(), table = 0;
  claim("a table with it", 0, allocate(machine, ioas, queue.id, table));
  claim("its queue is busy while open", -EBUSY, machine.fd.destroy(queue.id));
  machine.host.close(queue.fd);
  queue.fd = -1;
  claim("... and while the table has it", -EBUSY, machine.fd.destroy(queue.id));
  claim("... and goes then", machine.fd.destroy(table) == 0 && machine.fd.destroy(queue.id) == 0);
}

// A transfer waits for its page, which another thread maps; the engine goes on meanwhile.
void resolved() {
  EduMachine machine;
  Queue queue(machine);
  Buffer buffer(4 * kPage);
  const uint32_t ioas = machine.fd.ioas();
  uint32_t table = 0;
  claim("a table with faults, attached",
        allocate(machine, ioas, queue.id, table) == 0 && machine.attachTo(table) == 0);
  std::strcpy(buffer.bytes() + 0x100, "paged in");

  constexpr int kRounds = 20;
  std::atomic<int> answered = 0;
  std::thread program([&] {
    for (int round = 0; round < kRounds; ++round) {
      if ((queue.polled(10000) & POLLIN) == 0) return;
      Record record = {};
      if (queue.read(&record, sizeof(record)) != sizeof(record)) return;
      const bool asked = record.addr == 0x7000 && record.dev_id == machine.device->id() &&
                         record.flags == uapi::IOMMU_PGFAULT_FLAGS_LAST_PAGE && record.cookie == 1 &&
                         record.perm == uapi::IOMMU_PGFAULT_PERM_READ;
      // All answers but the last come without a mapping: the device requests the page again, without a limit.
      if (round == kRounds - 1 && machine.fd.mapAt(ioas, 0x7000, buffer.user(), kPage) != 0) return;
      if (asked && queue.answer(record.cookie, 0) == sizeof(Response)) ++answered;
    }
  });
  machine.start(0x7100, EduMachine::kBuffer, 9, false);
  claim("the device asks, and has no work meanwhile", machine.finish() == "");
  program.join();
  claim("a page request was answered, again and again", kRounds, answered.load());
  claim("the transfer went on", machine.finish() == "" && !machine.busy());
  claim("... with what was paged in",
        machine.store(0x7200, 9) == "" && std::strcmp(buffer.bytes() + 0x200, "paged in") == 0);
  claim("nothing waits", POLLOUT, queue.polled());
}

// While the device waits for a page, its other unit works. The program's answer refuses the request, and so
// does a detach.
void refused() {
  EduMachine machine;
  Queue queue(machine);
  Buffer buffer(4 * kPage);
  const uint32_t ioas = machine.fd.ioas();
  uint32_t table = 0, other = 0;
  claim("a table with faults, attached",
        allocate(machine, ioas, queue.id, table) == 0 && machine.attachTo(table) == 0);
  Record records[4] = {};
  // The transfer touches two pages: one group of requests.
  machine.start(EduMachine::kBuffer, 0x8ff0, 0x20, true);
  claim("nothing fails", "", machine.finish());
  claim("the device waits", machine.busy());
  uint64_t factorial = 0;
  machine.inside([&] { machine.edu.barWrite(0, 0x08, 4, 5); });
  machine.host.settle();
  machine.inside([&] { factorial = machine.edu.barRead(0, 0x08, 4); });
  claim("... and computes", 120, static_cast<int64_t>(factorial));
  claim("readable", POLLIN | POLLOUT, queue.polled());
  claim("a buffer for less than the group EINVAL", -EINVAL, queue.read(records, sizeof(Record)));
  claim("... for nothing EINVAL", -EINVAL, queue.read(records, 0));
  claim("a bad buffer EFAULT", -EFAULT, queue.read(reinterpret_cast<void*>(8), sizeof(records)));
  Buffer half(2 * kPage);
  mprotect(half.bytes() + kPage, kPage, PROT_NONE);
  claim("half a bad buffer EFAULT", -EFAULT,
        queue.read(half.bytes() + kPage - sizeof(Record), 2 * sizeof(Record)));
  claim("both pages of the group", 2 * sizeof(Record), queue.read(records, sizeof(records)));
  claim("... in order, the last one marked", records[0].addr == 0x8000 && records[1].addr == 0x9000 &&
                                                 records[0].flags == 0 &&
                                                 records[1].flags == uapi::IOMMU_PGFAULT_FLAGS_LAST_PAGE);
  claim("... for writing, with one cookie and one group", records[0].perm == uapi::IOMMU_PGFAULT_PERM_WRITE &&
                                                              records[0].cookie == records[1].cookie &&
                                                              records[0].grpid == records[1].grpid);
  claim("none is left to read", POLLOUT, queue.polled());
  claim("still waiting", machine.busy());
  const Response answers[2] = {{records[0].cookie, 1}, {records[0].cookie, 1}};
  claim("refused; the second answer is one too many", sizeof(Response),
        machine.host.write(queue.fd, answers, sizeof(answers)));
  claim("the transfer failed", "the page request was refused", machine.finish());
  claim("... and is over", !machine.busy());

  const auto wait = [&](const char* name) {
    machine.start(EduMachine::kBuffer, 0xa000, 8, true);
    claim(std::string(name) + ": nothing fails", "", machine.finish());
    claim("... the device waits", machine.busy());
  };
  wait("unread when it is replaced");
  claim("replace", 0, machine.attachTo(ioas));
  claim("... refuses it", "the page request was refused", machine.finish());
  claim("... and takes it out", POLLOUT, queue.polled());
  claim("without a queue, a missing page is a fault", "not mapped", machine.store(0xa000, 8));

  claim("back", 0, machine.attachTo(table));
  wait("read when it is detached");
  claim("read", sizeof(Record), queue.read(records, sizeof(records)));
  machine.detach();
  claim("... refuses it", "the page request was refused", machine.finish());
  claim("... and its cookie is unknown", -EINVAL, queue.answer(records[0].cookie, 0));
  claim("detached: blocked", "blocked", machine.store(0xa000, 8));

  claim("back again", 0, machine.attachTo(table));
  wait("read before it moves to another table of the queue");
  claim("another", 0, allocate(machine, ioas, queue.id, other));
  claim("replace", 0, machine.attachTo(other));
  claim("... refuses it too", "the page request was refused", machine.finish());

  wait("when the function is reset");
  machine.inside([&] {
    machine.edu.reset();
    machine.edu.configWrite(pci::regCommand, 2, pci::commandMemory | pci::commandMaster);
  });
  claim("... it is forgotten", !machine.busy());
  claim("... the request is still there", sizeof(Record), queue.read(records, sizeof(records)));
  claim("map", 0, machine.fd.mapAt(ioas, 0xa000, buffer.user(), kPage));
  std::memset(buffer.bytes(), 7, 8);
  claim("... and its answer moves nothing", queue.answer(records[0].cookie, 0) == sizeof(Response) &&
                                                machine.finish() == "" && buffer.bytes()[0] == 7);
  claim("a new transfer does", machine.store(0xa000, 8) == "" && buffer.bytes()[0] == 0);
}

// Many requests: each gets the lowest free cookie, and a group is read as a whole.
void cookies() {
  EduMachine machine;
  Queue queue(machine);
  const uint32_t ioas = machine.fd.ioas();
  uint32_t table = 0;
  claim("a table with faults, attached",
        allocate(machine, ioas, queue.id, table) == 0 && machine.attachTo(table) == 0);
  const auto request = [&machine](uint32_t group, uint64_t address, bool last) {
    int result = 0;
    machine.inside([&] {
      result = machine.edu.endpoint->requests.report(
          {address, uapi::IOMMU_PGFAULT_PERM_EXEC, group, std::nullopt, last});
    });
    return result;
  };
  claim("requests of two groups, mixed",
        request(8, 0x1000, false) == 0 && request(9, 0x2000, false) == 0 && request(8, 0x3000, true) == 0);
  Record records[8] = {};
  claim("the one that is complete is there", 2 * sizeof(Record), queue.read(records, sizeof(records)));
  claim("... as a whole", records[0].addr == 0x1000 && records[1].addr == 0x3000 && records[0].grpid == 8 &&
                              records[0].cookie == 1);
  claim("the other one", 0, request(9, 0x4000, true));
  claim("and a third", 0, request(10, 0x5000, true));
  claim("both are read when both fit", 3 * sizeof(Record), queue.read(records, 3 * sizeof(Record)));
  claim("... with cookies of their own", records[0].cookie == 2 && records[2].cookie == 3);
  claim("an answer out of order frees its cookie", sizeof(Response), queue.answer(2, 0));
  claim("more", request(11, 0, true) == 0 && request(12, 0, true) == 0);
  claim("one at a time", sizeof(Record), queue.read(records, sizeof(Record)));
  claim("... takes the free cookie", 2, records[0].cookie);
  claim("the rest", sizeof(Record), queue.read(records, sizeof(records)));
  claim("... takes the next", 4, records[0].cookie);
  uint32_t plain = 0;
  claim("a table without", 0, machine.fd.hwpt(machine.device->id(), ioas, plain));
  claim("replace", 0, machine.attachTo(plain));
  claim("there nobody takes requests EINVAL", -EINVAL, request(13, 0, true));
}

// Which devices can make page requests, and on which release.
void levels() {
  struct Case {
    KernelVersion kernel;
    int paging;
    int parent;
  };
  constexpr uint32_t kParent = uapi::IOMMU_HWPT_ALLOC_NEST_PARENT;
  for (const Case& test : {Case{{6, 12}, -EOPNOTSUPP, -EOPNOTSUPP}, Case{{6, 13}, 0, -EOPNOTSUPP},
                           Case{{7, 3}, 0, -EOPNOTSUPP}}) {
    const std::string name = std::to_string(test.kernel.major) + "." + std::to_string(test.kernel.minor);
    EduMachine machine(test.kernel);
    Queue queue(machine);
    uint32_t id = 0;
    claim(name + ": an address space's table with faults", test.paging,
          allocate(machine, machine.fd.ioas(), queue.id, id));
    claim(name + ": a parent with faults", test.parent,
          allocate(machine, machine.fd.ioas(), queue.id, id, kFaults | kParent));
  }
  EduMachine old({6, 10});
  uapi::iommu_fault_alloc alloc = {sizeof(alloc), 0, 0, 0};
  claim("6.10 has no fault queues", -ENOTTY, old.fd.call(uapi::IOMMU_FAULT_QUEUE_ALLOC, alloc));

  iommu::Unit unit = fullUnit();
  unit.pageRequests = iommu::PageRequestKind::none;
  EduMachine machine(kNewestKernel, unit);
  Queue queue(machine);
  const uint32_t ioas = machine.fd.ioas();
  uint32_t table = 0;
  claim("a unit without page requests", 0, allocate(machine, ioas, queue.id, table));
  claim("... attaches no such table ENODEV", -ENODEV, machine.attachTo(table));
  claim("... nothing is reserved by that", 1, machine.fd.ranges(ioas).count);
  claim("attach to another", 0, machine.attachTo(ioas));
  claim("... nor replaces by it ENODEV", -ENODEV, machine.attachTo(table));
  claim("... the other stays", "not mapped", machine.store(0, 8));
}

// A read that is too short for the first group returns 0, or EINVAL on releases with the fix.
void shortReads() {
  const std::pair<KernelVersion, int64_t> kCases[] = {{{6, 13}, 0}, {{6, 17}, 0}, {{6, 18}, -EINVAL},
                                                      {{6, 19}, 0}, {{7, 0}, 0},  {{7, 1}, -EINVAL}};
  for (const auto& [kernel, expected] : kCases) {
    EduMachine machine(kernel);
    Queue queue(machine);
    uint32_t table = 0;
    claim(kernel.text() + ": a table with faults, attached",
          allocate(machine, machine.fd.ioas(), queue.id, table) == 0 && machine.attachTo(table) == 0);
    machine.start(EduMachine::kBuffer, 0x8ff0, 0x20, true);
    claim("... two pages are asked for", "", machine.finish());
    Record records[2] = {};
    claim("... a read of one", expected, queue.read(records, sizeof(Record)));
    claim("... and of both", sizeof(records), queue.read(records, sizeof(records)));
  }
}

// The checks that the system call makes before it calls the file. The kernel in the guest gave these answers.
void addresses() {
  EduMachine machine;
  Queue queue(machine);
  Host& host = machine.host;
  const int iommufd = static_cast<Descriptor&>(*machine.fd.file).number;
  const auto wild = [](uint64_t address) { return reinterpret_cast<void*>(address); };
  void* const kernels = wild(0xffff800000000000);
  for (const uint64_t address : {uint64_t{8}, uint64_t{1} << 47, (uint64_t{1} << 56) - 4096}) {
    claim("an empty queue is read to a user's address", 0, host.read(queue.fd, wild(address), 0));
    claim("... and written from there", 0, host.write(queue.fd, wild(address), 0));
  }
  for (const uint64_t address : {uint64_t{1} << 56, uint64_t{1} << 63, UINT64_MAX}) {
    claim("to no user's address EFAULT", -EFAULT, host.read(queue.fd, wild(address), 0));
    claim("... and from there EFAULT", -EFAULT, host.write(queue.fd, wild(address), 0));
  }
  claim("across the end EFAULT", -EFAULT, host.read(queue.fd, wild((uint64_t{1} << 56) - 4096), 40));
  claim("... before the size is looked at", -EFAULT, host.read(queue.fd, kernels, 39));
  char bytes[64];
  claim("more than there can be EFAULT", -EFAULT, host.read(queue.fd, bytes, SIZE_MAX));
  claim("more than moves at once is cut, to no whole records ESPIPE", -ESPIPE,
        host.read(queue.fd, bytes, (size_t{1} << 46) / 40 * 40));
  claim("no positions ESPIPE", -ESPIPE, host.pread(queue.fd, kernels, 40, 0));
  claim("what can't be read EINVAL", -EINVAL, host.read(iommufd, kernels, 40));
  claim("... with a position too", -EINVAL, host.pread(iommufd, kernels, 40, 0));
  const int vendor = host.open("/sys/bus/pci/devices/0000:00:10.0/vendor", O_RDONLY);
  claim("an attribute, nothing of it EFAULT", -EFAULT, host.read(vendor, kernels, 0));
  claim("... behind its end EFAULT", -EFAULT, host.pread(vendor, kernels, 5, 100000));
  claim("... to a user's address nothing", 0, host.pread(vendor, wild(8), 5, 100000));
  claim("... beyond all positions EINVAL", -EINVAL, host.pread(vendor, bytes, 5, INT64_MAX));
  claim("... written EBADF", -EBADF, host.write(vendor, kernels, 5));
  const int directory = host.open("/sys/bus/pci/devices", O_RDONLY);
  claim("a directory EFAULT", -EFAULT, host.read(directory, kernels, 5));
  claim("... EISDIR", -EISDIR, host.read(directory, bytes, 5));
  host.close(directory);
  host.close(vendor);
}

}  // namespace
}  // namespace vfio::soft::check

int main() {
  using namespace vfio::soft::check;
  empty();
  resolved();
  refused();
  cookies();
  levels();
  shortReads();
  addresses();
  std::printf("%d claims failed\n", failures);
  return failures == 0 ? 0 : 1;
}
