#include "execute.h"

#include <fcntl.h>
#include <linux/capability.h>
#include <poll.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstdio>
#include <cstring>
#include <map>

#include "../../../native/kernel/kernel.h"
#include "../../../native/soft/host/host.h"
#include "../../../native/soft/mm/memory.h"
#include "../../../native/uapi/iommufd.h"
#include "../../../native/uapi/vfio.h"
#include "arena.h"

namespace vfio::fuzz {
namespace {

constexpr unsigned kSecondsPerSequence = 20;

std::string errorName(int64_t result) {
  const char* name = strerrorname_np(static_cast<int>(-result));
  return name != nullptr ? name : "error " + std::to_string(result);
}

using Capabilities = std::array<__user_cap_data_struct, 2>;

Capabilities capabilities() {
  __user_cap_header_struct header{_LINUX_CAPABILITY_VERSION_3, 0};
  Capabilities out{};
  if (syscall(SYS_capget, &header, out.data()) != 0) std::abort();
  return out;
}

int64_t dropCapabilities(uint64_t mask) {
  __user_cap_header_struct header{_LINUX_CAPABILITY_VERSION_3, 0};
  Capabilities left = capabilities();
  for (auto& half : left) {
    half.effective &= ~static_cast<uint32_t>(mask);
    half.permitted &= ~static_cast<uint32_t>(mask);
    half.inheritable = 0;
    mask >>= 32;
  }
  return syscall(SYS_capset, &header, left.data()) != 0 ? -errno : 0;
}

// Runs one sequence, in the child.
class Interpreter {
 public:
  Interpreter(const Side& side, Backend& host, int output) : side_(side), host_(host), output_(output) {}

  void run(const Sequence& sequence) {
    for (const Call& call : sequence) {
      alarm(kSecondsPerSequence);
      std::string line = perform(call);
      line += arena_.changes() + "\n";
      if (write(output_, line.data(), line.size()) < 0) _exit(3);
    }
  }

 private:
  [[nodiscard]] uint64_t valueOf(const Value& value) const {
    if (value.variable.empty()) return value.number;
    if (value.variable == "m") return Arena::kBase + value.number;
    const auto found = variables_.find(value.variable);
    if (found != variables_.end()) return found->second + value.number;
    return isDescriptor(value.variable) ? UINT64_MAX : value.number;
  }
  [[nodiscard]] static bool isDescriptor(const std::string& variable) { return variable[0] == 'f'; }
  [[nodiscard]] uint64_t operand(const Call& call, size_t index) const {
    return index < call.operands.size() ? valueOf(call.operands[index]) : 0;
  }
  [[nodiscard]] int descriptor(const Call& call) const { return static_cast<int>(operand(call, 0)); }

  [[nodiscard]] std::vector<uint8_t> assemble(const Call& call) const {
    std::vector<uint8_t> out;
    for (const Token& token : call.bytes) {
      const uint64_t value = valueOf(token.value);
      for (unsigned i = 0; i < token.width; ++i) out.push_back(static_cast<uint8_t>(value >> (8 * i)));
    }
    return out;
  }

  void keep(const std::string& variable, uint64_t value) {
    if (!variable.empty()) variables_[variable] = value;
  }

  // The answer of a call that returns a descriptor. The number differs between the sides and is left out.
  std::string made(const Call& call, int64_t fd) {
    if (fd < 0) return errorName(fd);
    keep(call.result, static_cast<uint64_t>(fd));
    return "fd";
  }

  static std::string answer(int64_t result) {
    return result < 0 ? errorName(result) : std::to_string(result);
  }

  std::string ioctl(const Call& call) {
    const std::vector<uint8_t> bytes = assemble(call);
    uint64_t argument = call.at ? valueOf(*call.at) : Arena::kBase + Arena::kArgument;
    if (!call.at && bytes.empty()) argument = operand(call, 2);
    arena_.store(argument, bytes);
    const int result = host_.ioctl(descriptor(call), operand(call, 1), argument);
    if (side_.lie) side_.lie(operand(call, 1), result, argument);
    if (result < 0) return errorName(result);
    for (const Save& save : call.saves) {
      const uint64_t address = argument + save.offset;
      keep(save.variable, Arena::load(address, save.width));
      // The number of a descriptor differs between the sides and is left out of the transcript.
      if (isDescriptor(save.variable)) arena_.store(address, std::vector<uint8_t>(save.width, 0xfd));
    }
    return std::to_string(result);
  }

  std::string transfer(const Call& call) {
    auto* address = reinterpret_cast<void*>(operand(call, 1));
    const size_t size = operand(call, 2);
    if (!call.bytes.empty()) arena_.store(operand(call, 1), assemble(call));
    switch (call.op) {
      case Op::read:
        return answer(host_.read(descriptor(call), address, size));
      case Op::write:
        return answer(host_.write(descriptor(call), address, size));
      case Op::pread:
        return answer(host_.pread(descriptor(call), address, size, operand(call, 3)));
      default: {
        const std::string result = answer(host_.pwrite(descriptor(call), address, size, operand(call, 3)));
        // On both sides the device finishes the work that this write starts before the next call.
        side_.settle(host_, descriptor(call));
        side_.pause();
        return result;
      }
    }
  }

  std::string dma(const Call& call) {
    constexpr uint64_t buffer = 0x40000;
    constexpr uint64_t toMemory = 2;
    const uint64_t inside = operand(call, (operand(call, 4) & toMemory) != 0 ? 1 : 2) - buffer;
    const uint64_t size = operand(call, 3);
    if (size == 0 || inside >= Arena::kPage || size >= Arena::kPage - inside)
      return "QEMU would end the guest";
    std::string out;
    uint64_t offset = 0x80;
    for (size_t i = 1; i <= 4; ++i, offset += 8) {
      const uint64_t value = operand(call, i);
      out += answer(host_.pwrite(descriptor(call), &value, sizeof value, offset)) + " ";
    }
    side_.settle(host_, descriptor(call));
    side_.pause();
    return out + "done";
  }

  std::string poll(const Call& call) const {
    pollfd state{descriptor(call), POLLIN | POLLOUT | POLLPRI, 0};
    const int result = ::poll(&state, 1, 0);
    std::array<char, 32> text{};
    std::snprintf(text.data(), text.size(), "%d events %x", result, static_cast<unsigned>(state.revents));
    return text.data();
  }

  std::string limit(const Call& call) const {
    const rlimit limits{operand(call, 0), operand(call, 0)};
    setrlimit(RLIMIT_MEMLOCK, &limits);
    return answer(dropCapabilities(uint64_t{1} << CAP_IPC_LOCK | uint64_t{1} << CAP_SYS_RESOURCE));
  }

  std::string perform(const Call& call) {
    switch (call.op) {
      case Op::open:
        return made(call, host_.open(call.path.c_str(), static_cast<int>(operand(call, 0))));
      case Op::eventfd:
        return made(call, eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC));
      case Op::dup:
        return made(call, host_.dup(descriptor(call)));
      case Op::close: {
        const int result = host_.close(descriptor(call));
        // The number may be used again, for different descriptors on the two sides.
        keep(call.operands[0].variable, UINT64_MAX);
        return answer(result);
      }
      case Op::ioctl:
        return ioctl(call);
      case Op::read:
      case Op::write:
      case Op::pread:
      case Op::pwrite:
        return transfer(call);
      case Op::poll:
        return poll(call);
      case Op::mmap: {
        const int64_t result =
            host_.mmap(nullptr, operand(call, 1), static_cast<int>(operand(call, 2)),
                       static_cast<int>(operand(call, 3)), descriptor(call), operand(call, 4));
        if (result < 0) return errorName(result);
        keep(call.result, static_cast<uint64_t>(result));
        return "mapped";
      }
      case Op::munmap:
        if (operand(call, 0) == 0) return "nothing to unmap";
        return answer(host_.munmap(reinterpret_cast<void*>(operand(call, 0)), operand(call, 1)));
      case Op::store:
        if (call.at) arena_.store(valueOf(*call.at), assemble(call));
        return "0";
      case Op::count: {
        side_.pause();
        uint64_t value = 0;
        const auto result = ::read(descriptor(call), &value, sizeof value);
        return result < 0 ? errorName(-errno) : "counted " + std::to_string(value);
      }
      case Op::signal: {
        const uint64_t one = 1;
        const bool failed = ::write(descriptor(call), &one, sizeof one) < 0;
        const std::string result = failed ? errorName(-errno) : "0";
        side_.pause();
        return result;
      }
      case Op::dma:
        return dma(call);
      case Op::limit:
        return limit(call);
    }
    return "not a call";
  }

  const Side& side_;
  Backend& host_;
  int output_;
  Arena arena_;
  std::map<std::string, uint64_t> variables_;
};

void writeFile(Backend& host, const std::string& path, const std::string& value) {
  const int fd = host.open(path.c_str(), O_WRONLY);
  if (fd < 0 || host.write(fd, value.data(), value.size()) < 0)
    std::fprintf(stderr, "%s: no\n", path.c_str());
  host.close(fd);
}

// QEMU's edu takes 100 ms for a transfer, and computes a factorial in a separate thread. At the end of each
// it clears a bit.
void waitForEdu(Backend& host, int fd) {
  constexpr uint64_t status = 0x20;
  constexpr uint64_t command = 0x98;
  const auto busy = [&](uint64_t offset, size_t width) {
    uint64_t value = 0;
    return host.pread(fd, &value, width, offset) == static_cast<int64_t>(width) && (value & 1) != 0;
  };
  for (int waited = 0; waited < 400 && (busy(command, 8) || busy(status, 4)); ++waited) usleep(1000);
}

// Writes the values after power-on to edu's registers and buffer. Two values can't be restored, so the
// generator does not use them: the result of a factorial, and the last byte of the buffer, which no transfer
// reaches.
void washEdus() {
  KernelBackend host;
  constexpr uint64_t page = 4096;
  constexpr uint64_t config = uint64_t{7} << 40;
  const int iommufd = host.open("/dev/iommu", O_RDWR);
  uapi::iommu_ioas_alloc space{.size = sizeof space};
  host.ioctl(iommufd, uapi::IOMMU_IOAS_ALLOC, reinterpret_cast<uintptr_t>(&space));
  const int64_t zeroes = host.mmap(nullptr, page, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  uapi::iommu_ioas_map map{.size = sizeof map,
                           .flags = uapi::IOMMU_IOAS_MAP_FIXED_IOVA | uapi::IOMMU_IOAS_MAP_READABLE,
                           .ioas_id = space.out_ioas_id,
                           .user_va = static_cast<uint64_t>(zeroes),
                           .length = page,
                           .iova = page};
  host.ioctl(iommufd, uapi::IOMMU_IOAS_MAP, reinterpret_cast<uintptr_t>(&map));
  std::array<int, 3> devices{};
  const auto put = [&host](int fd, uint64_t offset, uint64_t value, size_t width) {
    if (host.pwrite(fd, &value, width, offset) != static_cast<int64_t>(width))
      std::fprintf(stderr, "not washed\n");
  };
  for (size_t i = 0; i < devices.size(); ++i) {
    const int fd = devices[i] = host.open(("/dev/vfio/devices/vfio" + std::to_string(i)).c_str(), O_RDWR);
    uapi::vfio_device_bind_iommufd bind{.argsz = sizeof bind, .iommufd = iommufd};
    host.ioctl(fd, uapi::VFIO_DEVICE_BIND_IOMMUFD, reinterpret_cast<uintptr_t>(&bind));
    uapi::vfio_device_attach_iommufd_pt attach{.argsz = sizeof attach, .pt_id = space.out_ioas_id};
    host.ioctl(fd, uapi::VFIO_DEVICE_ATTACH_IOMMUFD_PT, reinterpret_cast<uintptr_t>(&attach));
    put(fd, config + 4, 6, 2);  // memory and bus mastering on
    // QEMU accepts writes to all bytes after the header. vfio-pci restores the capability at 0x40.
    put(fd, config + 0x4e, 0, 2);
    for (uint64_t offset = 0x50; offset < 0x100; offset += 4) put(fd, config + offset, 0, 4);
    waitForEdu(host, fd);
    put(fd, 0x04, 0xffffffff, 4);
    put(fd, 0x20, 0, 4);
    put(fd, 0x64, 0xffffffff, 4);
    put(fd, 0x80, page, 8);
    put(fd, 0x88, 0x40000, 8);
    put(fd, 0x90, page - 1, 8);
    put(fd, 0x98, 1, 8);
  }
  for (const int fd : devices) {
    waitForEdu(host, fd);
    for (const uint64_t offset : {0x80, 0x88, 0x90}) put(fd, offset, 0, 8);
    host.close(fd);
  }
  host.close(iommufd);
  host.munmap(reinterpret_cast<void*>(zeroes), page);
}

}  // namespace

void prepare(Backend& host, const std::string& kind) {
  if (kind != "vfio") return;
  for (const std::string bdf : {"0000:00:10.0", "0000:03:01.0", "0000:03:02.0"}) {
    writeFile(host, "/sys/bus/pci/devices/" + bdf + "/driver_override", "vfio-pci\n");
    writeFile(host, "/sys/bus/pci/drivers_probe", bdf + "\n");
  }
}

Side kernelSide() {
  return {.open = [](const std::string&) { return std::make_unique<KernelBackend>(); },
          .wash =
              [](const std::string& kind) {
                if (kind == "vfio") washEdus();
              },
          .settle = waitForEdu,
          .pause = [] { usleep(15000); }};
}

Side softwareSide(bool plant) {
  Side side = {.open =
                   [](const std::string& kind) {
                     soft::HostOptions options;
                     options.kernel = {6, 12};
                     options.selftest = kind == "mock";
                     auto host = std::make_unique<soft::Host>(std::make_shared<soft::mm::Memory>(), options);
                     prepare(*host, kind);
                     return host;
                   },
               .wash = [](const std::string&) {},  // every sequence has a machine of its own
               .settle = [](Backend& host, int) { static_cast<soft::Host&>(host).settle(); },
               .pause = [] {}};
  const char* const mistake = std::getenv("VFIO_FUZZ_PLANT");
  if (plant && mistake != nullptr && std::string(mistake) == "unmap-length") {
    side.lie = [](uint64_t request, int result, uint64_t argument) {
      if (request != uapi::IOMMU_IOAS_UNMAP || result != 0) return;
      auto& unmapped = reinterpret_cast<uapi::iommu_ioas_unmap*>(argument)->length;
      if (unmapped > Arena::kPage) unmapped -= 1;
    };
  }
  return side;
}

uint64_t lackedCapabilities() {
  const Capabilities have = capabilities();
  const uint64_t known = (uint64_t{1} << (CAP_LAST_CAP + 1)) - 1;
  return ~(uint64_t{have[1].effective} << 32 | have[0].effective) & known;
}

Transcript run(const Side& side, const Case& what) {
  static bool washing = false;  // the last sequence wrote to a device
  std::array<int, 2> ends{};
  if (pipe2(ends.data(), O_CLOEXEC) != 0) std::abort();
  const pid_t child = fork();
  if (child == 0) {
    close(ends[0]);
    if (washing) side.wash(what.kind);
    auto host = side.open(what.kind);
    if (what.without != 0) dropCapabilities(what.without);
    Interpreter(side, *host, ends[1]).run(what.calls);
    host.reset();
    _exit(0);
  }
  close(ends[1]);
  washing = std::ranges::any_of(what.calls,
                                [](const Call& call) { return call.op == Op::pwrite || call.op == Op::dma; });
  std::string text;
  std::array<char, 4096> chunk;
  for (ssize_t size; (size = read(ends[0], chunk.data(), chunk.size())) > 0;) text.append(chunk.data(), size);
  close(ends[0]);
  int status = 0;
  waitpid(child, &status, 0);
  Transcript out;
  for (size_t start = 0; start < text.size();) {
    const size_t end = std::min(text.find('\n', start), text.size());
    out.push_back(text.substr(start, end - start));
    start = end + 1;
  }
  if (WIFSIGNALED(status)) out.push_back("died of signal " + std::to_string(WTERMSIG(status)));
  if (WIFEXITED(status) && WEXITSTATUS(status) != 0)
    out.push_back("exit " + std::to_string(WEXITSTATUS(status)));
  return out;
}

long firstDifference(const Transcript& one, const Transcript& other) {
  const size_t common = std::min(one.size(), other.size());
  for (size_t i = 0; i < common; ++i) {
    if (one[i] != other[i]) return static_cast<long>(i);
  }
  return one.size() == other.size() ? -1 : static_cast<long>(common);
}

}  // namespace vfio::fuzz
