// Several threads use the host at the same time: calls, registers, files of sysfs, and descriptors that are opened
// and closed.
#include <pthread.h>

#include "driver.h"

static struct edu edu;
static int failures;

static void expect(int holds) {
  if (!holds) __atomic_add_fetch(&failures, 1, __ATOMIC_RELAXED);
}

static void *maps(void *argument) {
  uintptr_t id = (uintptr_t)argument;
  uint8_t *memory = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  for (int i = 0; i < 500; i++) {
    map(&edu, memory, 4096, 0x100000 * (id + 1));
    struct ioas_unmap unmap = {
        .size = sizeof unmap, .ioas_id = edu.ioas, .iova = 0x100000 * (id + 1), .length = 4096};
    expect(ioctl(edu.iommu, IOAS_UNMAP, &unmap) == 0);
  }
  return NULL;
}

static void *registers(void *argument) {
  (void)argument;
  for (int i = 0; i < 2000; i++) expect(edu.regs[0] == 0x010000ed);
  return NULL;
}

static void *files(void *argument) {
  (void)argument;
  for (int i = 0; i < 200; i++) {
    char text[16] = "";
    FILE *file = fopen("/sys/bus/pci/devices/0000:00:10.0/vendor", "r");
    expect(file && fgets(text, sizeof text, file) && strcmp(text, "0x1234\n") == 0);
    if (file) fclose(file);
    int fd = open("/dev/iommu", O_RDWR);
    int copy = dup(fd);
    struct stat status;
    expect(fd >= 0 && copy >= 0 && fstat(copy, &status) == 0 && S_ISCHR(status.st_mode));
    close(fd);
    struct ioas_alloc alloc = {.size = sizeof alloc};
    expect(ioctl(copy, IOAS_ALLOC, &alloc) == 0);
    close(copy);
  }
  return NULL;
}

int main(void) {
  edu = open_edu("0000:00:10.0");
  void *(*const work[])(void *) = {maps, maps, registers, registers, files, files};
  pthread_t threads[6];
  for (uintptr_t i = 0; i < 6; i++) pthread_create(&threads[i], NULL, work[i], (void *)i);
  for (int i = 0; i < 6; i++) pthread_join(threads[i], NULL);
  claim("six threads: maps, registers, files", failures == 0);
  return 0;
}
