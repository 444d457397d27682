// Pinned pages are charged against RLIMIT_MEMLOCK: when, to whom, and how often. A call that would exceed the
// limit leaves nothing pinned. The checks run in a child process that has given up CAP_IPC_LOCK.
#include <linux/capability.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "../../native/soft/core/capable.h"
#include "../../native/soft/iommufd/access.h"
#include "../../native/soft/iommufd/context.h"
#include "iommufd_harness.h"

namespace vfio::soft::check {
namespace {

constexpr uint64_t kBase = 0x100000;
constexpr uint64_t kLimit = 16;  // pages

bool drop(unsigned capability) {
  __user_cap_header_struct header = {_LINUX_CAPABILITY_VERSION_3, 0};
  __user_cap_data_struct data[_LINUX_CAPABILITY_U32S_3] = {};
  if (syscall(SYS_capget, &header, data) != 0) return false;
  data[CAP_TO_INDEX(capability)].effective &= ~CAP_TO_MASK(capability);
  return syscall(SYS_capset, &header, data) == 0;
}

// A context with a device. Its pinned pages are charged to `payer`.
struct Setup {
  Host& host;
  iommu::Unit unit = vtd();
  iommu::Group group = {1, {}};
  iommu::Endpoint nic{host, "0000:01:00.0", 0x100, unit, group};
  Fd fd{host};
  std::unique_ptr<iommufd::BoundDevice> device;

  Setup(Host& itsHost, mm::Payer payer) : host(itsHost) {
    fd.file = std::make_shared<iommufd::Context>(host, payer, nullptr);
    claim("bind", 0, iommufd::bind(fd.file, nic, device));
  }
  int attach(uint32_t pt) { return place(*device, pt); }
};

void charges(Host& host, mm::Payer payer) {
  const mm::Charges& counted = host.memory().charges;
  const auto charged = [&counted, payer] {
    return payer == mm::Payer::user ? counted.userPages() : counted.lockedPages();
  };
  const std::string who = payer == mm::Payer::user ? "user: " : "mm: ";
  Setup setup(host, payer);
  Fd& fd = setup.fd;
  const uint32_t ioas = fd.ioas();
  Buffer memory((kLimit + 8) * kPage);
  const uint64_t user = memory.user();

  claim(who + "more than the limit maps while no page table wants it", 0,
        fd.mapAt(ioas, kBase, user, (kLimit + 1) * kPage));
  claim(who + "... and costs nothing", 0, charged() + counted.pinnedPages());
  claim(who + "attaching then is ENOMEM", -ENOMEM, setup.attach(ioas));
  claim(who + "... with nothing charged", 0, charged() + counted.pinnedPages());
  claim(who + "... or pinned", 0, host.memory().pins(user));
  claim(who + "... or reserved", 1, fd.ranges(ioas).count);
  claim(who + "unmap", 0, fd.unmap(ioas, kBase, (kLimit + 1) * kPage));
  claim(who + "attaching", 0, setup.attach(ioas));

  claim(who + "a page less than the limit", 0, fd.mapAt(ioas, kBase, user, (kLimit - 1) * kPage));
  claim(who + "... is charged", kLimit - 1, charged());
  claim(who + "... and counted as pinned", kLimit - 1, counted.pinnedPages());
  claim(who + "two pages more are ENOMEM", -ENOMEM, fd.mapAt(ioas, 2 * kBase, user, 2 * kPage));
  claim(who + "... with nothing charged", kLimit - 1, charged());
  claim(who + "one page more fits", 0, fd.mapAt(ioas, 2 * kBase, user, kPage));
  claim(who + "... although it is pinned already: it is charged per mapping", kLimit, charged());
  uint64_t iova = 3 * kBase;
  claim(who + "a copy is free", 0, fd.copy(ioas, kBase, ioas, 4 * kPage, iova, kBoth | kFixed));
  claim(who + "... of charge", kLimit, charged());
  claim(who + "nothing of it is left when its source goes", 0, fd.unmap(ioas, kBase, (kLimit - 1) * kPage));
  claim(who + "... but what the copy needs", 5, charged());
  mprotect(memory.bytes() + (kLimit + 7) * kPage, kPage, PROT_NONE);
  claim(who + "what can't be reached is EFAULT, before what can't be paid is ENOMEM", -EFAULT,
        fd.mapAt(ioas, kBase, user + 7 * kPage, (kLimit + 1) * kPage));
  claim(who + "... with nothing charged", 5, charged());
  claim(who + "unmap all", 0, fd.unmap(ioas, 0, UINT64_MAX));
  claim(who + "... gives all back", 0, charged() + counted.pinnedPages());

  uint32_t other = fd.ioas();
  claim(who + "two halves of a page, in an address space of their own", 0,
        fd.mapAt(other, kBase, user, 2048));
  claim(who + "...", 0, fd.mapAt(other, kBase + 2048, user + 2048, 2048));
  auto access = iommufd::Access::make(std::dynamic_pointer_cast<iommufd::Context>(fd.file), false,
                                      [](uint64_t, uint64_t) {});
  claim(who + "an access", 0, access->attach(other));
  char byte = 0;
  claim(who + "copies without charge", 0, access->rw(kBase, &byte, 1, true));
  claim(who + "...", 0, charged() + counted.pinnedPages());
  access.reset();
  claim(who + "unmap", 0, fd.unmap(other, 0, UINT64_MAX));

  auto pinning = iommufd::Access::make(std::dynamic_pointer_cast<iommufd::Context>(fd.file), true,
                                       [](uint64_t, uint64_t) {});
  std::vector<uint64_t> pages;
  claim(who + "map past the limit", 0, fd.mapAt(other, kBase, user, (kLimit + 1) * kPage));
  claim(who + "an access that pins", 0, pinning->attach(other));
  claim(who + "... is charged for what it pins", 0, pinning->pinPages(kBase, 3 * kPage, false, pages));
  claim(who + "...", 3, charged());
  claim(who + "... once", 0, pinning->pinPages(kBase + kPage, 3 * kPage, false, pages));
  claim(who + "...", 4, charged());
  claim(who + "past the limit it is ENOMEM", -ENOMEM,
        pinning->pinPages(kBase, (kLimit + 1) * kPage, false, pages));
  claim(who + "...", 4, charged());
  pinning->unpinPages(kBase, 3 * kPage);
  pinning->unpinPages(kBase + kPage, 3 * kPage);
  claim(who + "unpinned, nothing is charged", 0, charged() + counted.pinnedPages());
  pinning.reset();

  claim(who + "huge pages off", 0, fd.unmap(other, 0, UINT64_MAX));
  uint64_t off = 0;
  claim(who + "...", 0, fd.option(uapi::IOMMU_OPTION_HUGE_PAGES, uapi::IOMMU_OPTION_OP_SET, other, off));
  claim(who + "replace", 0, setup.attach(other));
  claim(who + "a mapping", 0, fd.mapAt(other, kBase, user, 8 * kPage));
  claim(who + "compat", 0, fd.vfioIoas(uapi::IOMMU_VFIO_IOAS_SET, other));
  uapi::vfio_iommu_type1_dma_unmap cut = {sizeof(cut), 0, kBase + 2 * kPage, kPage};
  claim(who + "a hole cut into it", 0, fd.call(uapi::VFIO_IOMMU_UNMAP_DMA, cut));
  claim(who + "... costs a page less", 7, charged());
  setup.device.reset();
  claim(who + "nothing is charged when the last page table goes", 0, charged() + counted.pinnedPages());
}

// The capabilities of the process that makes a mapping also count for its later pins.
void capabilityCounts(Host& host) {
  if (!capable(CAP_IPC_LOCK)) {
    std::printf("skip: mapping with CAP_IPC_LOCK, which this process hasn't got\n");
    return;
  }
  const mm::Charges& counted = host.memory().charges;
  Setup setup(host, mm::Payer::user);
  const uint32_t ioas = setup.fd.ioas();
  Buffer memory((kLimit + 1) * kPage);
  claim("mapped with CAP_IPC_LOCK", 0, setup.fd.mapAt(ioas, kBase, memory.user(), (kLimit + 1) * kPage));
  claim("... which is given up then", drop(CAP_IPC_LOCK));
  claim("... it is pinned past the limit", 0, setup.attach(ioas));
  claim("... counted", kLimit + 1, counted.pinnedPages());
  claim("... and not charged", 0, counted.userPages());
  claim("what is mapped now is charged", 0, setup.fd.mapAt(ioas, 2 * kBase, memory.user(), kPage));
  claim("...", 1, counted.userPages());
}

void lockedMemoryCounts(Host& host) {
  Setup setup(host, mm::Payer::mm);
  const uint32_t ioas = setup.fd.ioas();
  Buffer memory(kLimit * kPage);
  claim("a device", 0, setup.attach(ioas));
  // Called by number, because AddressSanitizer's mlock does nothing.
  claim("memory that the program locks", 0, static_cast<int>(syscall(SYS_mlock, memory.bytes(), 4 * kPage)));
  claim("counts with what is pinned for the mm", -ENOMEM,
        setup.fd.mapAt(ioas, kBase, memory.user(), (kLimit - 3) * kPage));
  claim("... up to the limit", 0, setup.fd.mapAt(ioas, kBase, memory.user(), (kLimit - 4) * kPage));
  syscall(SYS_munlock, memory.bytes(), 4 * kPage);
}

int inChild() {
  const rlimit limit = {kLimit * kPage, kLimit * kPage};
  if (setrlimit(RLIMIT_MEMLOCK, &limit) != 0) return 1;
  Host host(std::make_shared<mm::Memory>(), {.kernel = {6, 12}});
  capabilityCounts(host);
  if (capable(CAP_IPC_LOCK)) return 1;
  charges(host, mm::Payer::user);
  charges(host, mm::Payer::mm);
  lockedMemoryCounts(host);
  return failures == 0 ? 0 : 1;
}

}  // namespace
}  // namespace vfio::soft::check

int main() {
  const pid_t child = fork();
  if (child == 0) return vfio::soft::check::inChild();
  int status = 0;
  waitpid(child, &status, 0);
  return status == 0 ? 0 : 1;
}
