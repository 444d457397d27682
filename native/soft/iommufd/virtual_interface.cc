#include "virtual_interface.h"

#include <cerrno>
#include <utility>

#include "../../uapi/iommufd.h"
#include "../../uapi/iommufd_data.h"
#include "../core/services.h"
#include "../mm/memory.h"
#include "context.h"
#include "hw_queue.h"
#include "viommu.h"

namespace vfio::soft::iommufd {
namespace {

// What a mapping keeps alive: the iommufd, and the virtual IOMMU, of which it is a user.
class Mapping final : public File {
 public:
  Mapping(std::shared_ptr<Context> context, Viommu& viommu) : context_(std::move(context)), viommu_(viommu) {
    ++viommu_.users;
  }
  ~Mapping() override { --viommu_.users; }
  Mapping(const Mapping&) = delete;
  Mapping& operator=(const Mapping&) = delete;

 private:
  const std::shared_ptr<Context> context_;
  Viommu& viommu_;
};

// Registers of a queue, from 128 times its index on.
enum Offset : uint64_t {
  kConsumer = 0x00,
  kProducer = 0x04,
  kConfig = 0x08,
  kStatus = 0x0c,
  kError = 0x10,
  kAcknowledged = 0x14,
};
constexpr uint64_t kStride = 0x80;
constexpr uint32_t kIllegalCommand = 1U << 24;
constexpr uint32_t kReasons = 0x7f000000;

}  // namespace

VirtualInterface::VirtualInterface(Viommu& viommu) : viommu_(viommu) {
  // The lowest offset that is free; 0 is never handed out.
  offset_ = mm::pageSize();
  for (const auto& [taken, other] : viommu.context.mappable) {
    if (taken >= offset_ + kLength) break;
    offset_ = taken + kLength;
  }
  viommu.context.mappable.emplace(offset_, this);
}

VirtualInterface::~VirtualInterface() { viommu_.context.mappable.erase(offset_); }

int VirtualInterface::make(Viommu& viommu, const iommu::UserData& data) {
  uapi::iommu_viommu_tegra241_cmdqv told = {};
  if (data.length == 0) return -EINVAL;
  const int error = data.copy(uapi::IOMMU_VIOMMU_TYPE_TEGRA241_CMDQV, &told, sizeof(told));
  if (error != 0) return error;
  auto made = std::make_unique<VirtualInterface>(viommu);
  told.out_vintf_mmap_offset = made->offset_;
  told.out_vintf_mmap_length = kLength;
  if (mm::Memory::copyOut(data.user, &told, sizeof(told)) != 0) return -EFAULT;
  viommu.interface = std::move(made);
  return 0;
}

int64_t VirtualInterface::map(std::shared_ptr<Context> context, void* hint, int flags) {
  Services& host = context->host;
  return host.mapTrap(hint, flags,
                      {.length = kLength,
                       .answers = [] { return true; },
                       .read = [this](uint64_t offset, unsigned) -> uint64_t { return read(offset); },
                       .write =
                           [this](uint64_t offset, unsigned width, uint64_t value) {
                             write(offset, static_cast<uint32_t>(value));
                             if (width == 8) write(offset + 4, static_cast<uint32_t>(value >> 32));
                           },
                       .keeper = std::make_shared<Mapping>(std::move(context), viommu_)});
}

void VirtualInterface::set(unsigned index, HwQueue* queue) {
  registers_[index] = {};
  registers_[index].queue = queue;
}

uint32_t VirtualInterface::read(uint64_t offset) const {
  const uint64_t index = offset / kStride;
  if (index >= kQueues || registers_[index].queue == nullptr) return 0;
  const Registers& registers = registers_[index];
  switch (offset % kStride) {
    case kConsumer:
      return registers.consumer;
    case kProducer:
      return registers.producer;
    case kConfig:
    case kStatus:
      return registers.enabled ? 1 : 0;
    case kError:
      return registers.error;
    case kAcknowledged:
      return registers.acknowledged;
    default:
      return 0;
  }
}

void VirtualInterface::write(uint64_t offset, uint32_t value) {
  const uint64_t index = offset / kStride;
  if (index >= kQueues || registers_[index].queue == nullptr) return;
  Registers& registers = registers_[index];
  switch (offset % kStride) {
    case kConsumer:
      if (!registers.enabled) registers.consumer = value;
      return;
    case kProducer:
      registers.producer = value;
      break;
    case kConfig:
      registers.enabled = (value & 1) != 0;
      break;
    case kAcknowledged:
      registers.acknowledged = value;
      break;
    default:
      return;
  }
  run(static_cast<unsigned>(index));
}

// Runs the queued commands, up to the first one that a guest may not issue.
void VirtualInterface::run(unsigned index) {
  Registers& registers = registers_[index];
  const HwQueue& queue = *registers.queue;
  // Indexes have one bit more than the queue has places: it tells full from empty.
  const auto places = static_cast<uint32_t>(queue.length >> iommu::kCommandSizeLog2);
  const uint32_t wrap = places * 2 - 1;
  while (registers.enabled && registers.error == registers.acknowledged) {
    const uint32_t at = registers.consumer & wrap;
    if (at == (registers.producer & wrap)) return;
    iommu::GuestCommand command = {};
    const uint64_t place = uint64_t{at & (places - 1)} << iommu::kCommandSizeLog2;
    const bool fetched = mm::Memory::copyIn(&command, queue.memory + place, sizeof(command)) == 0;
    if (!fetched || !viommu_.runQueued(command)) {
      registers.consumer = (registers.consumer & ~kReasons) | kIllegalCommand;
      registers.error ^= 1;
      uapi::iommu_vevent_tegra241_cmdqv event = {};
      event.lvcmdq_err_map[0] = uint64_t{1} << index;
      viommu_.report(uapi::IOMMU_VEVENTQ_TYPE_TEGRA241_CMDQV, &event, sizeof(event));
      return;
    }
    registers.consumer = (at + 1) & wrap;
  }
}

}  // namespace vfio::soft::iommufd
