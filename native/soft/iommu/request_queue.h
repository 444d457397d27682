// The queue of page requests between a unit and the kernel: of fixed size, in memory. The unit appends what
// devices send, and a thread of the kernel reads it.
//
// A request that finds the queue full is lost, and so is each one after it until the kernel has read the
// queue. The kernel then drops all incomplete groups, since it can't know which of them will never be
// complete. The unit answers a lost request `success` if it is the last of its group, so that the device asks
// again; this is an assumption about the hardware, since Linux's source shows only what the kernel does.
//
// Life: part of its unit. While there are requests in it, a job that reads it is posted for one of the
// endpoints; whoever cancels the jobs of an endpoint calls drain() first.
#pragma once

#include <deque>
#include <set>

#include "page_request.h"

namespace vfio::soft::iommu {

class RequestQueue {
 public:
  // The unit appends a request of a device.
  void send(Endpoint& from, const PageRequest& request);
  // The kernel's thread handles all that is in the queue.
  void drain();
  // Forgets the endpoint's requests, without an answer.
  void forget(Endpoint& from);

 private:
  struct Entry {
    Endpoint* from;
    PageRequest request;
  };
  static void handle(const Entry& entry);

  std::deque<Entry> entries_;
  std::set<Endpoint*> read_;  // requests of these have been read
  bool overflowed_ = false;   // a request has been lost
};

}  // namespace vfio::soft::iommu
