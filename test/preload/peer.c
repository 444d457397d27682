// Maps memory of one device for another device, which only type1 supports. With the kernel's own header.
#include <linux/capability.h>
#include <linux/vfio.h>
#include <sys/resource.h>
#include <sys/syscall.h>

#include "driver.h"

#define MEMORY_BAR 2

static int open_device(int container, const char *bdf) {
  take(bdf);
  int group = open_group(bdf);
  if (group < 0) fail("the group");
  if (ioctl(group, VFIO_GROUP_SET_CONTAINER, &container)) fail("SET_CONTAINER");
  if (ioctl(container, VFIO_SET_IOMMU, VFIO_TYPE1v2_IOMMU) && errno != EINVAL) fail("SET_IOMMU");
  int device = ioctl(group, VFIO_GROUP_GET_DEVICE_FD, bdf);
  if (device < 0) fail("GET_DEVICE_FD");
  struct vfio_region_info config = {.argsz = sizeof config, .index = VFIO_PCI_CONFIG_REGION_INDEX};
  if (ioctl(device, VFIO_DEVICE_GET_REGION_INFO, &config)) fail("region info");
  uint16_t command = 6;
  if (pwrite(device, &command, 2, (off_t)(config.offset + 4)) != 2) fail("config write");
  return device;
}

static uint8_t *map_bar(int device, unsigned index, uint64_t *size) {
  struct vfio_region_info bar = {.argsz = sizeof bar, .index = index};
  if (ioctl(device, VFIO_DEVICE_GET_REGION_INFO, &bar)) fail("region info");
  *size = bar.size;
  uint8_t *memory = mmap(NULL, bar.size, PROT_READ | PROT_WRITE, MAP_SHARED, device, (off_t)bar.offset);
  if (memory == MAP_FAILED) fail("mmap");
  return memory;
}

static int map_dma(int container, void *memory, uint64_t iova, uint64_t size) {
  struct vfio_iommu_type1_dma_map map = {.argsz = sizeof map,
                                         .flags = VFIO_DMA_MAP_FLAG_READ | VFIO_DMA_MAP_FLAG_WRITE,
                                         .vaddr = (uintptr_t)memory,
                                         .iova = iova,
                                         .size = size};
  errno = 0;
  return ioctl(container, VFIO_IOMMU_MAP_DMA, &map);
}

// From now on the process may pin only this much memory for devices.
static void limit_memory(uint64_t bytes) {
  struct rlimit limit = {bytes, bytes};
  if (setrlimit(RLIMIT_MEMLOCK, &limit)) fail("setrlimit");
  struct __user_cap_header_struct header = {_LINUX_CAPABILITY_VERSION_3, 0};
  struct __user_cap_data_struct data[2];
  if (syscall(SYS_capget, &header, data)) fail("capget");
  data[0].effective &= ~(1U << CAP_IPC_LOCK);
  if (syscall(SYS_capset, &header, data)) fail("capset");
}

int main(int count, char **arguments) {
  if (count != 3) return 2;
  int container = open("/dev/vfio/vfio", O_RDWR);
  if (container < 0) fail("a container");
  int mover = open_device(container, arguments[1]);
  int keeper = open_device(container, arguments[2]);
  struct edu edu = {.device = mover};
  edu.regs = (void *)map_bar(mover, 0, &edu.size);
  uint64_t size;
  uint8_t *bar = map_bar(keeper, MEMORY_BAR, &size);
  uint8_t *own = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

  limit_memory(8 * 4096);
  claim("memory of the program is paid for", map_dma(container, own, 0x1000000, size) < 0 && errno == ENOMEM);
  claim("memory of a device is mapped, and free", map_dma(container, bar, 0x1000000, size) == 0);
  claim("... beside what is paid for", map_dma(container, own, 0x2000000, 8 * 4096) == 0);

  for (int i = 0; i < 1024; i++) own[i] = (uint8_t)(i * 5 + 1);
  dma(&edu, 0x2000000, 0x40000, 1024, 0);
  wait_idle(&edu);
  dma(&edu, 0x40000, 0x1003000, 1024, 2);
  wait_idle(&edu);
  claim("one device writes to the other", memcmp(bar + 0x3000, own, 1024) == 0);
  struct vfio_iommu_type1_dma_unmap unmap = {.argsz = sizeof unmap, .iova = 0x1000000, .size = size};
  claim("it is unmapped whole", ioctl(container, VFIO_IOMMU_UNMAP_DMA, &unmap) == 0 && unmap.size == size);
  unmap = (struct vfio_iommu_type1_dma_unmap){.argsz = sizeof unmap, .iova = 0x2000000, .size = 8 * 4096};
  if (ioctl(container, VFIO_IOMMU_UNMAP_DMA, &unmap)) fail("UNMAP_DMA");
  claim("what was free gave nothing back", map_dma(container, own, 0x3000000, 9 * 4096) < 0 && errno == ENOMEM);
  claim("... and took nothing", map_dma(container, own, 0x3000000, 8 * 4096) == 0);
  return 0;
}
