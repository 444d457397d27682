// The transfers of one endpoint: DMA by the device, and the transfers that wait for pages.
//
// A transfer moves as many bytes as the endpoint's attachments allow. A page that can't be moved is a fault:
// the page is left out (a read finds zeroes), the first failure is written to the host's fault log, and the
// pages behind it are still moved. A device that can wait asks for missing pages instead (page_requests.h);
// its transfer waits here under the number of its request group until the answer comes.
//
// Life: part of its endpoint. A transfer that waits ends with its answer, or is dropped at a reset or with
// the endpoint.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <list>
#include <optional>

#include "page_request.h"

namespace vfio::soft::iommu {

class Transfers {
 public:
  // The reason that is reported for work that can't continue by itself (Engine::post).
  static constexpr const char* kNoThread =
      "no thread can be had for the device's work (EAGAIN): the program's next calls do it";

  explicit Transfers(Endpoint& endpoint) : endpoint_(endpoint) {}
  Transfers(const Transfers&) = delete;
  Transfers& operator=(const Transfers&) = delete;

  // True if every byte moved.
  bool read(uint64_t iova, void* into, size_t size, std::optional<uint32_t> pasid = std::nullopt);
  bool write(uint64_t iova, const void* from, size_t size, std::optional<uint32_t> pasid = std::nullopt);

  // The same for a device that can wait. `done` is told the outcome, at once or later on the engine. Until
  // then the memory must stay valid.
  using Done = std::function<void(bool)>;
  void startRead(uint64_t iova, void* into, size_t size, std::optional<uint32_t> pasid, Done done);
  void startWrite(uint64_t iova, const void* from, size_t size, std::optional<uint32_t> pasid, Done done);

  // The answer to the page requests of `group`. Nothing happens if no transfer waits for it.
  void resume(uint32_t group, PageResponse response);
  // Answers `invalid` to all requests with this PASID, or without one.
  void refuse(std::optional<uint32_t> pasid);
  // Drops the transfers that wait; their `done` is not called.
  void drop();

 private:
  struct Transfer {
    uint64_t iova;
    size_t size;
    char* bytes;  // the device's; only read when it writes to memory
    uint32_t access;
    std::optional<uint32_t> pasid;
    Done done;
    uint32_t group = 0;  // of its page requests, while it waits
    unsigned tries = 0;  // how often it got its page, and could not move a byte all the same
  };

  bool run(Transfer transfer);
  [[nodiscard]] bool served(Transfer& transfer);
  // Moves as much as can be moved. Null: that was all of it; else the reason why not. `missing`: pages can
  // be requested.
  [[nodiscard]] const char* move(Transfer& transfer, bool& missing);
  void proceed(Transfer transfer);
  void wait(Transfer transfer);
  void fail(const Transfer& transfer, const char* reason);
  void moveRest(Transfer transfer);

  Endpoint& endpoint_;
  std::list<Transfer> waiting_;
  uint32_t nextGroup_ = 0;
};

}  // namespace vfio::soft::iommu
