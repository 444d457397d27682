// The transfers of one endpoint: DMA by the device, and the transfers that wait for pages.
//
// A transfer moves as many bytes as the endpoint's attachments allow. A page that can't be moved is a fault:
// the page is left out (a read finds zeroes), the first failure is written to the host's fault log, and the
// pages behind it are still moved. A device that can wait asks for missing pages instead (page_requests.h),
// or the unit holds its transaction and asks; the transfer waits here under the number of its request group
// until the answer comes. While the device has as many requests without an answer as it may have, further
// transfers stand in line.
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
#include "page_requests.h"

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
  // then the memory must stay valid. `asks`: what its page requests ask for besides reading or writing. Page
  // tables here know no such rights: only who handles the request does.
  using Done = std::function<void(bool)>;
  using Asks = PageRequests::Asks;
  void startRead(uint64_t iova, void* into, size_t size, std::optional<uint32_t> pasid, Done done,
                 Asks asks = {});
  void startWrite(uint64_t iova, const void* from, size_t size, std::optional<uint32_t> pasid, Done done,
                  Asks asks = {});

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
    Asks asks{};
    // While it waits:
    uint32_t group = 0;   // the number of its page requests
    size_t requests = 0;  // how many these are
    unsigned tries = 0;   // how often it asked for a page of a process, and has moved no byte since
  };

  bool run(Transfer transfer);
  [[nodiscard]] static PageRequests::Need needOf(const Transfer& transfer);
  [[nodiscard]] bool served(Transfer& transfer);
  // Moves as much as can be moved. Null: that was all of it; else the reason why not. `missing`: pages can
  // be requested.
  [[nodiscard]] const char* move(Transfer& transfer, bool& missing);
  void proceed(Transfer transfer);
  void wait(Transfer transfer);
  void resumeOnEngine(Transfer transfer, std::function<void(Transfer)> work);
  void admitNext();
  [[nodiscard]] size_t room() const;
  void fail(const Transfer& transfer, const char* reason);
  void failAt(const Transfer& transfer, const char* reason);
  void moveRest(Transfer transfer);

  Endpoint& endpoint_;
  std::list<Transfer> waiting_;
  std::list<Transfer> inLine_;  // for a request of their own
  size_t asked_ = 0;            // requests of those that wait
  uint32_t nextGroup_ = 0;
};

}  // namespace vfio::soft::iommu
