// A driver that uses the older interface: the group's file and a container, with the kernel's own header.
#include <linux/vfio.h>

#include "driver.h"

int main(int count, char **arguments) {
  const char *bdf = count > 1 ? arguments[1] : "0000:00:10.0";
  take(bdf);
  int container = open("/dev/vfio/vfio", O_RDWR);
  claim("a container", container >= 0 && ioctl(container, VFIO_GET_API_VERSION) == VFIO_API_VERSION);
  int group = open_group(bdf);
  if (group < 0) fail("the group");
  errno = 0;
  claim("its file is open once", open_group(bdf) < 0 && errno == EBUSY);
  struct vfio_group_status status = {.argsz = sizeof status};
  claim("the group is viable",
        ioctl(group, VFIO_GROUP_GET_STATUS, &status) == 0 && status.flags == VFIO_GROUP_FLAGS_VIABLE);
  if (ioctl(group, VFIO_GROUP_SET_CONTAINER, &container)) fail("SET_CONTAINER");
  if (ioctl(container, VFIO_SET_IOMMU, VFIO_TYPE1v2_IOMMU)) fail("SET_IOMMU");
  int device = ioctl(group, VFIO_GROUP_GET_DEVICE_FD, bdf);
  if (device < 0) fail("GET_DEVICE_FD");
  claim("the device's descriptor is closed by exec", fcntl(device, F_GETFD) == FD_CLOEXEC);

  struct vfio_region_info bar = {.argsz = sizeof bar, .index = VFIO_PCI_BAR0_REGION_INDEX};
  if (ioctl(device, VFIO_DEVICE_GET_REGION_INFO, &bar)) fail("region info");
  struct edu edu = {.device = device, .size = bar.size};
  edu.regs = mmap(NULL, bar.size, PROT_READ | PROT_WRITE, MAP_SHARED, device, (off_t)bar.offset);
  if (edu.regs == MAP_FAILED) fail("mmap");
  claim("its registers by plain loads", edu.regs[0] == 0x010000ed);
  struct vfio_region_info config = {.argsz = sizeof config, .index = VFIO_PCI_CONFIG_REGION_INDEX};
  if (ioctl(device, VFIO_DEVICE_GET_REGION_INFO, &config)) fail("region info");
  uint16_t command = 6;
  if (pwrite(device, &command, 2, (off_t)(config.offset + 4)) != 2) fail("config write");

  uint8_t *memory = mmap(NULL, 8192, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  for (int i = 0; i < 4096; i++) memory[i] = (uint8_t)(i * 7);
  struct vfio_iommu_type1_dma_map map = {.argsz = sizeof map,
                                         .flags = VFIO_DMA_MAP_FLAG_READ | VFIO_DMA_MAP_FLAG_WRITE,
                                         .vaddr = (uintptr_t)memory,
                                         .iova = 0x100000,
                                         .size = 8192};
  if (ioctl(container, VFIO_IOMMU_MAP_DMA, &map)) fail("MAP_DMA");
  dma(&edu, 0x100000, 0x40000, 2048, 0);
  wait_idle(&edu);
  dma(&edu, 0x40000, 0x101000, 2048, 2);
  wait_idle(&edu);
  claim("DMA there and back", memcmp(memory, memory + 4096, 2048) == 0);

  close(group);
  errno = 0;
  claim("the device keeps its group open", open_group(bdf) < 0 && errno == EBUSY);
  munmap((void *)edu.regs, edu.size);
  close(device);
  group = open_group(bdf);
  claim("... until it is closed", group >= 0);
  close(group);
  close(container);
  return 0;
}
