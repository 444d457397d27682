// The share of one handle in an address space.
//
// Life: as long as the object in JavaScript and the calls that are running on it. `close` ends the share and
// releases the open file. An allocated address space ends with its owner's share, even if others still share
// it: the kernel destroys it or, if something is attached, everything in it is unmapped. An address space
// that the kernel created stays; it is emptied when the last share in it ends. A container's own address
// space is emptied when its share ends.
#pragma once

#include <atomic>
#include <memory>

#include "kernel_file.h"

namespace vfio::ledger {

class SpaceHandle final : public Idle, public std::enable_shared_from_this<SpaceHandle> {
 public:
  // An address space of an iommufd. `owner`: this process allocated it for this share.
  SpaceHandle(std::shared_ptr<OpenFile> file, std::shared_ptr<Object> object, bool owner);
  // The address space of a VFIO container (/dev/vfio/vfio).
  explicit SpaceHandle(std::shared_ptr<OpenFile> file);
  ~SpaceHandle() override;
  SpaceHandle(const SpaceHandle&) = delete;
  SpaceHandle& operator=(const SpaceHandle&) = delete;

  // Only on the thread that owns the handle; so is `file`. A second call does nothing.
  void close();
  [[nodiscard]] bool closed() const { return closed_; }
  // Null once it is closed. A call that runs on another thread takes its own shared pointer along.
  [[nodiscard]] const std::shared_ptr<OpenFile>& file() const { return file_; }

  // Unmaps the remaining pieces of a mapping, with the requests for this kind of space.
  [[nodiscard]] int unmapMapping(const OpenFile& file, uint64_t mapping, uint64_t iova, uint64_t length,
                                 uint64_t& bytes);

  const std::shared_ptr<Object> object;  // null: a container's own address space
  const std::shared_ptr<Space> space;

 private:
  [[nodiscard]] int ask(const OpenFile& file, uint64_t start, uint64_t length, uint64_t& bytes) const;
  void idle() override;
  void end(const OpenFile& file);
  void empty(const OpenFile& file);

  const bool owner_;
  std::shared_ptr<OpenFile> file_;
  std::shared_ptr<OpenFile> ending_;  // set while a running call delays the end
  std::atomic<bool> closed_ = false;
};

}  // namespace vfio::ledger
