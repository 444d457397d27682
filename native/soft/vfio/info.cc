// What a device has: GET_INFO, GET_REGION_INFO, GET_IRQ_INFO.
#include <cstddef>

#include "../../uapi/vfio.h"
#include "../mm/memory.h"
#include "../pci/function.h"
#include "../pci/registers.h"
#include "session.h"

namespace vfio::soft::cdev {

using namespace uapi;

namespace {

constexpr unsigned offsetShift = 40;  // as vfio-pci does; programs must not rely on it
constexpr uint64_t pageSize = 4096;

}  // namespace

uint64_t Session::regionSize(unsigned index) const {
  if (index == VFIO_PCI_CONFIG_REGION_INDEX) return function_.config.size();
  return index <= VFIO_PCI_BAR5_REGION_INDEX ? function_.resources[index].size : 0;
}

bool Session::mappable(unsigned index) const {
  if (index > VFIO_PCI_BAR5_REGION_INDEX) return false;
  const auto& resource = function_.resources[index];
  // Smaller ones could share their page with another device's registers.
  const bool memory =
      resource.kind == devices::BarKind::memory32 || resource.kind == devices::BarKind::memory64;
  return memory && resource.address != 0 && (resource.size >= pageSize || resource.address % pageSize == 0);
}

int Session::getInfo(UserAddress argument) {
  vfio_device_info info{};
  if (mm::Memory::copyIn(&info, argument, vfio_device_info_min) != 0) return -EFAULT;
  if (info.argsz < vfio_device_info_min) return -EINVAL;
  const size_t size = std::min<size_t>(info.argsz, sizeof info);
  info.flags = VFIO_DEVICE_FLAGS_PCI | (resetWorks_ ? VFIO_DEVICE_FLAGS_RESET : 0);
  info.num_regions = VFIO_PCI_NUM_REGIONS;
  info.num_irqs = VFIO_PCI_NUM_IRQS;
  return mm::Memory::copyOut(argument, &info, size) != 0 ? -EFAULT : 0;
}

int Session::getRegionInfo(UserAddress argument) {
  vfio_region_info info{};
  if (mm::Memory::copyIn(&info, argument, sizeof info) != 0) return -EFAULT;
  if (info.argsz < sizeof info) return -EINVAL;
  // No VGA, no regions of the device's own.
  if (info.index > VFIO_PCI_CONFIG_REGION_INDEX) return -EINVAL;
  info.offset = uint64_t{info.index} << offsetShift;
  info.size = regionSize(info.index);
  info.flags = info.size == 0 ? 0 : VFIO_REGION_INFO_FLAG_READ | VFIO_REGION_INFO_FLAG_WRITE;
  const auto& msix = function_.description().msix;
  if (info.size != 0 && mappable(info.index)) {
    info.flags |= VFIO_REGION_INFO_FLAG_MMAP;
    if (msix.vectors != 0 && msix.bar == info.index) {
      info.flags |= VFIO_REGION_INFO_FLAG_CAPS;
      const vfio_info_cap_header header{VFIO_REGION_INFO_CAP_MSIX_MAPPABLE, 1, 0};
      if (info.argsz < sizeof info + sizeof header) {
        info.argsz = sizeof info + sizeof header;
        info.cap_offset = 0;
      } else {
        if (mm::Memory::copyOut(argument + sizeof info, &header, sizeof header) != 0) return -EFAULT;
        info.cap_offset = sizeof info;
      }
    }
  }
  return mm::Memory::copyOut(argument, &info, sizeof info) != 0 ? -EFAULT : 0;
}

int Session::getIrqInfo(UserAddress argument) {
  vfio_irq_info info{};
  if (mm::Memory::copyIn(&info, argument, sizeof info) != 0) return -EFAULT;
  if (info.argsz < sizeof info || info.index >= VFIO_PCI_NUM_IRQS) return -EINVAL;
  info.count = interrupts_.count(info.index, config_.interruptPin());
  if (info.index == VFIO_PCI_ERR_IRQ_INDEX && info.count == 0) return -EINVAL;  // not PCI Express
  info.flags = VFIO_IRQ_INFO_EVENTFD;
  if (info.index == VFIO_PCI_INTX_IRQ_INDEX) {
    info.flags |= VFIO_IRQ_INFO_MASKABLE | VFIO_IRQ_INFO_AUTOMASKED;
  } else if (info.index != VFIO_PCI_MSIX_IRQ_INDEX || info.count == 0) {
    // MSI-X vectors can be added while others are in use.
    info.flags |= VFIO_IRQ_INFO_NORESIZE;
  }
  return mm::Memory::copyOut(argument, &info, sizeof info) != 0 ? -EFAULT : 0;
}

}  // namespace vfio::soft::cdev
