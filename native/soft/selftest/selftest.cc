// The kernel's test-only command. Each operation does its checks in the kernel's order. It examines the page
// tables and the memory themselves; it never relies on records of earlier requests.
#include <fcntl.h>

#include <cerrno>
#include <vector>

#include "../core/services.h"
#include "../iommufd/command.h"
#include "../iommufd/hwpt.h"
#include "../mm/memory.h"
#include "hooks.h"
#include "mock_access.h"
#include "mock_device.h"
#include "mock_unit.h"
#include "nth_area.h"
#include "page_identity.h"
#include "test_command.h"

namespace vfio::soft::selftest {
namespace {

using iommufd::Command;
using iommufd::Context;
using iommufd::Ioas;
using iommufd::ObjectTable;
using iommufd::PagingHwpt;

constexpr uint64_t kMostAtOnce = uint64_t{16} << 20;

// --- address spaces and devices

int addReserved(Command& command, const TestCommand& arguments) {
  const auto [start, length] = arguments.addReserved;
  if (length == 0) return -EINVAL;
  if (start + (length - 1) < start) return -EOVERFLOW;
  Ioas* const ioas = command.context.objects.find<Ioas>(arguments.id);
  if (ioas == nullptr) return -ENOENT;
  return ioas->table.reserve({start, start + (length - 1)}, nullptr);
}

int mockDevice(Command& command, TestCommand& arguments) {
  const uint32_t flags = arguments.op == kMockDeviceFlags ? arguments.mockDevice.flags : 0;
  if ((flags & ~(kDeviceNoDirty | kDeviceHugeIova)) != 0) return -EINVAL;
  Context& context = command.context;
  MockDevice* const device = context.objects.create<MockDevice>(context, flags);
  if (device == nullptr) return -EBUSY;
  uint32_t ptId = arguments.id;
  int error = device->bind();
  if (error == 0) error = device->attach(ptId);
  if (error == 0) {
    arguments.mockDevice.outHwptId = ptId;
    arguments.mockDevice.outStdevId = device->id;
    arguments.mockDevice.outIdevId = device->device().id;
    error = command.respond(sizeof(arguments));
  }
  if (error != 0) {
    context.objects.abort(*device);
    return error;
  }
  ObjectTable::publish(*device);
  return 0;
}

int replaceMockDevice(Command& command, TestCommand& arguments) {
  MockDevice* const device = command.context.objects.find<MockDevice>(arguments.id);
  if (device == nullptr) return -ENOENT;
  uint32_t ptId = arguments.replaceMockDevice.ptId;
  if (const int error = device->attach(ptId); error != 0) return error;
  arguments.replaceMockDevice.ptId = ptId;
  return command.respond(sizeof(arguments));
}

// --- page tables

// Finds a page table of a mock unit: 0, -ENOENT, or -EINVAL if it is another unit's.
int findHwpt(const Command& command, uint32_t id, PagingHwpt*& out) {
  out = command.context.objects.find<PagingHwpt>(id);
  if (out == nullptr) return -ENOENT;
  return isMock(out->unit) ? 0 : -EINVAL;
}

int checkMap(const Command& command, const TestCommand& arguments) {
  auto [iova, length, user] = arguments.checkMap;
  if (iova % kMockPage != 0 || length % kMockPage != 0 || user % kMockPage != 0 || user + length < user) {
    return -EINVAL;
  }
  PagingHwpt* hwpt = nullptr;
  if (const int error = findHwpt(command, arguments.id, hwpt); error != 0) return error;
  PageIdentity identity(command.context.host.memory());
  for (; length != 0; length -= kMockPage, iova += kMockPage, user += kMockPage) {
    if (!PageIdentity::readable(user)) return mm::Memory::pinError(user & ~(mm::pageSize() - 1), 1);
    const auto run = hwpt->domain->translate(iova, kMockPage);
    if (!run || run->size != kMockPage || !identity.same(user, run->user)) return -EINVAL;
  }
  return 0;
}

int checkRefs(const Command& command, const TestCommand& arguments) {
  auto [length, user, refs] = arguments.checkRefs;
  const uint64_t page = mm::pageSize();
  if (length % page != 0 || user % page != 0 || user + length < user) return -EINVAL;
  PageIdentity identity(command.context.host.memory());
  for (; length != 0; length -= page, user += page) {
    if (!PageIdentity::readable(user)) return mm::Memory::pinError(user & ~(mm::pageSize() - 1), 1);
    if (!identity.hasPins(user, refs)) return -EIO;
  }
  return 0;
}

int markDirty(Command& command, TestCommand& arguments) {
  const auto [flags, iova, length, pageSize, user, unused] = arguments.dirty;
  if (pageSize == 0 || length == 0 || iova % pageSize != 0 || length % pageSize != 0 || user == 0) {
    return -EINVAL;
  }
  const uint64_t count = length / pageSize;
  if (count > kMostAtOnce * 8) return -EOVERFLOW;
  PagingHwpt* hwpt = nullptr;
  if (const int error = findHwpt(command, arguments.id, hwpt); error != 0) return error;
  if (!hwpt->domain->dirtyTracking()) return -EINVAL;
  std::vector<uint8_t> bits((count + 7) / 8);
  if (mm::Memory::copyIn(bits.data(), user, bits.size()) != 0) return -EFAULT;
  uint64_t marked = 0;
  for (uint64_t at = 0; at < count; ++at) {
    if ((bits[at / 8] >> at % 8 & 1) == 0) continue;
    // As in the kernel's test: the bit's ordinal number is that of an entry of the table, whatever `pageSize`
    // is.
    const uint64_t entry = (iova + at * pageSize) / pageSize * kMockPage;
    if (!hwpt->domain->translate(entry, 1)) continue;
    hwpt->domain->markDirty(entry, 1);
    ++marked;
  }
  arguments.dirty.outDirty = marked;
  return command.respond(sizeof(arguments));
}

int checkIotlb(const Command& command, const TestCommand& arguments) {
  const auto* const hwpt = command.context.objects.find<iommufd::NestedHwpt>(arguments.id);
  if (hwpt == nullptr) return -ENOENT;
  const auto* const table = dynamic_cast<const MockTable*>(hwpt->table.get());
  if (table == nullptr) return -EINVAL;
  const auto [id, word] = arguments.checkIotlb;
  return id < kIotlbWords && table->iotlb()[id] == word ? 0 : -EINVAL;
}

int triggerIopf(const Command& command, const TestCommand& arguments) {
  const auto [deviceId, pasid, groupId, permission, address] = arguments.triggerIopf;
  const auto* const device = command.context.objects.find<iommufd::Device>(deviceId);
  if (device == nullptr) return -ENOENT;
  if (!isMock(device->endpoint.unit)) return -EINVAL;
  iommu::PageRequest request = {.address = address, .permissions = permission, .group = groupId};
  if (pasid != iommufd::kNoPasid) request.pasid = pasid;
  // The command succeeds also if no fault queue takes it.
  (void)device->endpoint.requests.report(request);
  return 0;
}

// --- accesses

std::shared_ptr<MockAccess> findAccess(const Command& command, uint32_t fd) {
  return std::dynamic_pointer_cast<MockAccess>(command.context.host.file(static_cast<int>(fd)));
}

int createAccess(Command& command, TestCommand& arguments) {
  if ((arguments.createAccess.flags & ~kAccessNeedsPinPages) != 0) return -EOPNOTSUPP;
  Context& context = command.context;
  const bool pins = (arguments.createAccess.flags & kAccessNeedsPinPages) != 0;
  const auto access = MockAccess::make(context.shared_from_this(), pins);
  if (access == nullptr) return -EBUSY;
  if (const int error = access->access().attach(arguments.id); error != 0) return error;
  const int fd = context.host.install(access, FdKind::plain, O_RDWR | O_CLOEXEC);
  if (fd < 0) return -ENOMEM;
  arguments.createAccess.outAccessFd = static_cast<uint32_t>(fd);
  if (const int error = command.respond(sizeof(arguments)); error != 0) {
    context.host.uninstall(fd);
    return error;
  }
  return 0;
}

int replaceAccess(const Command& command, const TestCommand& arguments) {
  const auto access = findAccess(command, arguments.id);
  if (access == nullptr) return -EBADFD;
  return access->access().replace(arguments.replaceAccess.ioasId);
}

int accessPages(Command& command, TestCommand& arguments) {
  const auto& request = arguments.accessPages;
  if (request.length > kMostAtOnce) return -ENOMEM;
  if ((request.flags & ~(kAccessWrite | kNthArea)) != 0) return -EOPNOTSUPP;
  const auto access = findAccess(command, arguments.id);
  if (access == nullptr) return -EBADFD;
  if (!access->pins()) return -EOPNOTSUPP;
  uint64_t iova = request.iova;
  if ((request.flags & kNthArea) != 0) iova = nthAreaIova(access->access().ioas(), iova);
  uint32_t item = 0;
  const bool write = (request.flags & kAccessWrite) != 0;
  if (const int error = access->pin(iova, request.length, request.user, write, item); error != 0) {
    return error;
  }
  arguments.accessPages.outAccessPagesId = item;
  const int error = command.respond(sizeof(arguments));
  if (error != 0) (void)access->giveBack(item);
  return error;
}

int destroyAccessPages(const Command& command, const TestCommand& arguments) {
  const auto access = findAccess(command, arguments.id);
  if (access == nullptr) return -EBADFD;
  return access->giveBack(arguments.destroyAccessPages.accessPagesId);
}

int accessRw(const Command& command, const TestCommand& arguments) {
  const auto& request = arguments.accessRw;
  if (request.length > kMostAtOnce) return -ENOMEM;
  if ((request.flags & ~(kAccessRwWrite | kAccessRwSlowPath | kNthArea)) != 0) return -EOPNOTSUPP;
  const auto access = findAccess(command, arguments.id);
  if (access == nullptr) return -EBADFD;
  const bool write = (request.flags & kAccessRwWrite) != 0;
  const bool slow = (request.flags & kAccessRwSlowPath) != 0;
  std::vector<uint8_t> bytes(request.length);
  if (write && mm::Memory::copyIn(bytes.data(), request.user, bytes.size()) != 0) return -EFAULT;
  uint64_t iova = request.iova;
  if ((request.flags & kNthArea) != 0) iova = nthAreaIova(access->access().ioas(), iova);
  if (const int error = access->access().rw(iova, bytes.data(), bytes.size(), write, slow); error != 0)
    return error;
  return write ? 0 : mm::Memory::copyOut(request.user, bytes.data(), bytes.size());
}

// Limits the memory that the kernel itself uses at once. The software host needs no such limit: it only
// checks the value.
int setMemoryLimit(const TestCommand& arguments) {
  return arguments.memoryLimit.limit < sizeof(uint64_t) + sizeof(uint32_t) ? -EINVAL : 0;
}

int testCommand(Command& command) {
  auto& arguments = command.as<TestCommand>();
  switch (arguments.op) {
    case kAddReserved:
      return addReserved(command, arguments);
    case kMockDevice:
    case kMockDeviceFlags:
      return mockDevice(command, arguments);
    case kReplaceMockDevice:
      return replaceMockDevice(command, arguments);
    case kCheckMap:
      return checkMap(command, arguments);
    case kCheckRefs:
      return checkRefs(command, arguments);
    case kCreateAccess:
      return createAccess(command, arguments);
    case kReplaceAccess:
      return replaceAccess(command, arguments);
    case kAccessPages:
      return accessPages(command, arguments);
    case kDestroyAccessPages:
      return destroyAccessPages(command, arguments);
    case kAccessRw:
      return accessRw(command, arguments);
    case kSetMemoryLimit:
      return setMemoryLimit(arguments);
    case kDirty:
      return markDirty(command, arguments);
    case kCheckIotlb:
      return checkIotlb(command, arguments);
    case kTriggerIopf:
      return triggerIopf(command, arguments);
    default:
      return -EOPNOTSUPP;
  }
}

}  // namespace

const iommufd::TestHooks& hooks() {
  static constexpr iommufd::TestHooks added = {testCommand, convertIova};
  return added;
}

}  // namespace vfio::soft::selftest
