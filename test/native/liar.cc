// For LD_PRELOAD under the kernel backend: it makes /dev/iommu, /dev/vfio/* and a folder "/lies" exist, and
// answers every call on them with wrong values: lengths, counts and offsets of 0, one less and one more than
// the buffer's size, 2^31, 2^32-1, and random ones. Some answers are errors. It never writes past the end of
// a buffer. So if something is read past the end, the program itself does it.
//
// VFIO_LIES: the seed. The files are really /dev/null, which no test of these uses for anything else.
#include <dlfcn.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <cstdarg>
#include <cstdint>
#include <cstdlib>
#include <cstring>

#include "../../native/uapi/iommufd.h"
#include "../../native/uapi/vfio.h"

namespace {

using namespace vfio::uapi;

uint64_t chance() {
  static std::atomic<uint64_t> state = [] {
    const char* const seed = std::getenv("VFIO_LIES");
    return seed ? std::strtoull(seed, nullptr, 10) : 1;
  }();
  // Random numbers made from an atomic counter, since calls come from several threads.
  uint64_t x = state.fetch_add(0x9e3779b97f4a7c15);
  x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9;
  x = (x ^ (x >> 27)) * 0x94d049bb133111eb;
  return x ^ (x >> 31);
}

bool once(unsigned in) { return chance() % in == 0; }

template <typename Function>
Function real(const char* name) {
  return reinterpret_cast<Function>(dlsym(RTLD_NEXT, name));
}

bool lying(int fd) {
  struct stat status {};
  return fd > 2 && fstat(fd, &status) == 0 && S_ISCHR(status.st_mode) && status.st_rdev == makedev(1, 3);
}

bool liedAbout(const char* path) {
  return std::strcmp(path, "/dev/iommu") == 0 || std::strncmp(path, "/dev/vfio/", 10) == 0 ||
         std::strncmp(path, "/lies", 5) == 0;
}

int freshFile() { return real<int (*)(const char*, int, ...)>("open")("/dev/null", O_RDWR | O_CLOEXEC); }

// A wrong value for a field, where the buffer has a size of `room`.
uint64_t lie(uint64_t room) {
  switch (chance() % 12) {
    case 0:
      return 0;
    case 1:
      return 1;
    case 2:
      return room - 1;
    case 3:
      return room;
    case 4:
      return room + 1;
    case 5:
      return uint64_t{1} << 31;
    case 6:
      return UINT32_MAX;
    case 7:
      return chance();
    case 8:
      return room * 2;
    default:
      return chance() % 64;  // a plausible value: an id, an offset, a small count
  }
}

int refusal() {
  static constexpr int kErrors[] = {ENOSPC, EMSGSIZE, EINVAL, E2BIG, ENOMEM, ENOTTY, EBUSY};
  errno = kErrors[chance() % std::size(kErrors)];
  return -1;
}

// Puts wrong values into the 32-bit words after the first one, which is the size.
void fill(uint8_t* bytes, size_t size) {
  for (size_t at = sizeof(uint32_t); at + sizeof(uint32_t) <= size; at += sizeof(uint32_t)) {
    if (!once(2)) continue;
    const auto word = static_cast<uint32_t>(lie(size));
    std::memcpy(bytes + at, &word, sizeof word);
  }
  if (once(4)) {
    const auto word = static_cast<uint32_t>(once(2) ? size * 2 : lie(size));
    std::memcpy(bytes, &word, sizeof word);
  }
}

int64_t moved(void* buffer, size_t size, bool fillIt) {
  if (once(8)) {
    errno = once(2) ? EAGAIN : EIO;
    return -1;
  }
  if (fillIt && size >= sizeof(uint32_t)) fill(static_cast<uint8_t*>(buffer), size);
  const uint64_t lied = once(3) ? lie(size) : once(2) ? size : size / 8 * 8;
  return static_cast<int64_t>(lied & INT64_MAX);
}

// Writes ranges to the address in the struct, and not more than there is room for.
void fillRanges(iommu_ioas_iova_ranges& command, uint32_t room) {
  auto* const ranges = reinterpret_cast<iommu_iova_range*>(command.allowed_iovas);
  for (uint32_t i = 0; i < room && ranges; ++i) {
    ranges[i].start = uint64_t{i} << 20;
    ranges[i].last = once(40) ? lie(i) : ranges[i].start + 0xfffff;
  }
}

int answer(int fd, unsigned long request, void* argument) {
  (void)fd;
  if (once(6)) {
    const int failed = refusal();
    // These two also return the needed size together with the error.
    if ((request != IOMMU_IOAS_IOVA_RANGES && request != VFIO_DEVICE_GET_PCI_HOT_RESET_INFO)) return failed;
    errno = request == IOMMU_IOAS_IOVA_RANGES ? EMSGSIZE : ENOSPC;
    const int error = errno;
    auto* const bytes = static_cast<uint8_t*>(argument);
    uint32_t size = 0;
    std::memcpy(&size, bytes, sizeof size);
    // The count is after size and id, or after size and flags.
    const auto count = static_cast<uint32_t>(lie(size));
    std::memcpy(bytes + 8, &count, sizeof count);
    errno = error;
    return -1;
  }
  switch (request) {
    case VFIO_GET_API_VERSION:
    case VFIO_CHECK_EXTENSION:
    case VFIO_SET_IOMMU:
    case VFIO_GROUP_SET_CONTAINER:
    case VFIO_GROUP_UNSET_CONTAINER:
    case VFIO_DEVICE_RESET:
      return static_cast<int>(lie(8) & INT32_MAX);
    case VFIO_GROUP_GET_DEVICE_FD:
      return freshFile();
    default:
      break;
  }
  if (!argument) return 0;
  auto* const bytes = static_cast<uint8_t*>(argument);
  uint32_t size = 0;
  std::memcpy(&size, bytes, sizeof size);
  if (request == IOMMU_IOAS_IOVA_RANGES) {
    auto& command = *static_cast<iommu_ioas_iova_ranges*>(argument);
    const uint32_t room = command.num_iovas;
    fillRanges(command, room);
    command.num_iovas = static_cast<uint32_t>(lie(room));
    command.out_iova_alignment = once(3) ? lie(size) : 4096;
    return 0;
  }
  // Requests whose struct the kernel only reads: the answer is the result.
  if (request == VFIO_DEVICE_SET_IRQS) return static_cast<int>(lie(size) & INT32_MAX);
  if (request == VFIO_DEVICE_PCI_HOT_RESET) return 0;
  fill(bytes, size);
  if (request == IOMMU_FAULT_QUEUE_ALLOC && once(2))
    reinterpret_cast<iommu_fault_alloc*>(bytes)->out_fault_fd = static_cast<uint32_t>(freshFile());
  else if (request == IOMMU_FAULT_QUEUE_ALLOC)
    reinterpret_cast<iommu_fault_alloc*>(bytes)->out_fault_fd = UINT32_MAX;
  // The bind of shared virtual addressing (native/uapi/sva.h): its descriptor is 8 bytes into the payload.
  if (request == VFIO_DEVICE_FEATURE && size == 24) {
    const int32_t bond = once(2) ? freshFile() : -1;
    std::memcpy(bytes + 16, &bond, sizeof bond);
  }
  if (request == IOMMU_VEVENTQ_ALLOC && once(2))
    reinterpret_cast<iommu_veventq_alloc*>(bytes)->out_veventq_fd = static_cast<uint32_t>(freshFile());
  else if (request == IOMMU_VEVENTQ_ALLOC)
    reinterpret_cast<iommu_veventq_alloc*>(bytes)->out_veventq_fd = uint32_t{1} << 31;
  // A chain of capabilities that looks valid, so that the program reads their contents.
  if ((request == VFIO_IOMMU_GET_INFO || request == VFIO_DEVICE_GET_REGION_INFO) && once(2)) {
    const size_t header =
        request == VFIO_IOMMU_GET_INFO ? sizeof(vfio_iommu_type1_info) : sizeof(vfio_region_info);
    const auto first = static_cast<uint32_t>(header);
    uint32_t flags = 0;
    std::memcpy(&flags, bytes + 4, sizeof flags);
    flags |= request == VFIO_IOMMU_GET_INFO ? VFIO_IOMMU_INFO_CAPS : VFIO_REGION_INFO_FLAG_CAPS;
    std::memcpy(bytes + 4, &flags, sizeof flags);
    std::memcpy(bytes + (request == VFIO_IOMMU_GET_INFO ? offsetof(vfio_iommu_type1_info, cap_offset)
                                                        : offsetof(vfio_region_info, cap_offset)),
                &first, sizeof first);
    const auto needed = static_cast<uint32_t>(header + 256);
    std::memcpy(bytes, size < needed ? &needed : &size, sizeof size);
    for (size_t at = header; at + 48 <= size; at += 48) {
      const vfio_info_cap_header capability{static_cast<uint16_t>(1 + chance() % 4), 1,
                                            static_cast<uint32_t>(once(4) ? lie(size) : at + 48)};
      std::memcpy(bytes + at, &capability, sizeof capability);
    }
  }
  return once(10) ? static_cast<int>(lie(size) & INT32_MAX) : 0;
}

}  // namespace

extern "C" {

int open(const char* path, int flags, ...) {
  if (liedAbout(path)) return freshFile();
  va_list rest;
  va_start(rest, flags);
  const int mode = (flags & (O_CREAT | O_TMPFILE)) != 0 ? va_arg(rest, int) : 0;
  va_end(rest);
  return real<int (*)(const char*, int, ...)>("open")(path, flags, mode);
}

int ioctl(int fd, unsigned long request, ...) {
  va_list rest;
  va_start(rest, request);
  void* const argument = va_arg(rest, void*);
  va_end(rest);
  constexpr unsigned long kType = ';';
  if (((request >> 8) & 0xff) == kType && lying(fd)) return answer(fd, request, argument);
  return real<int (*)(int, unsigned long, ...)>("ioctl")(fd, request, argument);
}

ssize_t read(int fd, void* buffer, size_t size) {
  if (lying(fd)) return moved(buffer, size, true);
  return real<ssize_t (*)(int, void*, size_t)>("read")(fd, buffer, size);
}

ssize_t pread(int fd, void* buffer, size_t size, off_t offset) {
  if (lying(fd)) return moved(buffer, size, true);
  return real<ssize_t (*)(int, void*, size_t, off_t)>("pread")(fd, buffer, size, offset);
}

ssize_t write(int fd, const void* buffer, size_t size) {
  if (lying(fd)) return moved(const_cast<void*>(buffer), size, false);
  return real<ssize_t (*)(int, const void*, size_t)>("write")(fd, buffer, size);
}

ssize_t pwrite(int fd, const void* buffer, size_t size, off_t offset) {
  if (lying(fd)) return moved(const_cast<void*>(buffer), size, false);
  return real<ssize_t (*)(int, const void*, size_t, off_t)>("pwrite")(fd, buffer, size, offset);
}

// The names that programs with support for large files call.
int open64(const char* path, int flags, ...) {
  if (liedAbout(path)) return freshFile();
  va_list rest;
  va_start(rest, flags);
  const int mode = (flags & (O_CREAT | O_TMPFILE)) != 0 ? va_arg(rest, int) : 0;
  va_end(rest);
  return real<int (*)(const char*, int, ...)>("open64")(path, flags, mode);
}

ssize_t pread64(int fd, void* buffer, size_t size, off64_t offset) { return pread(fd, buffer, size, offset); }

ssize_t pwrite64(int fd, const void* buffer, size_t size, off64_t offset) {
  return pwrite(fd, buffer, size, offset);
}

ssize_t readlink(const char* path, char* buffer, size_t size) {
  if (std::strncmp(path, "/lies", 5) == 0) {
    std::memset(buffer, 'x', size);
    return static_cast<ssize_t>(lie(size) & INT64_MAX);
  }
  return real<ssize_t (*)(const char*, char*, size_t)>("readlink")(path, buffer, size);
}
}
