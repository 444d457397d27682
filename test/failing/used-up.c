/* A program that has used up its descriptors, or its memory, and continues to use the host. Each line is a claim. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <unistd.h>

struct ioas_alloc { uint32_t size, flags, id; };
struct ioas_map { uint32_t size, flags, id, reserved; uint64_t user, length, iova; };

static void claim(int holds, const char* what) {
  char line[200];
  snprintf(line, sizeof line, "%s %s\n", holds ? "ok" : "FAIL", what);
  if (write(STDOUT_FILENO, line, strlen(line)) < 0) abort();
}

static int space(int fd, struct ioas_alloc* alloc) {
  *alloc = (struct ioas_alloc){.size = sizeof *alloc};
  return ioctl(fd, _IO(';', 0x81), alloc);
}

static void descriptors(void) {
  struct rlimit limit;
  getrlimit(RLIMIT_NOFILE, &limit);
  const struct rlimit before = limit;
  limit.rlim_cur = 64;
  setrlimit(RLIMIT_NOFILE, &limit);
  int last = -1;
  for (int fd; (fd = open("/dev/null", O_RDONLY)) >= 0;) last = fd;
  errno = 0;
  claim(open("/dev/iommu", O_RDWR) < 0 && errno == EMFILE, "without a descriptor there is no host, but EMFILE");
  errno = 0;
  claim(open("/sys/bus/pci/devices/0000:00:10.0/vendor", O_RDONLY) < 0 && errno == EMFILE,
        "nor a file of sysfs");
  for (int fd = 3; fd <= last; ++fd) close(fd);
  setrlimit(RLIMIT_NOFILE, &before);
  const int fd = open("/dev/iommu", O_RDWR);
  struct ioas_alloc alloc;
  claim(fd >= 0 && space(fd, &alloc) == 0, "with descriptors again it is there");
  close(fd);
}

/* Uses the host with descriptor numbers as high as the system allows for a process. */
static void many(void) {
  struct rlimit limit;
  getrlimit(RLIMIT_NOFILE, &limit);
  const struct rlimit before = limit;
  limit.rlim_cur = limit.rlim_max < 70100 ? limit.rlim_max : 70100;
  setrlimit(RLIMIT_NOFILE, &limit);
  int last = 2;
  while (last < (int)limit.rlim_cur - 90) last = open("/dev/null", O_RDONLY);
  const int fd = open("/dev/iommu", O_RDWR);
  struct ioas_alloc alloc;
  claim(fd > last && space(fd, &alloc) == 0, "behind all the others a file of the host works");
  close_range(3, ~0U, 0);
  setrlimit(RLIMIT_NOFILE, &before);
}

static void memory(void) {
  const int fd = open("/dev/iommu", O_RDWR);
  struct ioas_alloc alloc;
  (void)space(fd, &alloc);
  char* const room = mmap(NULL, 1 << 20, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  struct rlimit before;
  getrlimit(RLIMIT_AS, &before);
  const struct rlimit none = {4096, before.rlim_max};
  setrlimit(RLIMIT_AS, &none);
  void** taken = NULL;
  for (size_t size = 1 << 20; size >= sizeof(void*); size /= 2) {
    for (void** block; (block = malloc(size));) {
      *block = taken;
      taken = block;
    }
  }
  int mapped = 0, error = 0;
  for (; mapped < 100000; ++mapped) {
    struct ioas_map map = {.size = sizeof map, .flags = 7, .id = alloc.id, .length = 4096};
    map.user = (uint64_t)room + (uint64_t)(mapped % 256) * 4096;
    map.iova = 0x10000ull * (uint64_t)(mapped + 1);
    if (ioctl(fd, _IO(';', 0x85), &map) == 0) continue;
    error = errno;
    break;
  }
  claim(error == ENOMEM, "without memory mapping ends with ENOMEM");
  errno = 0;
  const int other = open("/dev/iommu", O_RDWR);
  claim(other < 0 && errno == ENOMEM, "and so does opening");
  setrlimit(RLIMIT_AS, &before);
  while (taken) {
    void** const next = *taken;
    free(taken);
    taken = next;
  }
  struct ioas_map map = {.size = sizeof map, .flags = 7, .id = alloc.id, .user = (uint64_t)room, .length = 4096,
                         .iova = 0x10000ull * (uint64_t)(mapped + 1)};
  claim(ioctl(fd, _IO(';', 0x85), &map) == 0, "with memory again both work, where it had ended");
  close(fd);
}

int main(void) {
  descriptors();
  many();
  memory();
  return 0;
}
