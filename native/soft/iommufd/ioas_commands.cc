// The commands on address spaces. Each does its argument checks in the kernel's order and leaves the rest to
// IoPagetable.
#include <linux/capability.h>

#include <cerrno>
#include <vector>

#include "../../uapi/iommufd.h"
#include "../core/capable.h"
#include "../core/services.h"
#include "../mm/memory.h"
#include "command.h"

namespace vfio::soft::iommufd {
mm::Payer payerOf(const Context& context) { return capable(CAP_IPC_LOCK) ? mm::Payer::none : context.payer; }

int mapPages(IoPagetable& table, Pages& pages, uint64_t user, uint64_t length, uint32_t access, bool fixed,
             uint64_t& iova) {
  IoPagetable::Piece piece = {&pages, user, length};
  return table.mapPieces({&piece, 1}, length, access, fixed, iova);
}

int mapUser(Context& context, IoPagetable& table, uint64_t user, uint64_t length, uint32_t access, bool fixed,
            uint64_t& iova) {
  // Until then an impossible length was noticed first.
  if (context.host.since(6, 13) && user + length < user) return -EOVERFLOW;
  Pages* pages = nullptr;
  const bool writable = (access & iommu::kWrite) != 0;
  if (const int error = Pages::make(user, length, writable, payerOf(context), pages); error != 0)
    return error;
  return mapPages(table, *pages, user, length, access, fixed, iova);
}

int ioasAlloc(Command& command) {
  auto& arguments = command.as<uapi::iommu_ioas_alloc>();
  if (arguments.flags != 0) return -EOPNOTSUPP;
  Context& context = command.context;
  Ioas* const ioas = context.objects.create<Ioas>(context.host.memory());
  if (ioas == nullptr) return -EBUSY;
  arguments.out_ioas_id = ioas->id;
  if (const int error = command.respond(sizeof(arguments)); error != 0) {
    context.objects.abort(*ioas);
    return error;
  }
  ObjectTable::publish(*ioas);
  return 0;
}

int ioasIovaRanges(Command& command) {
  auto& arguments = command.as<uapi::iommu_ioas_iova_ranges>();
  if (arguments.__reserved != 0) return -EOPNOTSUPP;
  const Ioas* const ioas = command.context.objects.find<Ioas>(arguments.ioas_id);
  if (ioas == nullptr) return -ENOENT;

  const uint32_t slots = arguments.num_iovas;
  uint32_t count = 0;
  const bool failed = ioas->table.forUsable([&](uint64_t start, uint64_t last) {
    const uapi::iommu_iova_range range = {start, last};
    const UserAddress slot = arguments.allowed_iovas + uint64_t{count} * sizeof(range);
    if (count < slots && mm::Memory::copyOut(slot, &range, sizeof(range)) != 0) return true;
    ++count;
    return false;
  });
  if (failed) return -EFAULT;
  arguments.num_iovas = count;
  arguments.out_iova_alignment = ioas->table.alignment();
  if (const int error = command.respond(sizeof(arguments)); error != 0) return error;
  return count > slots ? -EMSGSIZE : 0;
}

int ioasAllowIovas(Command& command) {
  const auto& arguments = command.as<uapi::iommu_ioas_allow_iovas>();
  if (arguments.__reserved != 0) return -EOPNOTSUPP;
  Ioas* const ioas = command.context.objects.find<Ioas>(arguments.ioas_id);
  if (ioas == nullptr) return -ENOENT;

  IoPagetable::Allowed fresh;
  for (uint32_t at = 0; at < arguments.num_iovas; ++at) {
    uapi::iommu_iova_range range = {};
    const UserAddress entry = arguments.allowed_iovas + uint64_t{at} * sizeof(range);
    if (mm::Memory::copyIn(&range, entry, sizeof(range)) != 0) return -EFAULT;
    // A range of one byte is refused too.
    if (range.start >= range.last) return -EINVAL;
    if (fresh.find(range.start, range.last) != nullptr) return -EINVAL;
    fresh.insert(range.start, range.last, {});
  }
  return ioas->table.setAllowed(fresh);
}

int ioasMap(Command& command) {
  auto& arguments = command.as<uapi::iommu_ioas_map>();
  if ((arguments.flags & ~kMapFlags) != 0 || arguments.__reserved != 0) return -EOPNOTSUPP;
  if (arguments.iova == UINT64_MAX || arguments.length == UINT64_MAX) return -EOVERFLOW;
  if ((arguments.flags & kAccessFlags) == 0) return -EINVAL;
  Ioas* const ioas = command.context.objects.find<Ioas>(arguments.ioas_id);
  if (ioas == nullptr) return -ENOENT;

  const bool fixed = (arguments.flags & uapi::IOMMU_IOAS_MAP_FIXED_IOVA) != 0;
  uint64_t iova = arguments.iova;
  if (const int error = mapUser(command.context, ioas->table, arguments.user_va, arguments.length,
                                accessOf(arguments.flags), fixed, iova);
      error != 0) {
    return error;
  }
  arguments.iova = iova;
  return command.respond(sizeof(arguments));  // the mapping stays, also when this fails
}

int ioasCopy(Command& command) {
  auto& arguments = command.as<uapi::iommu_ioas_copy>();
  if (const TestHooks* const hooks = command.context.hooks; hooks != nullptr) {
    hooks->convertIova(command.context, arguments.src_ioas_id, arguments.src_iova, arguments.flags);
  }
  if ((arguments.flags & ~kMapFlags) != 0) return -EOPNOTSUPP;
  if (arguments.length == UINT64_MAX || arguments.src_iova == UINT64_MAX ||
      arguments.dst_iova == UINT64_MAX) {
    return -EOVERFLOW;
  }
  if ((arguments.flags & kAccessFlags) == 0) return -EINVAL;
  ObjectTable& objects = command.context.objects;
  const Ioas* const source = objects.find<Ioas>(arguments.src_ioas_id);
  if (source == nullptr) return -ENOENT;
  std::vector<IoPagetable::Piece> pieces;
  if (const int error = source->table.gather(arguments.src_iova, arguments.length, pieces); error != 0) {
    return error;
  }
  Ioas* const target = objects.find<Ioas>(arguments.dst_ioas_id);
  if (target == nullptr) {
    for (const IoPagetable::Piece& piece : pieces) piece.pages->unref();
    return -ENOENT;
  }

  const bool fixed = (arguments.flags & uapi::IOMMU_IOAS_MAP_FIXED_IOVA) != 0;
  uint64_t iova = arguments.dst_iova;
  if (const int error =
          target->table.mapPieces(pieces, arguments.length, accessOf(arguments.flags), fixed, iova);
      error != 0) {
    return error;
  }
  arguments.dst_iova = iova;
  return command.respond(sizeof(arguments));
}

int ioasUnmap(Command& command) {
  auto& arguments = command.as<uapi::iommu_ioas_unmap>();
  Ioas* const ioas = command.context.objects.find<Ioas>(arguments.ioas_id);
  if (ioas == nullptr) return -ENOENT;

  uint64_t unmapped = 0;
  if (arguments.iova == 0 && arguments.length == UINT64_MAX) {
    if (const int error = ioas->table.unmapAll(unmapped); error != 0) return error;
  } else {
    if (arguments.iova == UINT64_MAX || arguments.length == UINT64_MAX) return -EOVERFLOW;
    if (const int error = ioas->table.unmap(arguments.iova, arguments.length, unmapped); error != 0) {
      return error;
    }
    if (unmapped == 0) return -ENOENT;
  }
  arguments.length = unmapped;
  return command.respond(sizeof(arguments));
}

}  // namespace vfio::soft::iommufd
