// The fault queue: carries page requests to the program, and the answers back, for devices whose page table
// has such a queue.
//
// A group of requests waits to be read, then (under a cookie) to be answered. If its device is detached from
// the page table, or the queue is destroyed, the kernel answers it `invalid`.
//
// Life: made by FAULT_QUEUE_ALLOC with its file, which is a user of it and keeps the iommufd's context
// alive. Page tables with this queue are users too.
#pragma once

#include <cstdint>
#include <list>
#include <map>
#include <memory>
#include <vector>

#include "../core/file.h"
#include "../iommu/page_request.h"
#include "object.h"

namespace vfio::soft {
class Services;
}

namespace vfio::soft::iommufd {

class Attach;
class Context;
class FaultQueue;

class FaultFile final : public File {
 public:
  FaultFile(std::shared_ptr<Context> context, FaultQueue& queue);
  ~FaultFile() override;
  FaultFile(const FaultFile&) = delete;
  FaultFile& operator=(const FaultFile&) = delete;

  [[nodiscard]] FileKind kind() const override { return FileKind::faultQueue; }
  [[nodiscard]] Calls calls() const override { return {.reads = true, .writes = true, .positions = false}; }
  [[nodiscard]] int64_t read(UserAddress user, size_t size) override;
  [[nodiscard]] int64_t write(UserAddress user, size_t size) override;

 private:
  friend FaultQueue;
  const std::shared_ptr<Context> context_;
  FaultQueue* queue_;  // null: making the queue failed after all
};

class FaultQueue final : public Object {
 public:
  static constexpr ObjectKind kKind = ObjectKind::faultQueue;
  explicit FaultQueue(Services& host) : Object(kKind), host_(host) {}
  ~FaultQueue() override;

  // Drops the requests of an endpoint without an answer.
  void forget(const iommu::Endpoint& from);
  // Adds a whole group of requests, which `from` sent while it was attached by `via`.
  void report(const Attach& via, iommu::Endpoint& from, std::vector<iommu::PageRequest> requests);
  // Answers `invalid` to all groups that came by `via`.
  void refuse(const Attach& via);

 private:
  friend FaultFile;
  struct Group {
    const Attach* via;
    iommu::Endpoint* from;
    std::vector<iommu::PageRequest> requests;
  };
  [[nodiscard]] int64_t read(UserAddress user, size_t size);
  [[nodiscard]] int64_t write(UserAddress user, size_t size);
  [[nodiscard]] uint32_t freeCookie() const;
  static void answer(const Group& group, iommu::PageResponse response);
  void showReadable();

  Services& host_;
  FaultFile* file_ = nullptr;  // while it is open
  std::list<Group> waiting_;
  std::map<uint32_t, Group> read_;  // by cookie
  bool zeroIsFree_ = false;         // as a cookie
};

}  // namespace vfio::soft::iommufd
