// The commands on address spaces that came with Linux 6.13 and later: memory by file instead of by address,
// handing it over to another process, and asking for its physical address.
#include <fcntl.h>
#include <sys/vfs.h>

#include <cerrno>

#include "../../uapi/iommufd.h"
#include "../core/services.h"
#include "command.h"

namespace vfio::soft::iommufd {
namespace {

bool isOpen(int fd) {
  const int flags = fcntl(fd, F_GETFL);
  return flags >= 0 && (flags & O_PATH) == 0;
}

bool isDmaBuf(int fd) {
  constexpr uint32_t kDmaBuf = 0x444d4142;  // the type of their file system: "DMAB"
  struct statfs system = {};
  return fstatfs(fd, &system) == 0 && static_cast<uint32_t>(system.f_type) == kDmaBuf;
}

}  // namespace

int ioasMapFile(Command& command) {
  auto& arguments = command.as<uapi::iommu_ioas_map_file>();
  if ((arguments.flags & ~kMapFlags) != 0) return -EOPNOTSUPP;
  if (arguments.iova == UINT64_MAX || arguments.length == UINT64_MAX) return -EOVERFLOW;
  if ((arguments.flags & kAccessFlags) == 0) return -EINVAL;
  Context& context = command.context;
  Ioas* const ioas = context.objects.find<Ioas>(arguments.ioas_id);
  if (ioas == nullptr) return -ENOENT;

  // Since the kernel accepts dma-bufs, it checks the descriptor last.
  const bool takesDmaBufs = context.host.since(6, 19);
  if (takesDmaBufs) {
    if (arguments.length == 0) return -EINVAL;
    if (arguments.start + (arguments.length - 1) < arguments.start) return -EOVERFLOW;
  }
  if (!isOpen(arguments.fd)) return -EBADF;
  // Only dma-bufs of VFIO devices can be mapped, and no device here exports any.
  if (takesDmaBufs && isDmaBuf(arguments.fd)) return -EOPNOTSUPP;

  const uint32_t access = accessOf(arguments.flags);
  Pages* pages = nullptr;
  if (const int error = Pages::makeFile(arguments.fd, arguments.start, arguments.length,
                                        (access & iommu::kWrite) != 0, payerOf(context), pages);
      error != 0) {
    return error;
  }
  const bool fixed = (arguments.flags & uapi::IOMMU_IOAS_MAP_FIXED_IOVA) != 0;
  uint64_t iova = arguments.iova;
  if (const int error = mapPages(ioas->table, *pages, pages->user() + arguments.start % mm::pageSize(),
                                 arguments.length, access, fixed, iova);
      error != 0) {
    return error;
  }
  arguments.iova = iova;
  return command.respond(sizeof(arguments));
}

// Hands all file mappings over to the caller's process. Here they belong to that process already. So only
// the check is left that refuses memory that was mapped by address.
int ioasChangeProcess(Command& command) {
  if (command.as<uapi::iommu_ioas_change_process>().__reserved != 0) return -EOPNOTSUPP;
  const bool all = command.context.objects.forEach([](Object& object) {
    return object.kind != Ioas::kKind || static_cast<Ioas&>(object).table.allOfFiles();
  });
  return all ? 0 : -EINVAL;
}

// Addresses are given away for devices without an IOMMU only, and none of these uses an address space here.
int ioasNoiommuGetPa(Command& command) {
  const auto& arguments = command.as<uapi::iommu_ioas_noiommu_get_pa>();
  if (!command.context.host.mayDoRawIo()) return -EPERM;
  if (arguments.flags != 0 || arguments.__reserved != 0) return -EOPNOTSUPP;
  if (arguments.iova == UINT64_MAX) return -EOVERFLOW;
  if (arguments.length == 0) return -EINVAL;
  const Ioas* const ioas = command.context.objects.find<Ioas>(arguments.ioas_id);
  if (ioas == nullptr) return -ENOENT;
  return ioas->table.mapped(arguments.iova) ? -EOPNOTSUPP : -ENOENT;
}

}  // namespace vfio::soft::iommufd
