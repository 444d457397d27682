// What a session tells about its device: regions, interrupts, and what can be done with them. See session.h.
#include <cerrno>

#include "../../uapi/vfio.h"
#include "../pci/function.h"
#include "../pci/registers.h"
#include "session.h"

namespace vfio::soft::cdev {

using namespace uapi;

namespace {

constexpr uint64_t pageSize = 4096;

}  // namespace

uint64_t Session::regionSize(unsigned index) const {
  if (index == VFIO_PCI_CONFIG_REGION_INDEX) return function_.config.size();
  return index <= VFIO_PCI_BAR5_REGION_INDEX ? function_.resources[index].size : 0;
}

bool Session::mappable(unsigned index) const {
  if (index > VFIO_PCI_BAR5_REGION_INDEX) return false;
  const auto& resource = function_.resources[index];
  // A BAR smaller than a page could share its page with another device's registers.
  const bool memory =
      resource.kind == devices::BarKind::memory32 || resource.kind == devices::BarKind::memory64;
  return memory && function_.description().bars[index].mappable && resource.address != 0 &&
         (resource.size >= pageSize || resource.address % pageSize == 0);
}

Session::Info Session::info() const {
  return {.flags = VFIO_DEVICE_FLAGS_PCI | (resetWorks_ ? VFIO_DEVICE_FLAGS_RESET : 0),
          .regions = VFIO_PCI_NUM_REGIONS,
          .irqs = VFIO_PCI_NUM_IRQS};
}

int Session::regionInfo(uint32_t index, RegionInfo& out) const {
  // There is no VGA region, and no region of the device's own.
  if (index > VFIO_PCI_CONFIG_REGION_INDEX) return -EINVAL;
  out = {.flags = 0, .size = regionSize(index), .msixMappable = false, .areas = {}};
  if (out.size == 0) return 0;
  out.flags = VFIO_REGION_INFO_FLAG_READ | VFIO_REGION_INFO_FLAG_WRITE;
  if (!mappable(index)) return 0;
  out.flags |= VFIO_REGION_INFO_FLAG_MMAP;
  const auto& description = function_.description();
  for (const auto& area : description.bars[index].areas) {
    if (area.size != 0) out.areas.push_back({area.offset, area.size});
  }
  const auto& msix = description.msix;
  out.msixMappable = msix.vectors != 0 && msix.bar == index && out.areas.empty();
  return 0;
}

int Session::irqInfo(uint32_t index, IrqInfo& out) const {
  if (index >= VFIO_PCI_NUM_IRQS) return -EINVAL;
  out = {.flags = VFIO_IRQ_INFO_EVENTFD, .count = interrupts_.count(index, config_.interruptPin())};
  if (index == VFIO_PCI_ERR_IRQ_INDEX && out.count == 0) return -EINVAL;  // not PCI Express
  if (index == VFIO_PCI_INTX_IRQ_INDEX) {
    out.flags |= VFIO_IRQ_INFO_MASKABLE | VFIO_IRQ_INFO_AUTOMASKED;
  } else if (index != VFIO_PCI_MSIX_IRQ_INDEX || out.count == 0) {
    // MSI-X vectors can be added while others are in use.
    out.flags |= VFIO_IRQ_INFO_NORESIZE;
  }
  return 0;
}

}  // namespace vfio::soft::cdev
