// The queue that carries a virtual IOMMU's events of one type to the program.
//
// Each event gets the next number. When the queue is full, events are lost. The numbers show it, and so does
// a last record, which has no event and is removed when an event is queued behind it.
//
// Life: made by VEVENTQ_ALLOC with its file, which is a user of it and keeps the iommufd's context alive. It
// is a user of its virtual IOMMU.
#pragma once

#include <cstdint>
#include <list>
#include <memory>
#include <optional>
#include <vector>

#include "../core/file.h"
#include "object.h"

namespace vfio::soft::iommufd {

class Context;
class VeventQueue;
class Viommu;

class VeventFile final : public File {
 public:
  VeventFile(std::shared_ptr<Context> context, VeventQueue& queue);
  ~VeventFile() override;
  VeventFile(const VeventFile&) = delete;
  VeventFile& operator=(const VeventFile&) = delete;

  [[nodiscard]] FileKind kind() const override { return FileKind::eventQueue; }
  [[nodiscard]] Calls calls() const override { return {.reads = true, .positions = false}; }
  [[nodiscard]] int64_t read(UserAddress user, size_t size) override;

 private:
  friend VeventQueue;
  const std::shared_ptr<Context> context_;
  VeventQueue* queue_;  // null: making the queue failed after all
};

class VeventQueue final : public Object {
 public:
  static constexpr ObjectKind kKind = ObjectKind::veventQueue;
  VeventQueue(Viommu& itsViommu, uint32_t itsType, uint32_t itsDepth);
  ~VeventQueue() override;

  void report(const void* data, size_t size);

  Viommu& viommu;
  const uint32_t type;

 private:
  friend VeventFile;
  struct Event {
    uint32_t number;
    std::vector<unsigned char> data;
  };
  [[nodiscard]] int64_t read(UserAddress user, size_t size);
  void showReadable();

  const uint32_t depth_;
  VeventFile* file_ = nullptr;  // while it is open
  std::list<Event> events_;
  std::optional<uint32_t> lost_;  // the number of the last record
  uint32_t next_ = 0;
};

}  // namespace vfio::soft::iommufd
