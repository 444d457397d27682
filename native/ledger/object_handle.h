// An object of an iommufd that a handle owns, other than an address space.
//
// Life: the object is destroyed with its handle, unless it was destroyed before.
#pragma once

#include <memory>
#include <utility>

#include "kernel_file.h"

namespace vfio::ledger {

class ObjectHandle {
 public:
  ObjectHandle(std::shared_ptr<OpenFile> file, std::shared_ptr<Object> object)
      : file_(std::move(file)), object_(std::move(object)) {}
  ~ObjectHandle() { (void)destroy(); }
  ObjectHandle(const ObjectHandle&) = delete;
  ObjectHandle& operator=(const ObjectHandle&) = delete;

  [[nodiscard]] uint32_t id() const { return object_->id; }
  [[nodiscard]] bool gone() const { return object_->gone; }
  // 0, or -errno. -EBUSY: something uses the object, so it stays. -ENOENT: it was destroyed before.
  [[nodiscard]] int destroy() { return file_->kernel->destroy(*file_, *object_); }

 private:
  const std::shared_ptr<OpenFile> file_;
  const std::shared_ptr<Object> object_;
};

}  // namespace vfio::ledger
