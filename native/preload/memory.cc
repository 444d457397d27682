// Mappings: of files of the host, and of the program's own memory, which must stay while a device reaches it.
#include <sys/mman.h>

#include <cerrno>
#include <cstdarg>

#include "descriptors.h"
#include "real.h"
#include "software.h"

using namespace vfio::preload;

namespace {

void* map(void* hint, size_t length, int protection, int flags, int fd, int64_t offset) {
  const int64_t address =
      result(host().mmap(hint, length, protection, flags, fd, static_cast<uint64_t>(offset)));
  return address < 0 ? MAP_FAILED : reinterpret_cast<void*>(address);
}

// A mapping in a fixed place may replace registers.
bool concernsHost(int flags, int fd) {
  if (!existingHost() || !atHome()) return false;
  if ((flags & MAP_ANONYMOUS) == 0 && descriptors.owner(fd) == Owner::host) return true;
  return (flags & (MAP_FIXED | MAP_FIXED_NOREPLACE)) == MAP_FIXED;
}

}  // namespace

EXPORTED void* mmap(void* hint, size_t length, int protection, int flags, int fd, off_t offset) noexcept {
  return concernsHost(flags, fd) ? map(hint, length, protection, flags, fd, offset)
                                 : REAL(mmap)(hint, length, protection, flags, fd, offset);
}

EXPORTED void* mmap64(void* hint, size_t length, int protection, int flags, int fd, off64_t offset) noexcept {
  return concernsHost(flags, fd) ? map(hint, length, protection, flags, fd, offset)
                                 : REAL(mmap64)(hint, length, protection, flags, fd, offset);
}

EXPORTED int munmap(void* address, size_t length) noexcept {
  if (!existingHost() || !atHome()) return REAL(munmap)(address, length);
  return static_cast<int>(result(host().munmap(address, length)));
}

// Device files can't be remapped (VM_DONTEXPAND); pinned memory that moves is where it was for the device.
EXPORTED void* mremap(void* address, size_t before, size_t after, int flags, ...) noexcept {
  va_list list;
  va_start(list, flags);
  void* const place = va_arg(list, void*);
  va_end(list);
  if (existingHost() && atHome() && host().trapped(address)) {
    errno = EFAULT;
    return MAP_FAILED;
  }
  return REAL(mremap)(address, before, after, flags, place);
}
