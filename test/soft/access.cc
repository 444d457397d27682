// Users inside the kernel: an access reaches memory by IOVA, keeps pages pinned, and is asked to unpin pages
// that are being unmapped.
#include "../../native/soft/iommufd/access.h"

#include "../../native/soft/iommufd/context.h"
#include "iommufd_harness.h"

namespace vfio::soft::check {
namespace {

using iommufd::Access;
using iommufd::Context;

constexpr uint64_t kBase = 0x100000;

std::shared_ptr<Context> contextOf(const Fd& fd) { return std::dynamic_pointer_cast<Context>(fd.file); }

// Unpins all pages that it is asked to unpin.
struct Driver {
  struct Pin {
    uint64_t iova;
    uint64_t length;
  };
  std::vector<Pin> pins;
  Access::Handle access;
  unsigned told = 0;
  bool deaf = false;
  Access* used = nullptr;  // also set while `access` is destroyed, when `access` is already null

  Driver(const Fd& fd, bool needsPins) {
    access = Access::make(contextOf(fd), needsPins, [this](uint64_t iova, uint64_t length) {
      ++told;
      if (deaf) return;
      const uint64_t last = iova + (length - 1);
      std::erase_if(pins, [&](const Pin& pin) {
        if (iova > pin.iova + (pin.length - 1) || last < pin.iova) return false;
        used->unpinPages(pin.iova, pin.length);
        return true;
      });
    });
    used = access.get();
  }
  int pin(uint64_t iova, uint64_t length, bool write = false, std::vector<uint64_t>* out = nullptr) {
    std::vector<uint64_t> pages;
    const int result = access->pinPages(iova, length, write, pages);
    if (result == 0) pins.push_back({iova, length});
    if (out != nullptr) *out = pages;
    return result;
  }
};

void lives(Host& host) {
  Fd fd(host);
  const uint32_t ioas = fd.ioas();
  const uint32_t other = fd.ioas();
  {
    Driver driver(fd, true);
    claim("an access takes the next id", 3, driver.access->id);
    claim("... and is no IOAS", -ENOENT, fd.mapAt(3, kBase, 0x1000, kPage));
    claim("DESTROY of it is EBUSY", -EBUSY, fd.destroy(3));
    claim("replacing what isn't attached is ENOENT", -ENOENT, driver.access->replace(ioas));
    claim("an unknown IOAS is ENOENT", -ENOENT, driver.access->attach(99));
    claim("and so is the access itself", -ENOENT, driver.access->attach(3));
    claim("attach", 0, driver.access->attach(ioas));
    claim("a second time EINVAL", -EINVAL, driver.access->attach(ioas));
    claim("its IOAS is in use", -EBUSY, fd.destroy(ioas));
    claim("and has an alignment of a page", kPage, fd.ranges(ioas).alignment);
    claim("replace", 0, driver.access->replace(other));
    claim("... tells of everything", 1, driver.told);
    claim("... by the same does nothing", 0, driver.access->replace(other));
    claim("... not even tell", 1, driver.told);
    claim("the IOAS that it left is free, and its alignment 1", 1, fd.ranges(ioas).alignment);
    claim("... so that it can be destroyed", 0, fd.destroy(ioas));
    driver.access->detach();
    claim("what is mapped finer than a page", 0, fd.mapAt(other, kBase, 0x1000, 7));
    claim("... keeps an access that pins away: EADDRINUSE", -EADDRINUSE, driver.access->attach(other));
    claim("... which leaves no use behind", nullptr == driver.access->ioas());
    Driver copying(fd, false);
    claim("but not one that only copies", 0, copying.access->attach(other));
  }
  claim("gone with its driver", 0, fd.destroy(other));
  claim("... and its id is free", 1, fd.ioas());
}

void copies(Host& host) {
  Fd fd(host);
  const uint32_t ioas = fd.ioas();
  Buffer memory(4 * kPage);
  std::memset(memory.bytes(), 'a', memory.size());
  claim("two mappings side by side", 0, fd.mapAt(ioas, kBase, memory.user() + kPage, kPage));
  claim("... of pages the other way round", 0, fd.mapAt(ioas, kBase + kPage, memory.user(), kPage, kRead));
  Driver driver(fd, false);
  std::vector<unsigned char> data(2 * kPage, 'b');
  claim("not attached is ENOENT", -ENOENT, driver.access->rw(kBase, data.data(), 1, false));
  claim("attach", 0, driver.access->attach(ioas));
  claim("no length is EINVAL", -EINVAL, driver.access->rw(kBase, data.data(), 0, false));
  claim("a wrap EOVERFLOW", -EOVERFLOW, driver.access->rw(UINT64_MAX, data.data(), 2, false));
  claim("a hole ENOENT", -ENOENT, driver.access->rw(kBase - 1, data.data(), 2, false));
  claim("... behind the mapping too", -ENOENT,
        driver.access->rw(kBase + 2 * kPage - 1, data.data(), 2, false));
  claim("... up to which it has read", 'a', data[0]);
  data[0] = 'b';
  claim("writing to the second is EPERM", -EPERM,
        driver.access->rw(kBase + 2 * kPage - 8, data.data(), 8, true));
  claim("writing across both is EPERM", -EPERM, driver.access->rw(kBase + kPage - 8, data.data(), 16, true));
  claim("... and has written to the first", std::string(8, 'b'),
        std::string(memory.bytes() + 2 * kPage - 8, 8));
  claim("reading across both", 0, driver.access->rw(kBase + kPage - 8, data.data(), 16, false));
  claim("... is what is there", std::string("bbbbbbbbaaaaaaaa"),
        std::string(reinterpret_cast<char*>(data.data()), 16));
  std::vector<uint64_t> pages;
  claim("an access made without pinning can't", -EINVAL, driver.access->pinPages(kBase, kPage, false, pages));

  claim("memory that nobody can reach maps", 0, fd.mapAt(ioas, 0x900000, 0x1000, 2 * kPage));
  claim("... and is EFAULT", -EFAULT, driver.access->rw(0x900000, data.data(), 1, false));
  claim("... with pins too", -EFAULT, driver.access->rw(0x900000, data.data(), 2 * kPage, false, true));
  mprotect(memory.bytes(), 2 * kPage, PROT_READ);
  claim("mapped writable, of read-only memory", 0, fd.mapAt(ioas, 0xa00000, memory.user(), 2 * kPage));
  claim("... can be read as the program does", 0, driver.access->rw(0xa00000, data.data(), 2 * kPage, false));
  claim("... one page also with pins", 0, driver.access->rw(0xa00000, data.data(), kPage, false, true));
  claim("... but not two", -EFAULT, driver.access->rw(0xa00000, data.data(), 2 * kPage, false, true));
}

void pins(Host& host) {
  Fd fd(host);
  const uint32_t ioas = fd.ioas();
  Buffer memory(8 * kPage);
  Driver driver(fd, true);
  std::vector<uint64_t> pages;
  claim("not attached is ENOENT", -ENOENT, driver.pin(kBase, kPage));
  claim("attach", 0, driver.access->attach(ioas));
  claim("map", 0, fd.mapAt(ioas, kBase, memory.user(), 2 * kPage));
  claim("map the next", 0, fd.mapAt(ioas, kBase + 2 * kPage, memory.user() + 4 * kPage, 2 * kPage, kRead));
  claim("no length is EINVAL", -EINVAL, driver.pin(kBase, 0));
  claim("a wrap EOVERFLOW", -EOVERFLOW, driver.pin(UINT64_MAX, 2));
  claim("a start inside a page EINVAL", -EINVAL, driver.pin(kBase + 1, kPage));
  claim("a hole ENOENT", -ENOENT, driver.pin(kBase + 3 * kPage, 2 * kPage, false, &pages));
  claim("... with nothing pinned", 0, host.memory().pins(memory.user() + 5 * kPage));
  claim("writing to the second EPERM", -EPERM, driver.pin(kBase + kPage, 2 * kPage, true));
  claim("... with nothing pinned", 0, host.memory().pins(memory.user() + kPage));
  claim("both", 0, driver.pin(kBase + kPage, kPage + 1, false, &pages));
  claim("... are two pages", 2, static_cast<int64_t>(pages.size()));
  claim("... which are those", pages[0] == memory.user() + kPage && pages[1] == memory.user() + 4 * kPage);
  claim("... pinned", 1, host.memory().pins(pages[0]));
  claim("once more", 0, driver.pin(kBase + kPage, kPage, false));
  claim("... is shared", 1, host.memory().pins(pages[0]));

  driver.told = 0;
  claim("an unmapping that cuts doesn't ask", -ENOENT, fd.unmap(ioas, kBase + kPage, 3 * kPage));
  claim("... anybody", 0, driver.told);
  claim("unmapping the first", 0, fd.unmap(ioas, kBase, 2 * kPage));
  claim("... asks once", 1, driver.told);
  claim("... and gets all", 0, host.memory().pins(memory.user() + kPage));
  claim("... of the second mapping too, whose pin was the same", 0,
        host.memory().pins(memory.user() + 4 * kPage));
  claim("pins of the second alone", 0, driver.pin(kBase + 2 * kPage, 2 * kPage));
  claim("leaving the address space", 0, driver.access->replace(fd.ioas()));
  claim("... gives them back", 0, host.memory().pins(memory.user() + 4 * kPage));
  claim("nothing of the old one can be pinned", -ENOENT, driver.pin(kBase + 2 * kPage, kPage));

  claim("back again", 0, driver.access->replace(ioas));
  claim("a pin", 0, driver.pin(kBase + 2 * kPage, kPage));
  driver.deaf = true;
  driver.told = 0;
  uint64_t unmapped = 0;
  claim("who doesn't answer makes it EDEADLK", -EDEADLK, fd.unmap(ioas, 0, UINT64_MAX, &unmapped));
  claim("... after a hundred tries and one", 101, driver.told);
  claim("what is being unmapped isn't pinned again", -EINVAL, driver.pin(kBase + 2 * kPage, kPage));
  driver.deaf = false;
  claim("who answers at last", 0, fd.unmap(ioas, 0, UINT64_MAX, &unmapped));
  claim("... has it unmapped", 2 * kPage, unmapped);
}

void pinsAndPageTables(Host& host) {
  iommu::Unit unit = vtd();
  iommu::Group group = {1, {}};
  iommu::Endpoint nic(host, "0000:01:00.0", 0x100, unit, group);
  Fd fd(host);
  const uint32_t ioas = fd.ioas();
  Buffer memory(4 * kPage);
  claim("map", 0, fd.mapAt(ioas, kBase, memory.user(), 4 * kPage));
  Driver driver(fd, true);
  claim("attach", 0, driver.access->attach(ioas));
  claim("pin", 0, driver.pin(kBase + kPage, kPage));
  std::unique_ptr<iommufd::BoundDevice> device;
  uint32_t pt = ioas;
  claim("bind", 0, iommufd::bind(fd.file, nic, device));
  claim("attach a device", 0, device->attach(pt));
  claim("a page of both is pinned once", 1, host.memory().pins(memory.user() + kPage));
  device->detach();
  claim("... by the access alone", 1, host.memory().pins(memory.user() + kPage));
  claim("... and its neighbour by nobody", 0, host.memory().pins(memory.user()));
  uint32_t id = ioas;
  claim("compat", 0, fd.vfioIoas(uapi::IOMMU_VFIO_IOAS_SET, id));
  claim("type 1", 0, fd.file->ioctl(uapi::VFIO_SET_IOMMU, uapi::VFIO_TYPE1_IOMMU));
  uapi::vfio_iommu_type1_dma_unmap cut = {sizeof(cut), 0, kBase, kPage};
  claim("what an access has pinned can't be cut: EINVAL", -EINVAL, fd.call(uapi::VFIO_IOMMU_UNMAP_DMA, cut));
  driver.access->unpinPages(kBase + kPage, kPage);
  driver.pins.clear();
  claim("without pins it can", 0, fd.call(uapi::VFIO_IOMMU_UNMAP_DMA, cut));
  claim("nothing is left pinned", 0, host.memory().pins(memory.user() + kPage));
}

void closing(Host& host) {
  auto fd = std::make_unique<Fd>(host);
  const uint32_t ioas = fd->ioas();
  Buffer memory(kPage);
  std::memset(memory.bytes(), 'x', kPage);
  claim("map", 0, fd->mapAt(ioas, kBase, memory.user(), kPage));
  Driver driver(*fd, true);
  claim("attach", 0, driver.access->attach(ioas));
  claim("pin", 0, driver.pin(kBase, kPage));
  fd.reset();
  char byte = 0;
  claim("an access outlives the descriptor", 0, driver.access->rw(kBase, &byte, 1, false));
  claim("... and reads", 'x', byte);
  driver.access.reset();
  claim("nothing is left pinned", 0, host.memory().pins(memory.user()));
}

}  // namespace
}  // namespace vfio::soft::check

int main() {
  using namespace vfio::soft;
  Host host(std::make_shared<mm::Memory>(), {.kernel = {6, 12}});
  check::lives(host);
  check::copies(host);
  check::pins(host);
  check::pinsAndPageTables(host);
  check::closing(host);
  return check::failures == 0 ? 0 : 1;
}
