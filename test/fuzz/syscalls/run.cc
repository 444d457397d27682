#include "run.h"

#include <dirent.h>
#include <fcntl.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <map>
#include <string>
#include <vector>

#include "../../../native/soft/host/host.h"
#include "../../../native/soft/mm/memory.h"
#include "commands.h"
#include "memory.h"

namespace vfio::soft::fuzz {
namespace {

constexpr size_t kPage = ProgramMemory::kPage;
constexpr int kMostCalls = 96;
constexpr size_t kMostDescriptors = 24;
// The most bytes that one call transfers, so that a sequence takes little time.
constexpr size_t kMostBytes = 64 * kPage;

[[noreturn]] void fail(const char* what, int64_t value) {
  std::fprintf(stderr, "wrong: %s (%lld)\n", what, static_cast<long long>(value));
  std::abort();
}

// The bytes of the input, read in order.
class Input {
 public:
  Input(const uint8_t* data, size_t size) : data_(data), left_(size) {}
  [[nodiscard]] bool empty() const { return left_ == 0; }
  uint8_t byte() {
    if (left_ == 0) return 0;
    --left_;
    return *data_++;
  }
  uint32_t below(uint32_t limit) { return byte() % limit; }
  bool oneIn(uint32_t many) { return below(many) == many - 1; }
  uint16_t half() { return static_cast<uint16_t>(byte() | byte() << 8); }
  uint32_t word() { return half() | static_cast<uint32_t>(half()) << 16; }

 private:
  const uint8_t* data_;
  size_t left_;
};

// The paths that can be opened. They are found once.
struct Names {
  std::vector<std::string> paths;
  std::vector<std::string> texts;  // texts to write to files of sysfs

  void walk(Host& host, const std::string& path, unsigned depth) {
    std::vector<std::string> names;
    if (depth > 4 || host.list(path.c_str(), names) != 0) return;
    std::ranges::sort(names);
    for (const std::string& name : names) {
      if (name == "." || name == "..") continue;
      const std::string below = path + "/" + name;
      paths.push_back(below);
      walk(host, below, depth + 1);
    }
  }

  explicit Names(const std::shared_ptr<mm::Memory>& memory) {
    Host host(memory);
    for (const char* root : {"/dev", "/sys/bus/pci", "/sys/kernel/iommu_groups", "/sys/class"})
      walk(host, root, 0);
    for (const char* one : {"/dev/iommu", "/dev/vfio/vfio", "/dev/vfio/0", "/dev/vfio/noiommu-0", "/dev", "",
                            "/", "/sys/bus/pci/../pci/devices", "nowhere", "/dev/iommu/x", "//dev//iommu"}) {
      paths.emplace_back(one);
    }
    for (const char* one : {"0000:00:10.0", "0000:00:14.0", "0000:03:01.0", "0000:03:02.0", "vfio-pci", "\n",
                            "1", "0", "1234 11e8", "bus", "pcieport", "none", ""}) {
      texts.emplace_back(one);
    }
  }
};

struct Descriptor {
  int number;
  Family family;
};

class Sequence {
 public:
  Sequence(Input& input, Host& host, ProgramMemory& memory, const Names& names)
      : input_(input), host_(host), memory_(memory), names_(names) {
    for (int& event : events_) event = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
  }
  ~Sequence() {
    // The host closes only descriptors that it opened.
    for (const int copy : copies_) {
      if (host_.owns(copy)) host_.close(copy);
    }
    for (const int event : events_) close(event);
  }
  Sequence(const Sequence&) = delete;
  Sequence& operator=(const Sequence&) = delete;

  void run() {
    // Most sequences need these. The input says which devices are bound to vfio-pci from the start.
    const unsigned ours = input_.byte();
    for (unsigned at = 0; at < kDevices.size(); ++at) {
      if ((ours >> at & 1) == 0) giveToVfio(kDevices[at]);
    }
    add(host_.open("/dev/iommu", O_RDWR), Family::iommufd);
    add(host_.open("/dev/vfio/devices/vfio0", O_RDWR | O_CLOEXEC), Family::device);
    for (int call = 0; call < kMostCalls && !input_.empty(); ++call) {
      next();
      memory_.keep();
    }
  }

 private:
  static constexpr std::array<const char*, 4> kDevices = {"0000:00:10.0", "0000:00:14.0", "0000:03:01.0",
                                                          "0000:03:02.0"};

  void put(const std::string& path, const std::string& text) {
    const int fd = host_.open(path.c_str(), O_WRONLY);
    if (fd < 0) fail(path.c_str(), fd);
    check(host_.write(fd, text.data(), text.size()));
    host_.close(fd);
  }

  void giveToVfio(const std::string& bdf) {
    put("/sys/bus/pci/devices/" + bdf + "/driver_override", "vfio-pci");
    put("/sys/bus/pci/drivers_probe", bdf);
  }

  void next() {
    switch (input_.below(24)) {
      case 0:
        return open();
      case 1:
        return closeOne();
      case 2:
        return readOrWrite();
      case 3:
      case 4:
        return positioned();
      case 5:
        return map();
      case 6:
        return unmap();
      case 7:
        return path();
      case 8:
      case 9:
        return registers();
      case 10:
        return store();
      case 11:
        return other();
      case 12:
        return edu();
      default:
        return ioctl();
    }
  }

  void check(int64_t result) {
    if (result < -4095) fail("not an errno", result);
  }

  void add(int64_t fd, Family family) {
    check(fd);
    if (fd < 0) return;
    if (!host_.owns(static_cast<int>(fd))) fail("not a descriptor of the host", fd);
    if (descriptors_.size() >= kMostDescriptors) {
      host_.close(static_cast<int>(fd));
      return;
    }
    descriptors_.push_back({static_cast<int>(fd), family});
  }

  // A descriptor of the family if there is one, or sometimes another number.
  int descriptor(Family family) {
    const unsigned choice = input_.byte();
    if (choice >= 0xf8 || descriptors_.empty()) {
      const std::array<int, 6> odd = {-1, 1 << 20, INT32_MAX, events_[0], memory_.memfd(), INT32_MIN};
      return odd[choice % odd.size()];
    }
    if (family != Family::any && choice < 0xf0) {
      std::vector<int> suiting;
      for (const Descriptor& one : descriptors_) {
        if (one.family == family) suiting.push_back(one.number);
      }
      if (!suiting.empty()) return suiting[choice % suiting.size()];
    }
    return descriptors_[choice % descriptors_.size()].number;
  }

  // A descriptor as an argument: any descriptor of the program.
  int argumentDescriptor() {
    switch (input_.below(8)) {
      case 0:
        return -1;
      case 1:
        return memory_.memfd();
      case 2:
      case 3:
        return events_[input_.below(2)];
      case 4:
        return static_cast<int>(input_.half());
      case 5:
        return descriptor(Family::any);
      default:
        return descriptor(Family::iommufd);
    }
  }

  uint64_t pointer() {
    const unsigned choice = input_.byte();
    const uint64_t offset = input_.byte();
    const auto within = [&](size_t first, size_t pages) {
      return memory_.address(first + offset % pages) +
             (choice & 0x10 ? kPage - 1 - offset % 64 : offset / 4 * 4 % 64);
    };
    switch (choice & 0xf) {
      case 0:
        return choice * offset;  // the first page
      case 1:
        return uint64_t{1} << 63 | offset << 12;
      case 2:
        return ~offset;
      case 3:
        return within(ProgramMemory::kReadOnly, 8);
      case 4:
        return within(ProgramMemory::kShared, 8);
      case 5:
        return within(ProgramMemory::kHole, 8);
      case 6:
        return within(ProgramMemory::kWindow, ProgramMemory::kWindowPages);
      case 7:
        return memory_.address(512 % ProgramMemory::kWritable);  // aligned like large pages in tests
      default:
        return choice & 0x20 ? memory_.address(offset * 2) : within(0, ProgramMemory::kWritable);
    }
  }

  uint64_t iova() {
    const unsigned choice = input_.byte();
    const uint64_t offset = input_.byte();
    const std::array<uint64_t, 8> bases = {0,
                                           uint64_t{1} << 24,
                                           0xfee00000 - 8 * kPage,
                                           uint64_t{1} << 31,
                                           uint64_t{1} << 48,
                                           uint64_t{0} - 256 * kPage,
                                           uint64_t{1} << 20,
                                           uint64_t{1} << 39};
    const uint64_t base = bases[choice % bases.size()];
    if (choice < 0xc0) return base + offset % 64 * kPage;
    if (choice < 0xe0) return base + offset * (kPage / 2);
    return base + offset - 128;
  }

  uint64_t length() {
    const unsigned choice = input_.byte();
    if (choice < 0x80) return (choice % 16 + 1) * kPage;
    if (choice < 0xa0) return (choice % 32) * (kPage / 2);
    if (choice < 0xc0) return choice * uint64_t{977} % (4 * kPage);
    const std::array<uint64_t, 8> odd = {0,           UINT64_MAX,  uint64_t{1} << 63,   uint64_t{1} << 40,
                                         512 * kPage, 256 * kPage, uint64_t{0} - kPage, 1};
    return odd[choice % odd.size()];
  }

  uint64_t any64() {
    const unsigned choice = input_.byte();
    if (choice < 0x40) return choice % 16;
    if (choice < 0x80) return iova();
    if (choice < 0xc0) return input_.word();
    return choice < 0xe0 ? uint64_t{1} << (choice % 64) : ~uint64_t{choice};
  }

  uint32_t small() {
    const unsigned choice = input_.byte();
    if (choice < 0xe0) return choice % 17;
    return choice < 0xf8 ? input_.half() : ~uint32_t{choice % 4};
  }

  // Each iommufd allocates ids from 1 on.
  uint32_t id() {
    const unsigned choice = input_.byte();
    if (choice < 0xa0 && !ids_.empty()) return ids_[choice % ids_.size()];
    if (choice < 0xf0) return choice % 16;
    return ~uint32_t{choice % 4};
  }

  uint32_t flags() {
    const unsigned choice = input_.byte();
    if (choice < 0xc0) return choice % 16;
    return choice < 0xf0 ? input_.half() : uint32_t{1} << (choice % 32);
  }

  // Builds the argument of a command in the program's memory; returns its address.
  uint64_t fields(const Command& command, std::vector<size_t>& ids, std::vector<size_t>& opened,
                  size_t& size) {
    std::vector<char> bytes;
    const auto put = [&bytes](auto value) {
      const auto* const raw = reinterpret_cast<const char*>(&value);
      bytes.insert(bytes.end(), raw, raw + sizeof(value));
    };
    for (const char* field = command.fields; *field != '\0'; ++field) {
      switch (*field) {
        case 's':
          put(uint32_t{0});
          break;
        case 'f':
          put(flags());
          break;
        case 'i':
          put(id());
          break;
        case 'o':
          ids.push_back(bytes.size());
          put(uint32_t{0});
          break;
        case '>':
          opened.push_back(bytes.size());
          put(int32_t{-1});
          break;
        case 'd':
          put(argumentDescriptor());
          break;
        case 'n':
          put(small());
          break;
        case '0':
          put(uint32_t{input_.oneIn(64)});
          break;
        case 'c':
          put(command.constant);
          break;
        case 'g':
          put(uint32_t{input_.below(16)} | uint32_t{input_.below(8)} << 16);
          break;
        case 'h':
          put(static_cast<uint16_t>(small()));
          break;
        case 'P':
          put(pointer());
          break;
        case 'V':
          put(iova());
          break;
        case 'L':
          put(length());
          break;
        default:
          put(any64());
          break;
      }
    }
    size = bytes.size();
    if (command.fields[0] == 's') {
      const unsigned choice = input_.byte();
      const std::array<uint32_t, 6> sizes = {0, 4, kPage, kPage + 1, UINT32_MAX, input_.byte()};
      const auto told = choice < 0xe8 ? static_cast<uint32_t>(size) : sizes[choice % sizes.size()];
      std::memcpy(bytes.data(), &told, sizeof(told));
    }
    // In the middle of the memory, at its end, or across the end.
    const unsigned place = input_.byte();
    char* at = memory_.page(4);
    if (place >= 0xf0) at = memory_.page(ProgramMemory::kReadOnly) - std::min<size_t>(size, place % 16 * 8);
    if (place >= 0xfc) return pointer();
    const size_t fits =
        std::min<size_t>(size, static_cast<size_t>(memory_.page(ProgramMemory::kReadOnly) - at));
    if (mm::Memory::copyOut(reinterpret_cast<uint64_t>(at), bytes.data(), fits) != 0) return pointer();
    return reinterpret_cast<uint64_t>(at);
  }

  void ioctl() {
    const Command& command = commands()[input_.byte() % commands().size()];
    Family family = command.family;
    // An iommufd accepts the container's commands too.
    if (family == Family::container && input_.below(2) == 0) family = Family::iommufd;
    const int fd = descriptor(family);
    if (command.argument == Argument::value) {
      check(host_.ioctl(fd, command.request, small()));
      return;
    }
    if (command.argument == Argument::name) {
      const std::string& text = names_.texts[input_.byte() % names_.texts.size()];
      const uint64_t at = memory_.address(4);
      if (mm::Memory::copyOut(at, text.c_str(), text.size() + 1) != 0) return;
      add(host_.ioctl(fd, command.request, at), Family::device);
      return;
    }
    std::vector<size_t> ids;
    std::vector<size_t> opened;
    size_t size = 0;
    const uint64_t argument = fields(command, ids, opened, size);
    const int result = host_.ioctl(fd, command.request, argument);
    check(result);
    if (result != 0) return;
    for (const size_t at : ids) {
      uint32_t made = 0;
      if (mm::Memory::copyIn(&made, argument + at, sizeof(made)) != 0 || made == 0) continue;
      if (ids_.size() < 32) ids_.push_back(made);
    }
    for (const size_t at : opened) {
      int32_t made = -1;
      if (mm::Memory::copyIn(&made, argument + at, sizeof(made)) != 0 || made < 0) continue;
      const auto same = [made](const Descriptor& one) { return one.number == made; };
      if (host_.owns(made) && std::ranges::none_of(descriptors_, same)) add(made, Family::any);
    }
  }

  void open() {
    static constexpr std::array<int, 6> kFlags = {O_RDWR, O_RDONLY, O_WRONLY, O_RDWR | O_CLOEXEC, O_RDWR, 3};
    const int how = kFlags[input_.below(kFlags.size())];
    const unsigned what = input_.byte();
    if (what < 0x60) return add(host_.open("/dev/iommu", how), Family::iommufd);
    if (what < 0xa0) {
      const std::string name = "/dev/vfio/devices/vfio" + std::to_string(what % 5);
      return add(host_.open(name.c_str(), how), Family::device);
    }
    if (what < 0xb0)
      return add(host_.open(("/dev/vfio/" + std::to_string(what % 8)).c_str(), how), Family::group);
    if (what < 0xb8) return add(host_.open("/dev/vfio/vfio", how), Family::container);
    if (what < 0xbc) return add(host_.open(reinterpret_cast<const char*>(pointer()), how), Family::any);
    add(host_.open(name().c_str(), how), Family::any);
  }

  const std::string& name() { return names_.paths[input_.half() % names_.paths.size()]; }

  void closeOne() {
    if (descriptors_.empty()) return;
    const size_t which = input_.byte() % descriptors_.size();
    check(host_.close(descriptors_[which].number));
    descriptors_.erase(descriptors_.begin() + static_cast<ptrdiff_t>(which));
  }

  void readOrWrite() {
    const int fd = descriptor(Family::any);
    if (!host_.owns(fd)) return;
    const unsigned choice = input_.byte();
    size_t size = std::min<uint64_t>(length(), kMostBytes);
    if (choice < 0x60) {
      check(host_.read(fd, reinterpret_cast<void*>(pointer()), size));
      return;
    }
    uint64_t from = pointer();
    if (choice < 0xc0) {
      const std::string& text = names_.texts[choice % names_.texts.size()];
      from = memory_.address(5);
      size = text.size();
      if (mm::Memory::copyOut(from, text.data(), size) != 0) return;
    } else if (choice < 0xe0) {
      from = memory_.address(5);
      size = 8;
      const std::array<uint32_t, 2> response = {small(), small()};
      if (mm::Memory::copyOut(from, response.data(), size) != 0) return;
    }
    check(host_.write(fd, reinterpret_cast<const void*>(from), size));
  }

  // An offset in a device's file: the regions are 2^40 bytes apart.
  uint64_t offset() {
    const unsigned choice = input_.byte();
    const uint64_t region = choice % 10;
    if (choice >= 0xf8) return any64();
    return region << 40 | (choice < 0x80 ? input_.byte() : input_.half());
  }

  void positioned() {
    const int fd = descriptor(Family::device);
    if (!host_.owns(fd)) return;
    const unsigned choice = input_.byte();
    const size_t size = choice < 0xc0 ? size_t{1} << (choice % 4) : std::min<uint64_t>(length(), kMostBytes);
    const uint64_t at = offset();
    if (choice % 2 == 0) {
      check(host_.pread(fd, reinterpret_cast<void*>(pointer()), size, at));
      return;
    }
    if (size > 8) {
      check(host_.pwrite(fd, reinterpret_cast<const void*>(pointer()), size, at));
      return;
    }
    const uint64_t value = any64();
    if (mm::Memory::copyOut(memory_.address(6), &value, sizeof(value)) != 0) return;
    check(host_.pwrite(fd, memory_.page(6), size, at));
  }

  // An address in the window for mappings, or of memory that may be pinned.
  uint64_t place() {
    const size_t number = input_.byte();
    return memory_.address(input_.oneIn(8) ? number * 2 : ProgramMemory::kWindow + number);
  }

  void map() {
    const unsigned choice = input_.byte();
    const uint64_t at = place();
    const uint64_t size = std::min<uint64_t>(length(), 300 * kPage);
    if (!memory_.contains(at, (size + kPage - 1) / kPage * kPage)) return;
    const int protection = static_cast<int>(choice % 8);
    const int flags = (choice & 0x10 ? MAP_PRIVATE : MAP_SHARED) | MAP_FIXED;
    if (choice >= 0xf0) {
      // Plain memory without a given address. It is unmapped at once.
      const int64_t result = host_.mmap(nullptr, size, protection, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
      check(result);
      if (result > 0) check(host_.munmap(reinterpret_cast<void*>(result), size));
      return;
    }
    const bool anonymous = choice >= 0xe0;
    const int fd = anonymous ? -1 : descriptor(Family::device);
    if (!anonymous && !host_.owns(fd)) return;
    const int64_t result =
        host_.mmap(reinterpret_cast<void*>(at), size, protection, flags | (anonymous ? MAP_ANONYMOUS : 0), fd,
                   anonymous ? 0 : offset() & ~0xfffULL);
    check(result);
    if (result >= 0 && static_cast<uint64_t>(result) != at) fail("MAP_FIXED elsewhere", result);
  }

  void unmap() {
    const uint64_t at = place() + (input_.oneIn(16) ? 8 : 0);
    const uint64_t size = std::min<uint64_t>(length(), 300 * kPage);
    if (!memory_.contains(at, size + kPage)) return;
    const int result = host_.munmap(reinterpret_cast<void*>(at), size);
    check(result);
    if (result == 0) memory_.unmapped(at, size);
  }

  void path() {
    const std::string& which = name();
    if (input_.below(2) == 0) {
      check(host_.readlink(which.c_str(), reinterpret_cast<char*>(pointer()),
                           std::min<uint64_t>(length(), kPage)));
      return;
    }
    std::vector<std::string> names;
    check(host_.list(which.c_str(), names));
  }

  void registers() {
    const auto at =
        reinterpret_cast<char*>(memory_.address(ProgramMemory::kWindow + input_.byte())) + input_.byte() * 4;
    const unsigned width = 1U << input_.below(4);
    uint64_t value = any64();
    if (input_.below(2) == 0) {
      check(host_.registerRead(at, width, value));
    } else {
      check(host_.registerWrite(at, width, value));
    }
  }

  // Writes a value to memory that looks like an entry of a page table, or like data of a command.
  void store() {
    const uint64_t at = memory_.address(input_.byte() * 2) + input_.byte() % 512 * 8;
    const uint64_t value = (iova() & ~uint64_t{0xfff}) | input_.byte();
    if (input_.below(2) == 0) {
      (void)!mm::Memory::copyOut(at, &value, sizeof(value));
    } else {
      const std::array<uint32_t, 6> words = {flags(), small(), small(), id(), small(), 0};
      (void)!mm::Memory::copyOut(at, words.data(), sizeof(words));
    }
  }

  void other() {
    switch (input_.below(5)) {
      case 0:
        host_.settle();
        break;
      case 1:
        (void)host_.takeFaults();
        break;
      case 2:
        duplicate();
        break;
      case 3:
        check(host_.lseek(descriptor(Family::any), static_cast<int64_t>(any64()),
                          static_cast<int>(input_.below(6))));
        break;
      default:
        (void)host_.trapped(reinterpret_cast<const void*>(place()));
        break;
    }
  }

  void duplicate() {
    const int copy = host_.dup(descriptor(Family::any));
    if (copy >= 0) copies_.push_back(copy);
    add(copy, Family::any);
  }

  // Starts a DMA of an edu: turns bus mastering on and writes the registers.
  void edu() {
    const int fd = descriptor(Family::device);
    if (!host_.owns(fd)) return;
    const auto write = [&](uint64_t at, uint64_t value, size_t size) {
      if (mm::Memory::copyOut(memory_.address(6), &value, sizeof(value)) != 0) return;
      check(host_.pwrite(fd, memory_.page(6), size, at));
    };
    write(uint64_t{7} << 40 | 4, 6, 2);
    const uint64_t bus = iova();
    const bool out = input_.below(2) == 0;
    write(0x80, out ? 0x40000 : bus, 8);
    write(0x88, out ? bus : 0x40000, 8);
    write(0x90, small() * 16, 8);
    write(0x98, (out ? 3 : 1) | (input_.below(2) != 0 ? 4 : 0), 8);
    if (input_.below(2) != 0) host_.settle();
  }

  Input& input_;
  Host& host_;
  ProgramMemory& memory_;
  const Names& names_;
  std::vector<Descriptor> descriptors_;
  std::vector<int> copies_;
  std::vector<uint32_t> ids_;
  std::array<int, 2> events_ = {-1, -1};
};

// The files that the process's descriptors refer to.
std::map<int, std::string> openDescriptors() {
  DIR* const table = opendir("/proc/self/fd");
  std::map<int, std::string> all;
  while (const dirent* entry = readdir(table)) {
    std::array<char, 256> target = {};
    if (readlinkat(dirfd(table), entry->d_name, target.data(), target.size() - 1) < 0) continue;
    if (const int number = std::atoi(entry->d_name); number != dirfd(table)) all[number] = target.data();
  }
  closedir(table);
  return all;
}

}  // namespace

void run(const uint8_t* data, size_t size) {
  static const auto memory = std::make_shared<mm::Memory>();
  static ProgramMemory program;
  static const Names names(memory);
  program.reset();
  // The first pin opens a descriptor that stays open for good, so it is made here.
  if (memory->pin(program.address(0), 1, true) == 0) memory->unpin(program.address(0), 1);
  Input input(data, size);
  HostOptions options;
  static constexpr std::array<KernelVersion, 4> kKernels = {kNewestKernel, KernelVersion{6, 12},
                                                            KernelVersion{6, 6}, KernelVersion{6, 18}};
  const unsigned choice = input.byte();
  options.kernel = kKernels[choice % kKernels.size()];
  options.selftest = (choice & 4) != 0;
  const auto before = openDescriptors();
  {
    Host host(memory, std::move(options));
    Sequence(input, host, program, names).run();
  }
  for (const auto& [number, target] : openDescriptors()) {
    const auto found = before.find(number);
    if (found == before.end() || found->second != target) fail(("left open: " + target).c_str(), number);
  }
  for (size_t number = 0; number < ProgramMemory::kPages; ++number) {
    if (const unsigned pins = memory->pins(program.address(number)); pins != 0) fail("pins are left", pins);
  }
}

}  // namespace vfio::soft::fuzz
