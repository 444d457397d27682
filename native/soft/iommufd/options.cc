// IOMMU_OPTION and IOMMU_VFIO_IOAS: the options per file and per address space, and which address space the
// VFIO container requests mean.
#include <linux/capability.h>

#include <cerrno>
#include <cstddef>

#include "../../uapi/iommufd.h"
#include "../core/capable.h"
#include "../mm/memory.h"
#include "command.h"

namespace vfio::soft::iommufd {
namespace {

int rlimitMode(uapi::iommu_option& arguments, Context& context) {
  if (arguments.object_id != 0) return -EOPNOTSUPP;
  if (arguments.op == uapi::IOMMU_OPTION_OP_GET) {
    arguments.val64 = context.payer == mm::Payer::mm ? 1 : 0;
    return 0;
  }
  if (arguments.op != uapi::IOMMU_OPTION_OP_SET) return -EOPNOTSUPP;
  if (!capable(CAP_SYS_RESOURCE)) return -EPERM;
  if (!context.objects.empty()) return -EBUSY;
  if (arguments.val64 > 1) return -EINVAL;
  context.payer = arguments.val64 == 1 ? mm::Payer::mm : mm::Payer::user;
  return 0;
}

int hugePages(uapi::iommu_option& arguments, Context& context) {
  Ioas* const ioas = context.objects.find<Ioas>(arguments.object_id);
  if (ioas == nullptr) return -ENOENT;
  if (arguments.op == uapi::IOMMU_OPTION_OP_GET) {
    arguments.val64 = ioas->table.hugePages() ? 1 : 0;
    return 0;
  }
  if (arguments.op != uapi::IOMMU_OPTION_OP_SET) return -EOPNOTSUPP;
  if (arguments.val64 == 0) return ioas->table.disableHugePages();
  if (arguments.val64 != 1) return -EINVAL;
  ioas->table.enableHugePages();
  return 0;
}

}  // namespace

int option(Command& command) {
  auto& arguments = command.as<uapi::iommu_option>();
  if (arguments.__reserved != 0) return -EOPNOTSUPP;
  int error = -EOPNOTSUPP;
  if (arguments.option_id == uapi::IOMMU_OPTION_RLIMIT_MODE) error = rlimitMode(arguments, command.context);
  if (arguments.option_id == uapi::IOMMU_OPTION_HUGE_PAGES) error = hugePages(arguments, command.context);
  if (error != 0) return error;
  return mm::Memory::copyOut(command.user + offsetof(uapi::iommu_option, val64), &arguments.val64,
                             sizeof(arguments.val64));
}

int vfioIoas(Command& command) {
  auto& arguments = command.as<uapi::iommu_vfio_ioas>();
  if (arguments.__reserved != 0) return -EOPNOTSUPP;
  Context& context = command.context;
  switch (arguments.op) {
    case uapi::IOMMU_VFIO_IOAS_GET:
      if (context.vfioIoas == nullptr) return -ENODEV;
      arguments.ioas_id = context.vfioIoas->id;
      return command.respond(sizeof(arguments));
    case uapi::IOMMU_VFIO_IOAS_SET: {
      Ioas* const ioas = context.objects.find<Ioas>(arguments.ioas_id);
      if (ioas == nullptr) return -ENOENT;
      context.vfioIoas = ioas;
      return 0;
    }
    case uapi::IOMMU_VFIO_IOAS_CLEAR:
      context.vfioIoas = nullptr;
      return 0;
    default:
      return -EOPNOTSUPP;
  }
}

}  // namespace vfio::soft::iommufd
