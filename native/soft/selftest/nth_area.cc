#include "nth_area.h"

#include "../iommufd/context.h"
#include "test_command.h"

namespace vfio::soft::selftest {

uint64_t nthAreaIova(const iommufd::Ioas* ioas, uint64_t packed) {
  if (ioas == nullptr) return 0;
  const auto area = ioas->table.nthArea(static_cast<uint32_t>(packed));
  return area ? *area + (packed >> 32) : 0;
}

void convertIova(const iommufd::Context& context, uint32_t ioasId, uint64_t& iova, uint32_t& flags) {
  if ((flags & kNthArea) == 0) return;
  flags &= ~kNthArea;
  if (const auto* const ioas = context.objects.find<iommufd::Ioas>(ioasId)) iova = nthAreaIova(ioas, iova);
}

}  // namespace vfio::soft::selftest
