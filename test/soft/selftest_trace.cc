// Prints the answers of iommufd's test-only command, and of ordinary commands on the objects that it makes,
// one on each line, in a fixed sequence. `selftest_trace kernel` calls the kernel that it runs on (it needs
// CONFIG_IOMMUFD_TEST: the guest, started with IOMMU=none); `selftest_trace soft` calls a software host of
// the same release. selftest_trace.txt contains the answers of Linux 6.12.
#include <fcntl.h>
#include <poll.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <cstring>
#include <memory>
#include <string>

#include "../../native/soft/host/host.h"
#include "../../native/soft/mm/memory.h"
#include "../../native/soft/selftest/test_command.h"
#include "../../native/uapi/iommufd.h"
#include "../../native/uapi/iommufd_data.h"
#include "failing.h"

using namespace vfio;
using namespace vfio::soft;
using namespace vfio::soft::selftest;

namespace {

std::unique_ptr<Backend> host;  // null: the kernel

constexpr uint64_t kPage = 4096;
constexpr uint64_t kStart = 1 << 24;  // the start of the mock aperture
constexpr uint32_t kFixedBoth =
    uapi::IOMMU_IOAS_MAP_FIXED_IOVA | uapi::IOMMU_IOAS_MAP_READABLE | uapi::IOMMU_IOAS_MAP_WRITEABLE;

int64_t result(int64_t value) { return value < 0 ? -errno : value; }

int openFile() {
  return host ? host->open("/dev/iommu", O_RDWR) : static_cast<int>(result(open("/dev/iommu", O_RDWR)));
}
int closeFile(int fd) { return host ? host->close(fd) : static_cast<int>(result(close(fd))); }
int call(int fd, uint32_t request, void* argument) {
  if (host) return host->ioctl(fd, request, reinterpret_cast<uintptr_t>(argument));
  return static_cast<int>(result(ioctl(fd, request, argument)));
}
int64_t readFile(int fd, void* to, size_t size) {
  return host ? host->read(fd, to, size) : result(read(fd, to, size));
}
int64_t writeFile(int fd, const void* from, size_t size) {
  return host ? host->write(fd, from, size) : result(write(fd, from, size));
}

void show(const std::string& what, int64_t answer) {
  if (answer < 0) {
    std::printf("%s -> %s\n", what.c_str(), strerrorname_np(static_cast<int>(-answer)));
  } else {
    std::printf("%s -> %lld\n", what.c_str(), static_cast<long long>(answer));
  }
}
void show(const std::string& what, int64_t answer, std::initializer_list<uint64_t> values) {
  std::string text;
  for (const uint64_t value : values) {
    char word[32];
    std::snprintf(word, sizeof(word), " %llx", static_cast<unsigned long long>(value));
    text += word;
  }
  std::printf("%s -> %s:%s\n", what.c_str(),
              answer < 0 ? strerrorname_np(static_cast<int>(-answer)) : std::to_string(answer).c_str(),
              text.c_str());
}

// Memory of one file, so that it can be mapped at several addresses.
class Shared {
 public:
  explicit Shared(size_t pages) : size_(pages * kPage), fd_(memfd_create("pages", MFD_CLOEXEC)) {
    if (ftruncate(fd_, static_cast<off_t>(size_)) != 0) std::perror("ftruncate");
  }
  ~Shared() { close(fd_); }
  Shared(const Shared&) = delete;
  Shared& operator=(const Shared&) = delete;
  [[nodiscard]] uint64_t show(int type = MAP_SHARED, int protection = PROT_READ | PROT_WRITE) const {
    return reinterpret_cast<uint64_t>(mmap(nullptr, size_, protection, type, fd_, 0));
  }

 private:
  size_t size_;
  int fd_;
};

uint64_t anonymous(size_t pages, int protection = PROT_READ | PROT_WRITE) {
  return reinterpret_cast<uint64_t>(
      mmap(nullptr, pages * kPage, protection, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
}

// An open iommufd with short forms of its requests.
struct Fd {
  int fd = openFile();

  TestCommand command(uint32_t op, uint32_t id) const {
    TestCommand command = {};
    command.size = sizeof(command);
    command.op = op;
    command.id = id;
    return command;
  }
  int test(TestCommand& command) const { return call(fd, kRequest, &command); }

  uint32_t ioas() const {
    uapi::iommu_ioas_alloc alloc = {sizeof(alloc), 0, 0};
    const int error = call(fd, uapi::IOMMU_IOAS_ALLOC, &alloc);
    show("ioas", error, {alloc.out_ioas_id});
    return alloc.out_ioas_id;
  }
  void destroy(const std::string& what, uint32_t id) const {
    uapi::iommu_destroy destroy = {sizeof(destroy), id};
    show("destroy " + what, call(fd, uapi::IOMMU_DESTROY, &destroy));
  }
  int map(uint32_t ioas, uint64_t iova, uint64_t user, uint64_t length, uint32_t flags = kFixedBoth) const {
    uapi::iommu_ioas_map map = {sizeof(map), flags, ioas, 0, user, length, iova};
    return call(fd, uapi::IOMMU_IOAS_MAP, &map);
  }
  int unmap(uint32_t ioas, uint64_t iova, uint64_t length) const {
    uapi::iommu_ioas_unmap unmap = {sizeof(unmap), ioas, iova, length};
    return call(fd, uapi::IOMMU_IOAS_UNMAP, &unmap);
  }
  struct Mock {
    uint32_t stdev, hwpt, idev;
  };
  Mock mock(const std::string& what, uint32_t pt, uint32_t flags = 0) const {
    TestCommand make = command(kMockDeviceFlags, pt);
    make.mockDevice.flags = flags;
    const int error = test(make);
    const Mock made = {make.mockDevice.outStdevId, make.mockDevice.outHwptId, make.mockDevice.outIdevId};
    show("mock device, " + what, error, {made.stdev, made.hwpt, made.idev});
    return made;
  }
  void replace(const std::string& what, uint32_t stdev, uint32_t pt) const {
    TestCommand replace = command(kReplaceMockDevice, stdev);
    replace.replaceMockDevice.ptId = pt;
    const int error = test(replace);
    show("replace, " + what, error, {replace.replaceMockDevice.ptId});
  }
  uint32_t hwpt(const std::string& what, uint32_t device, uint32_t pt, uint32_t flags, uint32_t type = 0,
                const void* data = nullptr, uint32_t length = 0, uint32_t queue = 0) const {
    uapi::iommu_hwpt_alloc alloc = {};
    alloc.size = sizeof(alloc);
    alloc.flags = flags;
    alloc.dev_id = device;
    alloc.pt_id = pt;
    alloc.data_type = type;
    alloc.data_len = length;
    alloc.data_uptr = reinterpret_cast<uint64_t>(data);
    alloc.fault_id = queue;
    const int error = call(fd, uapi::IOMMU_HWPT_ALLOC, &alloc);
    show("hwpt, " + what, error, {alloc.out_hwpt_id});
    return alloc.out_hwpt_id;
  }
  void checkMap(const std::string& what, uint32_t hwpt, uint64_t iova, uint64_t length, uint64_t user) const {
    TestCommand check = command(kCheckMap, hwpt);
    check.checkMap = {iova, length, user};
    show("check map, " + what, test(check));
  }
  void checkRefs(const std::string& what, uint64_t user, uint64_t length, uint32_t refs) const {
    TestCommand check = command(kCheckRefs, 0);
    check.checkRefs = {length, user, refs};
    show("check refs, " + what, test(check));
  }
  uint32_t access(const std::string& what, uint32_t ioas, uint32_t flags) const {
    TestCommand create = command(kCreateAccess, ioas);
    create.createAccess.flags = flags;
    show("create access, " + what, test(create));
    return create.createAccess.outAccessFd;
  }
  uint32_t pin(const std::string& what, uint32_t access, uint64_t iova, uint64_t length, uint64_t user,
               uint32_t flags = 0) const {
    TestCommand pin = command(kAccessPages, access);
    pin.accessPages = {flags, 0x55, iova, length, user};
    const int error = test(pin);
    show("pin, " + what, error, {pin.accessPages.outAccessPagesId});
    return pin.accessPages.outAccessPagesId;
  }
  void unpin(const std::string& what, uint32_t access, uint32_t item) const {
    TestCommand unpin = command(kDestroyAccessPages, access);
    unpin.destroyAccessPages.accessPagesId = item;
    show("unpin, " + what, test(unpin));
  }
  int rw(uint32_t access, uint64_t iova, void* data, uint64_t length, uint32_t flags) const {
    TestCommand rw = command(kAccessRw, access);
    rw.accessRw = {iova, length, reinterpret_cast<uint64_t>(data), flags};
    return test(rw);
  }
};

void sizes() {
  const Fd f;
  TestCommand command = f.command(99, 0);
  show("unknown operation", f.test(command));
  command.size = kMinimum - 1;
  show("too short", f.test(command));
  command.size = kMinimum;
  show("just long enough", f.test(command));
  struct {
    TestCommand command;
    uint64_t more;
  } longer = {command, 1};
  longer.command.size = sizeof(longer);
  show("longer, not zero", call(f.fd, kRequest, &longer));
  longer.more = 0;
  show("longer, zero", call(f.fd, kRequest, &longer));
  show("no struct", call(f.fd, kRequest, nullptr));
  for (const uint32_t limit : {11U, 12U, 65536U}) {
    command = f.command(kSetMemoryLimit, 0);
    command.memoryLimit.limit = limit;
    show("memory limit " + std::to_string(limit), f.test(command));
  }
  // A lower number that has no command, and the next higher number.
  show("a number between", call(f.fd, 0x3b9f, &command));
  show("a number between, no struct", call(f.fd, 0x3b9f, nullptr));
  show("a number behind", call(f.fd, 0x3ba1, &command));
  closeFile(f.fd);
}

void reserved() {
  const Fd f;
  const uint32_t ioas = f.ioas();
  const uint64_t user = anonymous(4);
  const auto reserve = [&](const char* what, uint32_t id, uint64_t start, uint64_t length) {
    TestCommand command = f.command(kAddReserved, id);
    command.addReserved = {start, length};
    show(std::string("reserve, ") + what, f.test(command));
  };
  reserve("nothing", 99, 0x1000, 0);
  reserve("wrapping", 99, UINT64_MAX, 2);
  reserve("in what is no IOAS", 99, 0x1000, 1);
  reserve("one byte", ioas, 0x1001, 1);
  reserve("again", ioas, 0x1001, 1);
  reserve("the last byte", ioas, UINT64_MAX, 1);
  show("map over it", f.map(ioas, 0x1000, user, kPage));
  show("map beside it", f.map(ioas, 0x1002, user, kPage));
  reserve("where something is mapped", ioas, 0x2001, 1);
  show("unmap all", f.unmap(ioas, 0, UINT64_MAX));
  reserve("everything", ioas, 0, UINT64_MAX);
  closeFile(f.fd);
}

void deviceObjects() {
  const Fd f;
  f.mock("on nothing", 7);
  const uint32_t ioas = f.ioas();
  f.mock("unknown flags", ioas, 4);
  const Fd::Mock first = f.mock("first", ioas);
  f.mock("the same table", first.hwpt);
  f.mock("on a device", first.idev);
  f.mock("on a mock device", first.stdev);
  const Fd::Mock noDirty = f.mock("no dirty tracking", ioas, kDeviceNoDirty);
  f.mock("large pages", ioas, kDeviceHugeIova);
  f.mock("both", ioas, kDeviceNoDirty | kDeviceHugeIova);
  f.destroy("the device", first.idev);
  f.destroy("its table", first.hwpt);
  f.destroy("its IOAS", ioas);
  const uint32_t dirty = f.hwpt("dirty tracking", first.idev, ioas, uapi::IOMMU_HWPT_ALLOC_DIRTY_TRACKING);
  f.hwpt("dirty tracking where there is none", noDirty.idev, ioas, uapi::IOMMU_HWPT_ALLOC_DIRTY_TRACKING);
  f.replace("no such device", 99, ioas);
  f.replace("a device for a mock device", first.idev, ioas);
  f.replace("by nothing", first.stdev, 99);
  f.replace("by a device", first.stdev, first.idev);
  f.replace("by a table", first.stdev, dirty);
  f.replace("by a table that it can't use", noDirty.stdev, dirty);
  f.mock("on a table that it can't use", dirty, kDeviceNoDirty);
  f.replace("by its own", first.stdev, dirty);
  const uint32_t other = f.ioas();
  f.replace("by another IOAS", first.stdev, other);
  f.destroy("the table that it left", dirty);
  f.destroy("the mock device", first.stdev);
  f.destroy("it again", first.stdev);
  f.destroy("the other IOAS", other);
  const Fd::Mock again = f.mock("ids again", ioas);
  // The answer can't be written: the device must not remain.
  auto* const locked = static_cast<TestCommand*>(
      mmap(nullptr, kPage, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
  *locked = f.command(kMockDevice, ioas);
  mprotect(locked, kPage, PROT_READ);
  show("mock device, no place for the answer", f.test(*locked));
  mprotect(locked, kPage, PROT_READ | PROT_WRITE);
  *locked = f.command(kReplaceMockDevice, again.stdev);
  locked->replaceMockDevice.ptId = ioas;
  mprotect(locked, kPage, PROT_READ);
  show("replace, no place for the answer", f.test(*locked));
  munmap(locked, kPage);
  f.mock("after that", ioas);
  closeFile(f.fd);
}

void hwInfo() {
  const Fd f;
  const uint32_t ioas = f.ioas();
  for (const uint32_t flags : {0U, kDeviceNoDirty}) {
    const Fd::Mock mock = f.mock("for hw_info", ioas, flags);
    for (const uint32_t length : {0U, 3U, 8U, 20U}) {
      unsigned char data[24];
      std::memset(data, 0xaa, sizeof(data));
      uapi::iommu_hw_info info = {};
      info.size = sizeof(info);
      info.dev_id = mock.idev;
      info.data_len = length;
      info.data_uptr = reinterpret_cast<uint64_t>(data);
      const int error = call(f.fd, uapi::IOMMU_GET_HW_INFO, &info);
      uint64_t words[3];
      std::memcpy(words, data, sizeof(words));
      show("hw_info in " + std::to_string(length), error,
           {info.out_data_type, info.data_len, info.out_capabilities, info.out_max_pasid_log2, words[0],
            words[1], words[2]});
    }
  }
  closeFile(f.fd);
}

void maps() {
  const Fd f;
  const uint32_t ioas = f.ioas();
  const Fd::Mock mock = f.mock("for maps", ioas);
  const Shared file(4);
  const uint64_t user = file.show();
  const uint64_t twin = file.show();
  const uint64_t copy = file.show(MAP_PRIVATE);
  const uint64_t other = anonymous(4);
  const uint64_t hidden = anonymous(1, PROT_NONE);
  f.checkMap("misaligned IOVA", 99, kStart + 1, 2048, user);
  f.checkMap("misaligned length", 99, kStart, 2047, user);
  f.checkMap("misaligned address", 99, kStart, 2048, user + 1024);
  f.checkMap("wrapping", 99, kStart, 4096, UINT64_MAX - 2047);
  f.checkMap("no such table", 99, kStart, 2048, user);
  f.checkMap("of a device", mock.idev, kStart, 2048, user);
  f.checkMap("nothing of nothing", mock.hwpt, kStart, 0, 0);
  f.checkMap("before it is mapped", mock.hwpt, kStart, 2048, user);
  show("map", f.map(ioas, kStart, user, 4 * kPage));
  f.checkMap("all of it", mock.hwpt, kStart, 4 * kPage, user);
  f.checkMap("beyond it", mock.hwpt, kStart, 4 * kPage + 2048, user);
  f.checkMap("half a page", mock.hwpt, kStart + 2048, 2048, user + 2048);
  f.checkMap("the other half", mock.hwpt, kStart + 2048, 2048, user);
  f.checkMap("the same file elsewhere", mock.hwpt, kStart, 4 * kPage, twin);
  f.checkMap("another page of it", mock.hwpt, kStart, kPage, twin + kPage);
  std::memset(reinterpret_cast<void*>(copy), 1, kPage);
  f.checkMap("a private copy", mock.hwpt, kStart, kPage, copy);
  f.checkMap("other memory", mock.hwpt, kStart, kPage, other);
  f.checkMap("memory that can't be read", mock.hwpt, kStart, kPage, hidden);
  f.checkMap("no memory", mock.hwpt, kStart, kPage, 0);
  show("map, half a page on", f.map(ioas, kStart + 8 * kPage + 2048, user + 2048, kPage));
  f.checkMap("across pages", mock.hwpt, kStart + 8 * kPage + 2048, kPage, user + 2048);
  show("map, memory that can't be read", f.map(ioas, kStart + 16 * kPage, hidden, kPage));
  show("map, beneath the aperture", f.map(ioas, kStart - kPage, user, kPage));
  show("map, above the aperture", f.map(ioas, uint64_t{1} << 31, user, kPage));
  show("map, a quarter page", f.map(ioas, kStart + 32 * kPage, user, 1024));
  show("unmap a part", f.unmap(ioas, kStart, kPage));
  show("unmap", f.unmap(ioas, kStart, 4 * kPage));
  f.checkMap("after that", mock.hwpt, kStart, kPage, user);

  const uint64_t late = anonymous(2);
  const uint32_t lazy = f.ioas();
  show("map without a table", f.map(lazy, kStart, late, 2 * kPage));
  munmap(reinterpret_cast<void*>(late + kPage), kPage);
  f.mock("on what is not there any more", lazy);
  closeFile(f.fd);
}

void refs() {
  const Fd f;
  const uint32_t ioas = f.ioas();
  f.mock("for refs", ioas);
  const Shared file(4);
  const uint64_t user = file.show();
  const uint64_t twin = file.show();
  const uint64_t hidden = anonymous(1, PROT_NONE);
  f.checkRefs("misaligned address", user + 2048, kPage, 0);
  f.checkRefs("misaligned length", user, 2048, 0);
  f.checkRefs("wrapping", UINT64_MAX - (kPage - 1), 2 * kPage, 0);
  f.checkRefs("of nothing", 0, 0, 7);
  f.checkRefs("no memory", 0, kPage, 0);
  f.checkRefs("memory that can't be read", hidden, kPage, 0);
  f.checkRefs("unpinned", user, 4 * kPage, 0);
  f.checkRefs("unpinned, one expected", user, 4 * kPage, 1);
  show("map", f.map(ioas, kStart, user, 2 * kPage));
  f.checkRefs("pinned", user, 2 * kPage, 1);
  f.checkRefs("pinned, none expected", user, kPage, 0);
  f.checkRefs("beside it", user, 3 * kPage, 1);
  f.checkRefs("the same file elsewhere", twin, 2 * kPage, 1);
  show("map it there too", f.map(ioas, kStart + 8 * kPage, twin, kPage));
  f.checkRefs("both", user, kPage, 2);
  f.checkRefs("both, elsewhere", twin, kPage, 2);
  f.checkRefs("the second page", twin + kPage, kPage, 1);
  show("map again", f.map(ioas, kStart + 16 * kPage, user, kPage));
  f.checkRefs("three times", user, kPage, 3);
  uapi::iommu_ioas_copy copy = {sizeof(copy), kFixedBoth, ioas, ioas, kPage, kStart + 24 * kPage, kStart};
  show("copy", call(f.fd, uapi::IOMMU_IOAS_COPY, &copy));
  f.checkRefs("a copy is no more", user, kPage, 3);
  show("unmap the original", f.unmap(ioas, kStart, 2 * kPage));
  f.checkRefs("the copy still holds it", user, kPage, 3);
  f.checkRefs("the page that isn't copied", user + kPage, kPage, 0);
  show("unmap all", f.unmap(ioas, 0, UINT64_MAX));
  f.checkRefs("unmapped", user, 4 * kPage, 0);
  closeFile(f.fd);
}

void accesses() {
  const Fd f;
  const uint32_t ioas = f.ioas();
  f.access("unknown flags", 99, 2);
  f.access("no such IOAS", 99, 0);
  const auto plain = f.access("plain", ioas, 0);
  const auto pinning = f.access("pinning", ioas, kAccessNeedsPinPages);
  f.destroy("an access", 2);
  f.destroy("its IOAS", ioas);
  const uint64_t user = anonymous(8);
  const uint64_t other = anonymous(1);
  const uint64_t hidden = anonymous(1, PROT_NONE);
  show("map", f.map(ioas, kStart, user, 4 * kPage));
  show("map, read only", f.map(ioas, kStart + 4 * kPage, user + 4 * kPage, kPage,
                               uapi::IOMMU_IOAS_MAP_FIXED_IOVA | uapi::IOMMU_IOAS_MAP_READABLE));
  show("map, write only", f.map(ioas, kStart + 5 * kPage, user + 5 * kPage, kPage,
                                uapi::IOMMU_IOAS_MAP_FIXED_IOVA | uapi::IOMMU_IOAS_MAP_WRITEABLE));
  show("map, half a page", f.map(ioas, kStart + 6 * kPage, user + 6 * kPage, 2048));
  show("map, memory that can't be read", f.map(ioas, kStart + 8 * kPage, hidden, kPage));

  f.pin("too much", 999, kStart, (16 << 20) + 1, 0);
  f.pin("unknown flags", 999, kStart, kPage, 0, 2);
  f.pin("no descriptor", 999, kStart, kPage, 0);
  f.pin("another descriptor", static_cast<uint32_t>(f.fd), kStart, kPage, 0);
  f.pin("by one that doesn't", plain, kStart, kPage, 0);
  f.pin("nothing", pinning, kStart, 0, 0);
  f.pin("wrapping", pinning, UINT64_MAX, 2, 0);
  f.pin("a hole", pinning, kStart + 16 * kPage, kPage, 0);
  f.pin("into a hole", pinning, kStart + 8 * kPage, 2 * kPage, 0);
  f.pin("memory that can't be read", pinning, kStart + 8 * kPage, kPage, 0);
  f.pin("other memory", pinning, kStart, kPage, other);
  f.pin("no memory", pinning, kStart, kPage, 8 * kPage);
  f.checkRefs("after all that", user, 8 * kPage, 0);
  const uint32_t first = f.pin("a page", pinning, kStart, kPage, user);
  f.checkRefs("with it", user, kPage, 1);
  const uint32_t second = f.pin("it again", pinning, kStart, kPage, user, kAccessWrite);
  f.checkRefs("with both", user, kPage, 1);
  f.pin("two areas", pinning, kStart + 3 * kPage, 2 * kPage, user + 3 * kPage);
  f.pin("two areas, to write", pinning, kStart + 3 * kPage, 2 * kPage, 0, kAccessWrite);
  f.pin("what can only be written", pinning, kStart + 5 * kPage, kPage, 0);
  f.pin("from inside a page", pinning, kStart + 100, 50, user + 100);
  f.pin("half a page", pinning, kStart + 6 * kPage, 2048, 0);
  f.unpin("no descriptor", 999, first);
  f.unpin("no such pages", pinning, 77);
  f.unpin("the first", pinning, first);
  f.checkRefs("without it", user, kPage, 1);
  f.unpin("it again", pinning, first);
  show("unmap", f.unmap(ioas, kStart, 4 * kPage));
  f.unpin("what was unmapped", pinning, second);
  f.checkRefs("unmapped", user, 4 * kPage, 0);

  char data[64] = "words";
  show("rw, too much", f.rw(999, kStart, data, (16 << 20) + 1, 0));
  show("rw, unknown flags", f.rw(999, kStart, data, 5, 2));
  show("rw, no descriptor", f.rw(999, kStart, data, 5, 0));
  show("rw, a hole", f.rw(plain, kStart, data, 5, 0));
  show("map", f.map(ioas, kStart, user, 4 * kPage));
  show("rw, nothing", f.rw(plain, kStart, data, 0, 0));
  show("rw, wrapping", f.rw(plain, UINT64_MAX, data, 2, 0));
  for (const uint32_t slow : {0U, kAccessRwSlowPath}) {
    const std::string way = slow != 0 ? ", by pages" : "";
    std::memset(reinterpret_cast<void*>(user), 0, kPage);
    show("rw, write" + way, f.rw(plain, kStart + 5, data, 5, kAccessRwWrite | slow));
    std::printf("memory: %.5s\n", reinterpret_cast<char*>(user + 5));
    char back[8] = {};
    show("rw, read" + way, f.rw(plain, kStart + 5, back, 5, slow));
    std::printf("read: %.5s\n", back);
    show("rw, no memory" + way, f.rw(plain, kStart, nullptr, 5, kAccessRwWrite | slow));
    show("rw, no memory to read into" + way, f.rw(plain, kStart, nullptr, 5, slow));
    show("rw, write what is read only" + way,
         f.rw(plain, kStart + 4 * kPage, data, 5, kAccessRwWrite | slow));
    show("rw, across both" + way, f.rw(plain, kStart + 4 * kPage - 2, data, 5, kAccessRwWrite | slow));
    show("rw, read what is write only" + way, f.rw(plain, kStart + 5 * kPage, data, 5, slow));
    show("rw, memory that can't be read" + way, f.rw(plain, kStart + 8 * kPage, data, 5, slow));
    show("rw, into a hole" + way, f.rw(plain, kStart + 7 * kPage - 2, data, 5, slow));
  }

  const uint32_t other2 = f.ioas();
  const auto move = [&](const char* what, uint32_t access, uint32_t to) {
    TestCommand replace = f.command(kReplaceAccess, access);
    replace.replaceAccess.ioasId = to;
    show(std::string("move access, ") + what, f.test(replace));
  };
  move("no descriptor", 999, other2);
  move("to nothing", plain, 99);
  move("to a device", plain, 2);
  move("elsewhere", plain, other2);
  move("to where it is", plain, other2);
  show("rw, where nothing is", f.rw(plain, kStart, data, 5, 0));
  f.destroy("the IOAS that one left", ioas);
  show("map, odd", f.map(other2, 0x1003, user, 5));
  move("over what it can't pin", pinning, other2);
  f.pin("where it was", pinning, kStart, kPage, user);
  // The access outlives the iommufd.
  const Fd later;
  closeFile(f.fd);
  TestCommand reach = later.command(kAccessPages, pinning);
  reach.accessPages = {0, 0, kStart, kPage, user};
  show("pin, after the iommufd is closed", later.test(reach));
  later.checkRefs("held", user, kPage, 1);
  show("close the access", closeFile(static_cast<int>(pinning)));
  later.checkRefs("let go", user, kPage, 0);
  show("close the other", closeFile(static_cast<int>(plain)));
  closeFile(later.fd);
}

void pinsAndTables() {
  const Fd f;
  const uint32_t ioas = f.ioas();
  const uint64_t user = anonymous(4);
  show("map, odd", f.map(ioas, kStart + 1, user + 1, 5));
  f.access("pinning, over what it can't pin", ioas, kAccessNeedsPinPages);
  show("unmap all", f.unmap(ioas, 0, UINT64_MAX));
  const uint32_t access = f.access("pinning", ioas, kAccessNeedsPinPages);
  show("map, half a page", f.map(ioas, kStart, user, 2048));
  show("map", f.map(ioas, kStart, user, 4 * kPage));
  const uint32_t item = f.pin("a page", access, kStart + kPage, kPage, user + kPage);
  f.checkRefs("pinned by the access", user + kPage, kPage, 1);
  const Fd::Mock mock = f.mock("beside the access", ioas);
  f.checkRefs("and by the table", user, 4 * kPage, 1);
  f.checkMap("all", mock.hwpt, kStart, 4 * kPage, user);
  f.destroy("the mock device", mock.stdev);
  f.checkRefs("the access still holds its page", user + kPage, kPage, 1);
  f.checkRefs("the others are free", user + 2 * kPage, 2 * kPage, 0);
  f.unpin("it", access, item);
  f.checkRefs("all free", user, 4 * kPage, 0);
  closeFile(f.fd);
  show("close the access", closeFile(static_cast<int>(access)));
}

void nthAreas() {
  const Fd f;
  const uint32_t ioas = f.ioas();
  const uint64_t user = anonymous(4);
  const uint32_t access = f.access("pinning", ioas, kAccessNeedsPinPages);
  const auto packed = [](uint64_t nth, uint64_t offset) { return offset << 32 | nth; };
  f.pin("an area of none", access, packed(0, 0), kPage, 0, kNthArea);
  show("map", f.map(ioas, kStart, user, kPage));
  show("map", f.map(ioas, kStart + 4 * kPage, user + 2 * kPage, 2 * kPage));
  f.pin("area 1", access, packed(1, 0), kPage, user + 2 * kPage, kNthArea);
  f.pin("area 1, its second page", access, packed(1, kPage), kPage, user + 3 * kPage, kNthArea);
  f.pin("area 2", access, packed(2, kPage), kPage, 0, kNthArea);
  *reinterpret_cast<char*>(user + 2 * kPage + 7) = 'x';
  char byte = 0;
  const int error = f.rw(access, packed(1, 7), &byte, 1, kNthArea);
  show("rw in area 1", error, {static_cast<uint64_t>(byte)});
  uapi::iommu_ioas_copy copy = {sizeof(copy), kFixedBoth | kNthArea, ioas,        ioas,
                                kPage,        kStart + 16 * kPage,   packed(0, 0)};
  show("copy area 0", call(f.fd, uapi::IOMMU_IOAS_COPY, &copy));
  copy.src_iova = packed(5, 0);
  copy.dst_iova += kPage;
  show("copy area 5", call(f.fd, uapi::IOMMU_IOAS_COPY, &copy));
  copy.src_ioas_id = 99;
  show("copy of no IOAS", call(f.fd, uapi::IOMMU_IOAS_COPY, &copy));
  show("map with that flag", f.map(ioas, kStart + 32 * kPage, user, kPage, kFixedBoth | kNthArea));
  closeFile(f.fd);
  closeFile(static_cast<int>(access));
}

void dirtyPages() {
  const Fd f;
  const uint32_t ioas = f.ioas();
  const uint64_t user = anonymous(512);
  show("map", f.map(ioas, kStart, user, 8 * kPage));
  const Fd::Mock mock = f.mock("for dirty pages", ioas);
  const uint32_t hwpt = f.hwpt("tracking", mock.idev, ioas, uapi::IOMMU_HWPT_ALLOC_DIRTY_TRACKING);
  uint64_t bits[64] = {};
  const auto mark = [&](const std::string& what, uint32_t id, uint64_t iova, uint64_t length, uint64_t page,
                        const void* from) {
    TestCommand dirty = f.command(kDirty, id);
    dirty.dirty = {0, iova, length, page, reinterpret_cast<uint64_t>(from), 0x77};
    const int error = f.test(dirty);
    show("dirty, " + what, error, {dirty.dirty.outDirty});
  };
  const auto track = [&](const std::string& what, uint32_t id, uint32_t flags) {
    uapi::iommu_hwpt_set_dirty_tracking set = {sizeof(set), flags, id, 0};
    show("tracking, " + what, call(f.fd, uapi::IOMMU_HWPT_SET_DIRTY_TRACKING, &set));
  };
  const auto get = [&](const std::string& what, uint64_t iova, uint64_t length, uint64_t page,
                       uint32_t flags) {
    uint64_t out[8] = {};
    uapi::iommu_hwpt_get_dirty_bitmap get = {sizeof(get), hwpt,   flags, 0,
                                             iova,        length, page,  reinterpret_cast<uint64_t>(out)};
    const int error = call(f.fd, uapi::IOMMU_HWPT_GET_DIRTY_BITMAP, &get);
    show("bitmap, " + what, error, {out[0], out[1]});
  };
  mark("no page size", 99, kStart, kPage, 0, bits);
  mark("no length", 99, kStart, 0, 2048, bits);
  mark("misaligned", 99, kStart + 1, kPage, 2048, bits);
  mark("misaligned length", 99, kStart, kPage + 1, 2048, bits);
  mark("no bits", 99, kStart, kPage, 2048, nullptr);
  mark("too many", 99, 0, uint64_t{1} << 50, 2048, bits);
  mark("no such table", 99, kStart, kPage, 2048, bits);
  mark("not tracking", hwpt, kStart, kPage, 2048, bits);
  track("one that can't", mock.hwpt, 1);
  track("unknown flags", hwpt, 2);
  track("on", hwpt, 1);
  mark("bits that can't be read", hwpt, kStart, kPage, 2048, reinterpret_cast<void*>(8));
  mark("none set", hwpt, kStart, 8 * kPage, 2048, bits);
  bits[0] = 0x8001'0007'00ff'0a05;
  mark("some, some of them not mapped", hwpt, kStart, 32 * kPage, 2048, bits);
  get("by half pages, kept", kStart, 8 * kPage, 2048, uapi::IOMMU_HWPT_GET_DIRTY_BITMAP_NO_CLEAR);
  get("by pages, kept", kStart, 8 * kPage, kPage, uapi::IOMMU_HWPT_GET_DIRTY_BITMAP_NO_CLEAR);
  get("a part", kStart + kPage, kPage, 2048, 0);
  get("the rest", kStart, 8 * kPage, 2048, 0);
  get("again", kStart, 8 * kPage, 2048, 0);
  bits[0] = ~uint64_t{0};
  mark("by whole pages", hwpt, kStart, 8 * kPage, kPage, bits);
  mark("by whole pages, further on", hwpt, 2 * kStart, 8 * kPage, kPage, bits);
  get("what that did", kStart, 8 * kPage, 2048, 0);
  mark("some", hwpt, kStart, 8 * kPage, 2048, bits);
  track("off", hwpt, 0);
  get("off", kStart, 8 * kPage, 2048, 0);
  track("on again", hwpt, 1);
  get("on again", kStart, 8 * kPage, 2048, 0);

  // A table with large pages. It uses them only where the memory has large pages, so here it uses small ones.
  const Fd::Mock huge = f.mock("large pages", ioas, kDeviceHugeIova);
  const uint32_t hugeHwpt =
      f.hwpt("large pages, tracking", huge.idev, ioas, uapi::IOMMU_HWPT_ALLOC_DIRTY_TRACKING);
  f.replace("by a table with large pages", mock.stdev, hugeHwpt);
  closeFile(f.fd);
}

void nested() {
  const Fd f;
  const uint32_t ioas = f.ioas();
  const Fd::Mock mock = f.mock("for nesting", ioas);
  const HwptData data = {0x1234};
  struct {
    uint32_t word;
    uint32_t more;
  } longer = {0x5678, 1};
  const uint32_t parent = f.hwpt("parent", mock.idev, ioas, uapi::IOMMU_HWPT_ALLOC_NEST_PARENT);
  const uint32_t noParent = f.hwpt("no parent", mock.idev, ioas, 0);
  f.hwpt("nested, other data", mock.idev, parent, 0, kHwptDataType + 1, &data, sizeof(data));
  f.hwpt("nested, on an automatic one", mock.idev, mock.hwpt, 0, kHwptDataType, &data, sizeof(data));
  f.hwpt("nested, on no parent", mock.idev, noParent, 0, kHwptDataType, &data, sizeof(data));
  f.hwpt("nested, unknown flags", mock.idev, parent, 16, kHwptDataType, &data, sizeof(data));
  f.hwpt("nested, too short", mock.idev, parent, 0, kHwptDataType, &data, 3);
  f.hwpt("nested, too long", mock.idev, parent, 0, kHwptDataType, &longer, sizeof(longer));
  f.hwpt("nested, no data", mock.idev, parent, 0, kHwptDataType, nullptr, sizeof(data));
  f.hwpt("paging, with data", mock.idev, ioas, 0, kHwptDataType, &data, sizeof(data));
  const uint32_t table = f.hwpt("nested", mock.idev, parent, 0, kHwptDataType, &data, sizeof(data));
  f.hwpt("nested, on a nested one", mock.idev, table, 0, kHwptDataType, &data, sizeof(data));
  const auto iotlb = [&](const std::string& what, uint32_t id, uint32_t word, uint32_t value) {
    TestCommand check = f.command(kCheckIotlb, id);
    check.checkIotlb = {word, value};
    show("check IOTLB, " + what, f.test(check));
  };
  iotlb("no such table", 99, 0, 0x1234);
  iotlb("of a paging one", parent, 0, 0x1234);
  iotlb("right", table, 3, 0x1234);
  iotlb("wrong", table, 3, 0x1235);
  iotlb("no such word", table, 4, 0x1234);
  const auto invalidate = [&](const std::string& what, uint32_t id, uint32_t type, const void* entries,
                              uint32_t length, uint32_t count) {
    uapi::iommu_hwpt_invalidate request = {};
    request.size = sizeof(request);
    request.hwpt_id = id;
    request.data_uptr = reinterpret_cast<uint64_t>(entries);
    request.data_type = type;
    request.entry_len = length;
    request.entry_num = count;
    const int error = call(f.fd, uapi::IOMMU_HWPT_INVALIDATE, &request);
    show("invalidate, " + what, error, {request.entry_num});
  };
  InvalidateEntry entries[3] = {{0, 1}, {0, 2}, {0, 9}};
  constexpr uint32_t kLength = sizeof(InvalidateEntry);
  invalidate("no such table", 99, kInvalidateDataType, entries, kLength, 1);
  invalidate("a paging one", parent, kInvalidateDataType, entries, kLength, 1);
  invalidate("other data", table, 7, entries, kLength, 1);
  invalidate("nothing of other data", table, 7, entries, kLength, 0);
  invalidate("nothing", table, kInvalidateDataType, nullptr, 0, 0);
  invalidate("no data", table, kInvalidateDataType, nullptr, kLength, 1);
  invalidate("data that can't be read", table, kInvalidateDataType, reinterpret_cast<void*>(8), kLength, 1);
  invalidate("too short", table, kInvalidateDataType, entries, kLength - 1, 1);
  invalidate("too long", table, kInvalidateDataType, entries, kLength + 1, 1);
  invalidate("two and a bad one", table, kInvalidateDataType, entries, kLength, 3);
  iotlb("one word", table, 1, 0);
  iotlb("the next", table, 2, 0);
  iotlb("not that", table, 0, 0x1234);
  entries[0] = {kInvalidateAll, 9};
  invalidate("all, with no such word", table, kInvalidateDataType, entries, kLength, 1);
  entries[0] = {kInvalidateAll, 2};
  entries[1] = {2, 0};
  invalidate("all, then an unknown flag", table, kInvalidateDataType, entries, kLength, 2);
  iotlb("all words", table, 0, 0);
  f.replace("by a nested table", mock.stdev, table);
  f.destroy("it", table);
  f.destroy("its parent", parent);
  f.mock("on a nested table", table);
  f.checkMap("of a nested table", table, kStart, 2048, 0);
  closeFile(f.fd);
}

void faults() {
  const Fd f;
  const uint32_t ioas = f.ioas();
  const Fd::Mock mock = f.mock("for faults", ioas);
  const HwptData data = {0};
  const uint32_t parent = f.hwpt("parent", mock.idev, ioas, uapi::IOMMU_HWPT_ALLOC_NEST_PARENT);
  uapi::iommu_fault_alloc alloc = {};
  alloc.size = sizeof(alloc);
  const int error = call(f.fd, uapi::IOMMU_FAULT_QUEUE_ALLOC, &alloc);
  show("fault queue", error, {alloc.out_fault_id});
  const int queue = static_cast<int>(alloc.out_fault_fd);
  const uint32_t table = f.hwpt("nested, with it", mock.idev, parent, uapi::IOMMU_HWPT_FAULT_ID_VALID,
                                kHwptDataType, &data, sizeof(data), alloc.out_fault_id);
  f.hwpt("paging, with it", mock.idev, ioas, uapi::IOMMU_HWPT_FAULT_ID_VALID, 0, nullptr, 0,
         alloc.out_fault_id);
  const auto trigger = [&](const std::string& what, uint32_t device, uint32_t pasid, uint32_t group) {
    TestCommand trigger = f.command(kTriggerIopf, 0);
    trigger.triggerIopf = {device, pasid, group, 3, 0xdeadb000};
    show("page request, " + what, f.test(trigger));
  };
  const auto ready = [&] {
    pollfd poll = {queue, POLLIN | POLLOUT, 0};
    (void)::poll(&poll, 1, 0);
    show("poll", 0, {static_cast<uint64_t>(poll.revents)});
  };
  const auto take = [&](size_t size) {
    uapi::iommu_hwpt_pgfault fault[4] = {};
    const int64_t got = readFile(queue, fault, size);
    show("read " + std::to_string(size), got);
    for (int64_t at = 0; at < got / static_cast<int64_t>(sizeof(fault[0])); ++at) {
      const auto& one = fault[at];
      show("  request", 0,
           {one.flags, one.dev_id, one.pasid, one.grpid, one.perm, one.addr, one.length, one.cookie});
    }
  };
  const auto answer = [&](const std::string& what, uint32_t cookie, uint32_t code, size_t size) {
    const uapi::iommu_hwpt_page_response response[2] = {{cookie, code}, {cookie, code}};
    show("answer, " + what, writeFile(queue, response, size));
  };
  trigger("of nothing", 99, 0, 1);
  trigger("of a mock device", mock.stdev, 0, 1);
  trigger("nobody takes it", mock.idev, 0, 1);
  ready();
  take(40);
  f.replace("by the table with the queue", mock.stdev, table);
  trigger("one", mock.idev, 0, 1);
  trigger("with a PASID", mock.idev, 5, 2);
  ready();
  take(39);
  take(0);
  take(40);
  take(160);
  ready();
  answer("no such cookie", 9, 0, 8);
  answer("no such code", 1, 7, 8);
  answer("half", 1, 0, 4);
  answer("twice", 1, 0, 16);
  answer("again", 1, 0, 8);
  answer("the other", 2, 1, 8);
  trigger("third", mock.idev, 0, 3);
  take(40);
  trigger("fourth", mock.idev, 0, 4);
  f.destroy("the queue", alloc.out_fault_id);
  f.replace("away from it", mock.stdev, parent);
  ready();
  take(40);
  answer("what was refused", 1, 0, 8);
  trigger("nobody any more", mock.idev, 0, 5);
  ready();
  // From the table of one queue to the table of another: the faults of the old one are refused.
  uapi::iommu_fault_alloc second = {};
  second.size = sizeof(second);
  const int failed = call(f.fd, uapi::IOMMU_FAULT_QUEUE_ALLOC, &second);
  show("second queue", failed, {second.out_fault_id});
  const uint32_t other =
      f.hwpt("nested, with the second queue", mock.idev, parent, uapi::IOMMU_HWPT_FAULT_ID_VALID,
             kHwptDataType, &data, sizeof(data), second.out_fault_id);
  f.replace("by the table with the first queue", mock.stdev, table);
  trigger("to be read", mock.idev, 0, 6);
  take(40);
  trigger("to be left unread", mock.idev, 0, 7);
  ready();
  f.replace("by the table with the second queue", mock.stdev, other);
  ready();
  take(40);
  answer("what the first queue refused", 1, 0, 8);
  trigger("to the second queue", mock.idev, 0, 8);
  ready();
  pollfd poll2 = {static_cast<int>(second.out_fault_fd), POLLIN | POLLOUT, 0};
  (void)::poll(&poll2, 1, 0);
  show("poll of the second queue", 0, {static_cast<uint64_t>(poll2.revents)});
  show("close the second queue", closeFile(static_cast<int>(second.out_fault_fd)));
  f.destroy("the second queue, which a table uses", second.out_fault_id);
  f.replace("away from it too", mock.stdev, parent);
  f.destroy("its table", other);
  f.destroy("the second queue", second.out_fault_id);
  f.destroy("the table", table);
  show("close the queue", closeFile(queue));
  f.destroy("the queue", alloc.out_fault_id);
  closeFile(f.fd);
}

}  // namespace

int main(int argc, char** argv) {
  const std::string which = argc > 1 ? argv[1] : "";
  if (which != "kernel" && which != "soft" && !which.starts_with("failing")) {
    std::fprintf(stderr, "selftest_trace kernel|soft|failingSEED\n");
    return 2;
  }
  if (which != "kernel") {
    HostOptions options;
    options.kernel = {6, 12};
    options.selftest = true;
    const unsigned seed = failing::seedOf(which);
    auto made = std::make_unique<Host>(std::make_shared<mm::Memory>(), options);
    host = failing::wrap(std::move(made), seed);
  }
  sizes();
  reserved();
  deviceObjects();
  hwInfo();
  maps();
  refs();
  accesses();
  pinsAndTables();
  nthAreas();
  dirtyPages();
  nested();
  faults();
  std::puts("end");
  failing::sayOutcomes();
  return failing::wrong == 0 ? 0 : 1;
}
