#include "request_queue.h"

#include <chrono>

#include "../core/engine.h"
#include "../core/services.h"
#include "endpoint.h"
#include "model.h"

namespace vfio::soft::iommu {

void RequestQueue::send(Endpoint& from, const PageRequest& request) {
  const size_t most = from.unit.model.defaults.requestEntries;
  overflowed_ = overflowed_ || (most != 0 && entries_.size() >= most);
  if (overflowed_) {
    if (request.last) from.requests.respond(request.group, PageResponse::success);
    return;
  }
  entries_.push_back({&from, request});
  if (entries_.size() > 1) return;  // a job is posted already
  const bool soon = from.host.engine().post(&from, std::chrono::nanoseconds::zero(), [this] { drain(); });
  if (!soon) from.host.reportFault({from.bdf, 0, 0, false, Transfers::kNoThread});
}

void RequestQueue::drain() {
  while (!entries_.empty()) {
    const Entry entry = entries_.front();
    entries_.pop_front();
    read_.insert(entry.from);
    handle(entry);
  }
  if (!overflowed_) return;
  for (Endpoint* const each : read_) each->requests.dropIncomplete();
  overflowed_ = false;
}

void RequestQueue::handle(const Entry& entry) {
  const auto& [from, request] = entry;
  PageRequests& requests = from->requests;
  switch (from->unit.model.screens(*from, request)) {
    case Screening::passed:
      (void)requests.report(request);
      return;
    case Screening::dropped:
      return;
    case Screening::refused:
      if (request.last) requests.respond(request.group, PageResponse::invalid);
      return;
    case Screening::failed:
      requests.respond(request.group, PageResponse::failure);
      return;
  }
}

void RequestQueue::forget(Endpoint& from) {
  // The unit of mock devices is shared by all hosts of the process. It is never written to, since those
  // devices send nothing.
  if (read_.empty() && entries_.empty()) return;
  std::erase_if(entries_, [&from](const Entry& entry) { return entry.from == &from; });
  read_.erase(&from);
}

}  // namespace vfio::soft::iommu
