// Mappings of files: MAP_FILE, the kernel's answers for files that it can't pin, and CHANGE_PROCESS. Linux
// 6.12 has none of these commands, so the claims follow the source of later kernels.
#include <fcntl.h>
#include <sys/eventfd.h>
#include <sys/statfs.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <linux/magic.h>

#include "iommufd_harness.h"

namespace vfio::soft::check {
namespace {

constexpr uint64_t kBase = 0x100000;
constexpr uint64_t kHuge = uint64_t{2} << 20;

int memfd(uint64_t size) {
  const auto fd = static_cast<int>(syscall(SYS_memfd_create, "check", 1U));
  if (ftruncate(fd, static_cast<off_t>(size)) != 0) return -1;
  return fd;
}

int mapFile(Fd& fd, uint32_t ioas, int file, uint64_t start, uint64_t length, uint64_t& iova,
            uint32_t flags = kBoth | kFixed) {
  uapi::iommu_ioas_map_file map = {sizeof(map), flags, ioas, file, start, length, iova};
  const int result = fd.call(uapi::IOMMU_IOAS_MAP_FILE, map);
  iova = map.iova;
  return result;
}

int mapFileAt(Fd& fd, uint32_t ioas, int file, uint64_t start, uint64_t length, uint64_t iova = kBase,
              uint32_t flags = kBoth | kFixed) {
  return mapFile(fd, ioas, file, start, length, iova, flags);
}

struct Setup {
  Host& host;
  iommu::Unit unit = vtd();
  iommu::Group group = {1, {}};
  iommu::Endpoint nic{host, "0000:01:00.0", 0x100, unit, group};
  Fd fd{host};
  std::unique_ptr<iommufd::BoundDevice> device;
  uint32_t ioas = fd.ioas();

  explicit Setup(Host& itsHost) : host(itsHost) { claim("bind", 0, iommufd::bind(fd.file, nic, device)); }
  int attach() {
    uint32_t pt = ioas;
    return device->attach(pt);
  }
};

void checksOf(Host& host, bool dmaBufs) {
  Setup setup(host);
  Fd& fd = setup.fd;
  const uint32_t ioas = setup.ioas;
  const int file = memfd(8 * kPage);
  claim("an unknown flag EOPNOTSUPP", -EOPNOTSUPP, mapFileAt(fd, 99, -1, 0, 0, UINT64_MAX, 8));
  claim("IOVA of all ones EOVERFLOW", -EOVERFLOW, mapFileAt(fd, 99, -1, 0, 0, UINT64_MAX, 0));
  claim("length of all ones EOVERFLOW", -EOVERFLOW, mapFileAt(fd, 99, -1, 0, UINT64_MAX, 0, 0));
  claim("no rights EINVAL", -EINVAL, mapFileAt(fd, 99, -1, 0, 0, 0, kFixed));
  claim("no such IOAS ENOENT", -ENOENT, mapFileAt(fd, 99, -1, 0, 0));
  claim("no such file EBADF", -EBADF, mapFileAt(fd, ioas, -1, 0, kPage));
  const int path = open("/", O_PATH);
  claim("... nor one that is only a path", -EBADF, mapFileAt(fd, ioas, path, 0, kPage));
  close(path);
  claim("no length EINVAL", -EINVAL, mapFileAt(fd, ioas, file, 0, 0));
  claim("... before or after the file is looked at", dmaBufs ? -EINVAL : -EBADF,
        mapFileAt(fd, ioas, -1, 0, 0));
  claim("start + length wraps EOVERFLOW", -EOVERFLOW,
        mapFileAt(fd, ioas, file, UINT64_MAX - kPage, 2 * kPage));
  claim("too long a length EINVAL", -EINVAL, mapFileAt(fd, ioas, file, 0, UINT64_MAX - 1));
  close(file);
}

void files(Host& host) {
  Setup setup(host);
  Fd& fd = setup.fd;
  const uint32_t ioas = setup.ioas;
  const int file = memfd(4 * kPage);
  const int event = eventfd(0, EFD_CLOEXEC);
  claim("what is no memfd maps while nothing wants it", 0, mapFileAt(fd, ioas, event, 0, kPage));
  claim("... but then it is EINVAL", -EINVAL, setup.attach());
  claim("unmap", 0, fd.unmap(ioas, 0, UINT64_MAX));
  claim("a longer stretch than the file, likewise", 0, mapFileAt(fd, ioas, file, 0, 5 * kPage));
  claim("... is EINVAL", -EINVAL, setup.attach());
  claim("... until the file is that long", 0, ftruncate(file, 5 * kPage));
  claim("...", 0, setup.attach());
  claim("unmap", 0, fd.unmap(ioas, 0, UINT64_MAX));
  claim("no memfd is EINVAL at once now", -EINVAL, mapFileAt(fd, ioas, event, 0, kPage));
  claim("as is what is behind the end of one", -EINVAL, mapFileAt(fd, ioas, file, 5 * kPage, kPage));
  close(event);

  // The caller may unmap and close the file; a device still reads and writes it.
  claim("map the second page", 0, mapFileAt(fd, ioas, file, kPage, 2 * kPage));
  auto* const bytes =
      static_cast<char*>(mmap(nullptr, 5 * kPage, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0));
  close(file);
  std::memset(bytes + kPage, 'f', kPage);
  char read[4] = {};
  claim("a device reads it", setup.nic.dma.read(kBase, read, 3));
  claim("...", std::string("fff"), std::string(read));
  claim("... and writes", setup.nic.dma.write(kBase + kPage - 1, "dma", 3));
  claim("...", std::string("dma"), std::string(bytes + 2 * kPage - 1, 3));
  uint64_t iova = 2 * kBase;
  claim("copied", 0, fd.copy(ioas, kBase + kPage, ioas, kPage, iova, kBoth | kFixed));
  claim("... and its source unmapped", 0, fd.unmap(ioas, kBase, 2 * kPage));
  munmap(bytes, 5 * kPage);
  claim("a device still reads it", setup.nic.dma.read(iova, read, 2));
  claim("...", std::string("ma"), std::string(read, 2));
}

void placing(Host& host) {
  Fd fd(host);
  const uint32_t ioas = fd.ioas();
  const int file = memfd(4 * kHuge);
  // The IOVA is aligned as the offset in the file, not as the address where a program maps the file.
  const std::pair<uint64_t, uint64_t> kPlaces[] = {
      {0, 3 * kPage}, {kHuge, kHuge}, {kPage, 2 * kPage}, {5 * kPage + 5, 3}, {8 * kPage, 16 * kPage}};
  const uint64_t kExpected[] = {0x4000, 0x200000, 0x1000, 0x3005, 0x8000};
  for (size_t at = 0; at < std::size(kPlaces); ++at) {
    uint64_t iova = 7;
    claim("map", 0, mapFile(fd, ioas, file, kPlaces[at].first, kPlaces[at].second, iova, kBoth));
    claim("... at the lowest place as aligned as in the file", static_cast<int64_t>(kExpected[at]),
          static_cast<int64_t>(iova));
  }
  close(file);
}

void changeProcess(Host& host) {
  Fd fd(host);
  const uint32_t ioas = fd.ioas();
  (void)fd.ioas();
  const int file = memfd(4 * kPage);
  Buffer memory(kPage);
  uapi::iommu_ioas_change_process change = {sizeof(change), 1};
  claim("a reserved field EOPNOTSUPP", -EOPNOTSUPP, fd.call(uapi::IOMMU_IOAS_CHANGE_PROCESS, change));
  change.__reserved = 0;
  claim("nothing mapped", 0, fd.call(uapi::IOMMU_IOAS_CHANGE_PROCESS, change));
  claim("a file", 0, mapFileAt(fd, ioas, file, 0, kPage));
  claim("... goes along", 0, fd.call(uapi::IOMMU_IOAS_CHANGE_PROCESS, change));
  claim("memory by address", 0, fd.mapAt(ioas, 2 * kBase, memory.user(), kPage));
  claim("... doesn't: EINVAL", -EINVAL, fd.call(uapi::IOMMU_IOAS_CHANGE_PROCESS, change));
  close(file);
}

void physicalAddresses(Host& host) {
  Fd fd(host);
  const uint32_t ioas = fd.ioas();
  Buffer memory(kPage);
  claim("map", 0, fd.mapAt(ioas, kBase, memory.user(), kPage));
  const auto ask = [&fd](uint32_t of, uint64_t iova, uint64_t length, uint32_t flags = 0) {
    uapi::iommu_ioas_noiommu_get_pa get = {sizeof(get), flags, of, 0, iova, length, 0};
    return fd.call(uapi::IOMMU_IOAS_NOIOMMU_GET_PA, get);
  };
  claim("a flag EOPNOTSUPP", -EOPNOTSUPP, ask(99, UINT64_MAX, 0, 1));
  claim("an IOVA of all ones EOVERFLOW", -EOVERFLOW, ask(99, UINT64_MAX, 0));
  claim("no length EINVAL", -EINVAL, ask(99, 0, 0));
  claim("no such IOAS ENOENT", -ENOENT, ask(99, 0, 1));
  claim("a hole ENOENT", -ENOENT, ask(ioas, 0, 1));
  claim("what no device without an IOMMU uses EOPNOTSUPP", -EOPNOTSUPP, ask(ioas, kBase, 1));
}

// In every release: a device can't write to memory of a file whose file system must see each write.
void sharedFiles(Host& host) {
  Setup setup(host);
  Fd& fd = setup.fd;
  const uint32_t ioas = setup.ioas;
  claim("attach", 0, setup.attach());
  const int file = memfd(2 * kPage);
  void* const ram = mmap(nullptr, 2 * kPage, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
  claim("a memfd maps", 0, fd.mapAt(ioas, kBase, reinterpret_cast<uint64_t>(ram), kPage));
  void* const shared = mmap(nullptr, kPage, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
  claim("as does shared memory without a name", 0,
        fd.mapAt(ioas, 2 * kBase, reinterpret_cast<uint64_t>(shared), kPage));
  claim("unmap", 0, fd.unmap(ioas, 0, UINT64_MAX));
  claim("...", 0, host.munmap(ram, 2 * kPage));
  claim("...", 0, host.munmap(shared, kPage));
  close(file);

  char name[] = "vfio-check-XXXXXX";
  const int disk = mkstemp(name);
  struct statfs system = {};
  if (disk < 0 || fstatfs(disk, &system) != 0 || static_cast<uint32_t>(system.f_type) == TMPFS_MAGIC) {
    std::printf("skip: files on a disk, since the working directory is in memory or can't be written\n");
    if (disk >= 0) unlink(name);
    return;
  }
  claim("a file on a disk", 0, ftruncate(disk, 3 * kPage));
  auto* const bytes =
      static_cast<char*>(mmap(nullptr, 3 * kPage, PROT_READ | PROT_WRITE, MAP_SHARED, disk, 0));
  const auto user = reinterpret_cast<uint64_t>(bytes);
  claim("... mapped shared can be read by a device", 0, fd.mapAt(ioas, 3 * kBase, user, kPage, kRead));
  claim("... but not written: EFAULT", -EFAULT, fd.mapAt(ioas, 4 * kBase, user, kPage));
  unlink(name);
  claim("... nor when it is deleted", -EFAULT, fd.mapAt(ioas, 4 * kBase, user, kPage));
  // Other memory on both sides of it, in one mapping.
  mmap(bytes, kPage, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0);
  mmap(bytes + 2 * kPage, kPage, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_FIXED, disk, 0);
  claim("... nor in the middle of other memory", -EFAULT, fd.mapAt(ioas, 4 * kBase, user, 3 * kPage));
  claim("a private mapping of it can", 0, fd.mapAt(ioas, 4 * kBase, user + 2 * kPage, kPage));
  claim("unmap", 0, fd.unmap(ioas, 0, UINT64_MAX));
  munmap(bytes, 3 * kPage);
  close(disk);
}

void deviceMemory(Host& host) {
  Setup setup(host);
  Fd& fd = setup.fd;
  claim("attach", 0, setup.attach());
  Buffer memory(3 * kPage);
  host.memory().mapped(memory.user() + kPage, kPage, true);
  claim("memory of a device can't be mapped, be it for reading", -EFAULT,
        fd.mapAt(setup.ioas, kBase, memory.user(), 2 * kPage, kRead));
  claim("its neighbours can", 0, fd.mapAt(setup.ioas, kBase, memory.user() + 2 * kPage, kPage));
  host.memory().mapped(memory.user(), 3 * kPage, false);
  claim("and so can what took its place", 0, fd.mapAt(setup.ioas, 2 * kBase, memory.user() + kPage, kPage));
}

}  // namespace
}  // namespace vfio::soft::check

int main() {
  using namespace vfio::soft;
  const auto memory = std::make_shared<mm::Memory>();
  Host first(memory, {.kernel = {6, 13}});
  Host newest(memory, {});
  check::checksOf(first, false);
  check::checksOf(newest, true);
  check::files(newest);
  check::placing(newest);
  check::changeProcess(newest);
  check::physicalAddresses(newest);
  check::sharedFiles(newest);
  check::deviceMemory(newest);
  return check::failures == 0 ? 0 : 1;
}
