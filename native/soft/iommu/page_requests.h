// The page requests of one endpoint: which ones a transfer needs, their way to the unit's queue, how the
// kernel passes them on to the handler of the page table's page requests, and their answers.
//
// The kernel keeps the requests of a group until the last one comes. They belong together by their number
// only, whatever their PASIDs are. A request is answered once; nothing has a time-out.
//
// Life: part of its endpoint. Requests are on while part of the kernel has turned them on, as the unit's
// driver allows. Incomplete groups are lost when they are turned off.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <vector>

#include "page_request.h"

namespace vfio::soft::iommu {

class PageRequests {
 public:
  explicit PageRequests(Endpoint& endpoint) : endpoint_(endpoint) {}
  PageRequests(const PageRequests&) = delete;
  PageRequests& operator=(const PageRequests&) = delete;

  // How many groups, and how many requests, can be without an answer at the same time?
  [[nodiscard]] uint32_t mostGroups() const;
  [[nodiscard]] size_t most() const;

  // What a device can ask for besides reading or writing.
  struct Asks {
    bool execute = false;
    bool privileged = false;  // as the supervisor
  };
  // What a transfer lacks.
  struct Need {
    std::optional<uint32_t> pasid;
    uint64_t iova;
    size_t size;
    uint32_t access;
    Asks asks;
  };
  // The request for the first page that it needs, as a group of its own.
  [[nodiscard]] static PageRequest single(const Need& need);
  // The requests, as one group of at most `room` (> 0), for the pages that it needs: the first page, at which
  // the transfer has stopped, and those of the others that are missing.
  [[nodiscard]] std::vector<PageRequest> missing(uint32_t group, const Need& need, size_t room) const;
  // The device sends a request. The kernel handles it later, on the engine.
  void send(const PageRequest& request);
  // The kernel passes a request on: 0, or -EINVAL when nobody handles it; then the answer is `invalid`.
  int report(const PageRequest& request);
  // Forgets the requests of incomplete groups; they get no answer.
  void dropIncomplete() { incomplete_.clear(); }
  // The answer to a group of requests.
  void respond(uint32_t group, PageResponse response);

  // A part of the kernel turns page requests on, after it has asked the unit's driver
  // (Model::enablesRequests), and off.
  void turnOn() { ++enabled_; }
  void turnOff();
  [[nodiscard]] bool on() const { return enabled_ != 0; }

 private:
  Endpoint& endpoint_;
  std::vector<PageRequest> incomplete_;  // of groups whose last request hasn't come
  unsigned enabled_ = 0;
};

}  // namespace vfio::soft::iommu
