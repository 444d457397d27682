// Shared code of the programs in this folder: the calls of VFIO and iommufd as a C program makes them, and
// the steps of a driver for the edu device. The structs are those of <linux/vfio.h> and <linux/iommufd.h>,
// whose version on the machine that compiles this may be too old.
#pragma once

#define _GNU_SOURCE
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

struct ioas_alloc {
  uint32_t size, flags, out_ioas_id;
};
struct ioas_map {
  uint32_t size, flags, ioas_id, reserved;
  uint64_t user_va, length, iova;
};
struct ioas_unmap {
  uint32_t size, ioas_id;
  uint64_t iova, length;
};
struct bind_iommufd {
  uint32_t argsz, flags;
  int32_t iommufd;
  uint32_t out_devid;
};
struct attach_pt {
  uint32_t argsz, flags, pt_id;
};
struct device_info {
  uint32_t argsz, flags, num_regions, num_irqs, cap_offset;
};
struct region_info {
  uint32_t argsz, flags, index, cap_offset;
  uint64_t size, offset;
};
struct irq_set {
  uint32_t argsz, flags, index, start, count;
  int32_t fds[1];
};

#define IOAS_ALLOC 0x3b81
#define IOAS_MAP 0x3b85
#define IOAS_UNMAP 0x3b86
#define DEVICE_GET_INFO 0x3b6b
#define DEVICE_GET_REGION_INFO 0x3b6c
#define DEVICE_SET_IRQS 0x3b6e
#define DEVICE_BIND_IOMMUFD 0x3b76
#define DEVICE_ATTACH_PT 0x3b77
#define MAP_FIXED_READ_WRITE 7
#define IRQ_EVENTFD_TRIGGER 0x24
#define IRQ_MSI 1
#define REGION_BAR0 0
#define REGION_CONFIG 7

static inline void fail(const char *what) {
  printf("FAIL %s: %s\n", what, strerror(errno));
  fflush(stdout);
  exit(1);
}

static inline int claim(const char *what, int holds) {
  printf("%s %s\n", holds ? "ok" : "FAIL", what);
  fflush(stdout);
  return holds;
}

static inline void write_file(const char *path, const char *text) {
  int fd = open(path, O_WRONLY);
  if (fd < 0) fail(path);
  if (write(fd, text, strlen(text)) != (ssize_t)strlen(text)) fail(path);
  close(fd);
}

// Binds a device to vfio-pci and returns the path of its file.
static inline const char *take(const char *bdf) {
  static char path[512];
  char name[256];
  snprintf(name, sizeof name, "/sys/bus/pci/devices/%s/driver_override", bdf);
  write_file(name, "vfio-pci");
  write_file("/sys/bus/pci/drivers_probe", bdf);
  snprintf(name, sizeof name, "/sys/bus/pci/devices/%s/vfio-dev", bdf);
  DIR *directory = opendir(name);
  if (!directory) fail(name);
  for (struct dirent *entry; (entry = readdir(directory));)
    if (entry->d_name[0] != '.') snprintf(path, sizeof path, "/dev/vfio/devices/%s", entry->d_name);
  closedir(directory);
  return path;
}

struct edu {
  int iommu, device;
  uint32_t ioas;
  uint64_t config;          // offset of config space in the device file
  volatile uint32_t *regs;  // BAR0
  size_t size;
};

static inline struct edu open_edu(const char *bdf) {
  struct edu edu = {0};
  edu.device = open(take(bdf), O_RDWR);
  if (edu.device < 0) fail("open of the device");
  edu.iommu = open("/dev/iommu", O_RDWR);
  if (edu.iommu < 0) fail("/dev/iommu");
  struct bind_iommufd bind = {.argsz = sizeof bind, .iommufd = edu.iommu};
  if (ioctl(edu.device, DEVICE_BIND_IOMMUFD, &bind)) fail("bind");
  struct ioas_alloc alloc = {.size = sizeof alloc};
  if (ioctl(edu.iommu, IOAS_ALLOC, &alloc)) fail("IOAS_ALLOC");
  edu.ioas = alloc.out_ioas_id;
  struct attach_pt attach = {.argsz = sizeof attach, .pt_id = alloc.out_ioas_id};
  if (ioctl(edu.device, DEVICE_ATTACH_PT, &attach)) fail("attach");
  struct region_info config = {.argsz = sizeof config, .index = REGION_CONFIG};
  if (ioctl(edu.device, DEVICE_GET_REGION_INFO, &config)) fail("region info");
  edu.config = config.offset;
  uint16_t command;
  if (pread(edu.device, &command, 2, (off_t)(config.offset + 4)) != 2) fail("config read");
  command |= 6;
  if (pwrite(edu.device, &command, 2, (off_t)(config.offset + 4)) != 2) fail("config write");
  struct region_info bar = {.argsz = sizeof bar, .index = REGION_BAR0};
  if (ioctl(edu.device, DEVICE_GET_REGION_INFO, &bar)) fail("region info");
  edu.size = bar.size;
  edu.regs = mmap(NULL, bar.size, PROT_READ | PROT_WRITE, MAP_SHARED, edu.device, (off_t)bar.offset);
  if (edu.regs == MAP_FAILED) fail("mmap");
  return edu;
}

// Maps `length` bytes at `memory` for the device, at `iova`.
static inline void map(const struct edu *edu, void *memory, uint64_t length, uint64_t iova) {
  struct ioas_map map = {.size = sizeof map,
                         .flags = MAP_FIXED_READ_WRITE,
                         .ioas_id = edu->ioas,
                         .user_va = (uintptr_t)memory,
                         .length = length,
                         .iova = iova};
  if (ioctl(edu->iommu, IOAS_MAP, &map)) fail("IOAS_MAP");
}

// QEMU ends if a transfer uses the whole buffer of its edu, 4096 bytes. So programs that also run there move
// less.
static inline void dma(const struct edu *edu, uint64_t source, uint64_t destination, uint64_t count,
                       uint64_t command) {
  volatile uint64_t *wide = (volatile uint64_t *)edu->regs;
  wide[0x80 / 8] = source;
  wide[0x88 / 8] = destination;
  wide[0x90 / 8] = count;
  wide[0x98 / 8] = command | 1;
}

static inline void wait_idle(const struct edu *edu) {
  while (((volatile uint64_t *)edu->regs)[0x98 / 8] & 1) usleep(100);
}

// Opens the file of a device's group.
static inline int open_group(const char *bdf) {
  char link[256], target[256];
  snprintf(link, sizeof link, "/sys/bus/pci/devices/%s/iommu_group", bdf);
  ssize_t size = readlink(link, target, sizeof target - 1);
  if (size < 0) fail(link);
  target[size] = 0;
  snprintf(link, sizeof link, "/dev/vfio/%s", strrchr(target, '/') + 1);
  return open(link, O_RDWR);
}
