/*
 * A program without any code for the software host, on the preload library. The nth request of that library to the
 * system fails (shim.c): for memory, a descriptor, a mapping, a thread, or a name in /tmp. Each try runs in a child,
 * which makes a host of its own. `exhausted FEW STEP`: for each step of the program and each function of the system,
 * the first FEW calls fail in turn, and then every STEPth. Prints a line for each try with a wrong result, and, on the
 * error stream, which call failed and which error the program got.
 */
#define _GNU_SOURCE
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

extern void failing_arm(int nth, int all, int memory) __attribute__((weak));
extern const char* failing_disarm(void) __attribute__((weak));

#define DEVICE "/sys/bus/pci/devices/0000:00:10.0/"

struct ioas_alloc { uint32_t size, flags, id; };
struct ioas_map { uint32_t size, flags, id, reserved; uint64_t user, length, iova; };
struct bind_iommufd { uint32_t argsz, flags; int32_t iommufd; uint32_t devid; };
struct attach { uint32_t argsz, flags, pt; };

/* The steps. Each returns 0, or -1 with errno, and closes the files that it opens. */
static int either(int fd, int result) {
  const int error = errno;
  if (fd >= 0) close(fd);
  errno = error;
  return result;
}

static int put(const char* path, const char* text) {
  const int fd = open(path, O_WRONLY);
  if (fd < 0) return -1;
  return either(fd, write(fd, text, strlen(text)) < 0 ? -1 : 0);
}

static int spaces(void) {
  static char memory[4 * 4096] __attribute__((aligned(4096)));
  const int fd = open("/dev/iommu", O_RDWR);
  if (fd < 0) return -1;
  struct ioas_alloc space = {.size = sizeof space};
  if (ioctl(fd, _IO(';', 0x81), &space) < 0) return either(fd, -1);
  struct ioas_map map = {.size = sizeof map, .flags = 7, .id = space.id, .user = (uint64_t)memory, .length = 8192,
                         .iova = 0x100000};
  return either(fd, ioctl(fd, _IO(';', 0x85), &map));
}

static int names(void) {
  struct stat status;
  char target[4096];
  if (stat(DEVICE "vendor", &status) < 0 || stat("/dev/iommu", &status) < 0) return -1;
  if (access(DEVICE "config", R_OK) < 0 || readlink(DEVICE "subsystem", target, sizeof target) < 0) return -1;
  if (!realpath(DEVICE "iommu_group", target)) return -1;
  DIR* directory = opendir("/sys/bus/pci/devices");
  if (!directory) return -1;
  int count = 0;
  while (readdir(directory)) ++count;
  closedir(directory);
  if (count < 5) {
    errno = EIO; /* names are missing */
    return -1;
  }
  return 0;
}

static int streams(void) {
  FILE* file = fopen(DEVICE "vendor", "r");
  if (!file) return -1;
  unsigned vendor = 0;
  const int read = fscanf(file, "%x", &vendor);
  fclose(file);
  if (read == 1 && vendor == 0x1234) return 0;
  errno = EIO; /* the text is wrong */
  return -1;
}

static int device(void) {
  char node[300] = "";
  if (put(DEVICE "driver_override", "vfio-pci\n") < 0) return -1;
  if (put("/sys/bus/pci/drivers_probe", "0000:00:10.0") < 0) return -1;
  DIR* directory = opendir(DEVICE "vfio-dev");
  if (!directory) return -1;
  for (struct dirent* entry; (entry = readdir(directory));)
    if (entry->d_name[0] != '.') snprintf(node, sizeof node, "/dev/vfio/devices/%s", entry->d_name);
  closedir(directory);
  const int iommufd = open("/dev/iommu", O_RDWR);
  if (iommufd < 0) return -1;
  const int fd = open(node, O_RDWR);
  if (fd < 0) return either(iommufd, -1);
  struct bind_iommufd bind = {.argsz = sizeof bind, .iommufd = iommufd};
  struct ioas_alloc space = {.size = sizeof space};
  int result = ioctl(fd, _IO(';', 100 + 18), &bind);
  if (result == 0) result = ioctl(iommufd, _IO(';', 0x81), &space);
  struct attach attach = {.argsz = sizeof attach, .pt = space.id};
  if (result == 0) result = ioctl(fd, _IO(';', 100 + 19), &attach);
  if (result == 0) {
    void* registers = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    if (registers == MAP_FAILED) result = -1;
    else munmap(registers, 4096);
  }
  result = either(fd, result);
  result = either(iommufd, result);
  if (result < 0) return result;
  return put("/sys/bus/pci/drivers/vfio-pci/unbind", "0000:00:10.0");
}

static int (*const steps[])(void) = {names, spaces, streams, device};
static const char* const titles[] = {"names", "address spaces", "streams", "a device"};
enum { kSteps = 4 };

static int isLack(int error) {
  return error == ENOMEM || error == EMFILE || error == ENFILE || error == EAGAIN || error == ENOSPC;
}

static int descriptors(void) {
  int count = 0;
  for (int fd = 0; fd < 4096; ++fd) count += fcntl(fd, F_GETFD) >= 0;
  return count;
}

/* For the child: writes to `out` which request failed. Returns its exit status: 0, or 1 if a result is wrong. */
static int attempt(int step, int nth, int all, int out) {
  const int before = descriptors();
  failing_arm(nth, all, 1);
  const int result = steps[step]();
  const int error = errno;
  const char* what = failing_disarm();
  if (!what) return 0;
  char line[200];
  snprintf(line, sizeof line, "%s %s\n", what, result == 0 ? "done" : strerrorname_np(error));
  if (write(out, line, strlen(line)) < 0) return 1;
  if (result != 0 && !isLack(error)) {
    printf("%s %d %d: %s failed, and the program is told %s\n", titles[step], nth, all, what, strerrorname_np(error));
    return 1;
  }
  if (steps[step]() != 0) {
    printf("%s %d %d: %s failed, and afterwards it does too: %s\n", titles[step], nth, all, what,
           strerrorname_np(errno));
    return 1;
  }
  /* A host has descriptors of its own, which programs don't see. */
  if (descriptors() > before + 2) {
    printf("%s %d %d: %s failed, and %d descriptors stay open\n", titles[step], nth, all, what,
           descriptors() - before);
    return 1;
  }
  return 0;
}

/* Makes one try in a child; returns 0 if no request failed. */
static int try(int step, int nth, int all, const int out[2], int* wrong) {
  fflush(stdout);
  const pid_t child = fork();
  if (child == 0) {
    const int status = attempt(step, nth, all, out[1]);
    fflush(stdout);
    exit(status);
  }
  int status = 0;
  waitpid(child, &status, 0);
  if (WIFSIGNALED(status))
    printf("%s %d %d: %s: ended by signal %d\n", titles[step], nth, all, getenv("FAILING_ONLY"), WTERMSIG(status));
  *wrong += status != 0;
  char line[200];
  const ssize_t size = read(out[0], line, sizeof line);
  if (size > 0) fprintf(stderr, "%.*s", (int)size, line);
  return size > 0 || WIFSIGNALED(status);
}

int main(int count, char** arguments) {
  static const char* const kinds[] = {"malloc", "mmap",    "eventfd", "socketpair", "memfd_create", "ftruncate",
                                      "fcntl",  "opendir", "open",    "mkdtemp",    "mkdir",        "symlink"};
  const int few = count > 2 ? atoi(arguments[1]) : 3;
  const int wide = count > 2 ? atoi(arguments[2]) : 997;
  int wrong = 0, tries = 0;
  int out[2];
  if (!failing_arm || pipe2(out, O_NONBLOCK) != 0) return 2;
  for (size_t kind = 0; kind < sizeof kinds / sizeof *kinds; ++kind) {
    setenv("FAILING_ONLY", kinds[kind], 1);
    for (int step = 0; step < kSteps; ++step) {
      for (int all = 0; all < 2; ++all) {
        for (int nth = 1; try(step, nth, all, out, &wrong); nth += nth < few ? 1 : wide) ++tries;
      }
    }
  }
  printf("%d tries, %d wrong\n", tries, wrong);
  return wrong != 0;
}
