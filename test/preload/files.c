// Files and descriptors as a C program uses them: streams, duplicates, reads of parts, positions, and closing of
// ranges of descriptors.
#include <dirent.h>
#include <glob.h>
#include <limits.h>
#include <sys/sysmacros.h>
#include <sys/uio.h>

#include "driver.h"

#define DEVICE "/sys/bus/pci/devices/0000:00:10.0"

extern int close_range(unsigned, unsigned, int);

int main(void) {
  char text[PATH_MAX];
  struct stat status;
  FILE *stream = fopen(DEVICE "/class", "r");
  claim("fopen", stream && fgets(text, sizeof text, stream) && strcmp(text, "0x00ff00\n") == 0);
  if (stream) fclose(stream);
  stream = fopen(DEVICE "/driver_override", "w");
  claim("a stream writes an attribute", stream && fprintf(stream, "vfio-pci\n") > 0 && fclose(stream) == 0);
  stream = fopen("/sys/bus/pci/drivers/nvme/bind", "w");
  claim("... and tells of its error",
        stream && fputs("0000:00:10.0", stream) >= 0 && fflush(stream) == EOF && errno == ENODEV);
  if (stream) fclose(stream);
  stream = fopen(DEVICE "/driver_override", "r");
  claim("the next reader sees what was written",
        stream && fgets(text, sizeof text, stream) && strcmp(text, "vfio-pci\n") == 0);
  if (stream) fclose(stream);
  claim("a read-only attribute can't be written", open(DEVICE "/vendor", O_WRONLY) == -1 && errno == EACCES);
  claim("nor can a file be made", open(DEVICE "/mine", O_WRONLY | O_CREAT, 0600) == -1 && errno == EACCES);

  int config = open(DEVICE "/config", O_RDWR);
  uint16_t ids[2];
  struct iovec pieces[2] = {{&ids[0], 2}, {&ids[1], 2}};
  claim("readv of config space", readv(config, pieces, 2) == 4 && ids[0] == 0x1234 && ids[1] == 0x11e8);
  claim("lseek", lseek(config, 2, SEEK_SET) == 2 && read(config, ids, 2) == 2 && ids[0] == 0x11e8);
  claim("preadv", preadv(config, pieces, 2, 0) == 4 && ids[1] == 0x11e8);
  claim("fstat: 256 bytes", fstat(config, &status) == 0 && S_ISREG(status.st_mode) && status.st_size == 256);
  claim("stat of a node",
        stat("/dev/iommu", &status) == 0 && S_ISCHR(status.st_mode) && major(status.st_rdev) == 10);

  int iommu = open("/dev/iommu", O_RDWR);
  int copy = fcntl(iommu, F_DUPFD_CLOEXEC, 100);
  claim("a copy above 100", copy >= 100 && (fcntl(copy, F_GETFD) & FD_CLOEXEC));
  close(iommu);
  struct ioas_alloc alloc = {.size = sizeof alloc};
  claim("... works after the first is closed", ioctl(copy, IOAS_ALLOC, &alloc) == 0);
  int event = eventfd(0, 0);
  claim("dup2 over it",
        dup2(event, copy) == copy && ioctl(copy, IOAS_ALLOC, &alloc) == -1 && errno == ENOTTY);
  claim("dup2 of one", (iommu = open("/dev/iommu", O_RDWR)) >= 0 && dup2(iommu, copy) == copy &&
                           ioctl(copy, IOAS_ALLOC, &alloc) == 0);
  // A daemon closes all descriptors; the host's own descriptors must stay open.
  for (int fd = 3; fd < 65536; fd++)
    if (fd != copy) close(fd);
  claim("the host outlives a loop of closes", ioctl(copy, IOAS_ALLOC, &alloc) == 0);
  claim("close_range",
        close_range(3, ~0U, 0) == 0 && ioctl(copy, IOAS_ALLOC, &alloc) == -1 && errno == EBADF);
  claim("the host outlives that too",
        (iommu = open("/dev/iommu", O_RDWR)) >= 0 && ioctl(iommu, IOAS_ALLOC, &alloc) == 0);

  char *real = realpath(DEVICE, NULL);
  claim("realpath", real && strcmp(real, "/sys/devices/pci0000:00/0000:00:10.0") == 0);
  claim("readlink", readlink(DEVICE "/iommu_group", text, sizeof text) > 0 &&
                        strncmp(text, "../../../kernel/iommu_groups/2", 30) == 0);
  claim("chdir and getcwd", chdir(DEVICE) == 0 && getcwd(text, sizeof text) && strcmp(text, real) == 0);
  claim("a name from there", open("vendor", O_RDONLY) >= 0 && access("../0000:00:12.0/class", R_OK) == 0);
  int directory = open("/sys/bus/pci/devices", O_RDONLY | O_DIRECTORY);
  claim("openat", openat(directory, "0000:00:10.0/config", O_RDWR) >= 0 &&
                      openat(directory, "nobody", O_RDONLY) == -1 && errno == ENOENT);
  claim("fstatat",
        fstatat(directory, "0000:00:10.0", &status, AT_SYMLINK_NOFOLLOW) == 0 && S_ISLNK(status.st_mode));
  glob_t found;
  claim("glob", glob("/sys/bus/pci/devices/0000:03:*", 0, NULL, &found) == 0 && found.gl_pathc == 2 &&
                    strcmp(found.gl_pathv[0], "/sys/bus/pci/devices/0000:03:01.0") == 0);
  struct dirent **entries;
  claim("scandir", scandir("/sys/bus/pci/devices", &entries, NULL, alphasort) == 10);
  claim("what is not the host's is the machine's",
        access("/proc/self/status", R_OK) == 0 && open("/dev/null", O_RDWR) >= 0);
  return 0;
}
