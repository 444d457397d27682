#include "space_handle.h"

#include <utility>

#include "requests.h"

namespace vfio::ledger {
namespace {

constexpr const char* kNotUnmapped = "its address space was disposed, but the kernel did not unmap it";

}  // namespace

SpaceHandle::SpaceHandle(std::shared_ptr<OpenFile> file, std::shared_ptr<Object> object, bool owner)
    : object(std::move(object)), space(this->object->space), owner_(owner), file_(std::move(file)) {
  ++this->object->handles;
}

SpaceHandle::SpaceHandle(std::shared_ptr<OpenFile> file)
    : space(file->kernel->own()), owner_(true), file_(std::move(file)) {}

// A handle that nobody ever received: no call has used it.
SpaceHandle::~SpaceHandle() {
  if (closed_) return;
  const bool last = object && --object->handles == 0;
  if (owner_) {
    end(*file_);
  } else if (last) {
    empty(*file_);
  }
}

void SpaceHandle::close() {
  if (closed_.exchange(true)) return;
  const std::shared_ptr<OpenFile> file = std::move(file_);
  const bool last = object && --object->handles == 0;
  if (!owner_) {
    if (last) empty(*file);
    return;
  }
  // This thread does not wait for a long call: the last running call destroys the address space when it
  // returns.
  ending_ = file;
  if (space->close(shared_from_this())) return;
  ending_.reset();
  end(*file);
}

void SpaceHandle::idle() {
  const std::shared_ptr<OpenFile> file = std::move(ending_);
  end(*file);
}

int SpaceHandle::unmapMapping(const OpenFile& file, uint64_t mapping, uint64_t iova, uint64_t length,
                              uint64_t& bytes) {
  return space->unmapMapping(
      mapping, iova, length, bytes,
      [&](uint64_t start, uint64_t size, uint64_t& unmapped) { return ask(file, start, size, unmapped); });
}

int SpaceHandle::ask(const OpenFile& file, uint64_t start, uint64_t length, uint64_t& bytes) const {
  return object ? unmapIoas(file, object->id, start, length, bytes)
                : unmapContainer(file, start, length, bytes);
}

void SpaceHandle::end(const OpenFile& file) {
  if (!object) return empty(file);
  const int result = file.kernel->destroy(file, *object);
  if (result == 0 || result == -ENOENT) return;
  // Something is attached: unmap everything, so that devices lose access. The kernel destroys the empty
  // object with the iommufd.
  empty(file);
  space->reopen();
}

void SpaceHandle::empty(const OpenFile& file) {
  if (space->empty()) return;
  if (owner_) {
    const int result = space->end(false, [&] {
      uint64_t bytes = 0;
      const int unmapped = ask(file, 0, UINT64_MAX, bytes);
      // Without an IOMMU a container has no mappings.
      return unmapped < 0 && !object && containerIommu(file) == -EINVAL ? 0 : unmapped < 0 ? unmapped : 0;
    });
    if (result == 0) return;
  }
  const int failed = space->unmapRecorded(
      [&](uint64_t start, uint64_t size, uint64_t& unmapped) { return ask(file, start, size, unmapped); });
  if (failed < 0) space->doubt(kNotUnmapped);
}

}  // namespace vfio::ledger
