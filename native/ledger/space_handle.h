// A handle's share in an address space.
//
// Life: of the object in JavaScript and the calls under way on it. `close` ends the share, and lets go of the
// open file. An address space that was allocated ends with its owner's share, whoever else has one: the
// kernel destroys it, or, where something is attached, it is emptied. One that the kernel made stays, and is
// emptied when the last share in it ends. A container's own is emptied with its share.
#pragma once

#include <atomic>
#include <memory>

#include "kernel_file.h"

namespace vfio::ledger {

class SpaceHandle final : public Idle, public std::enable_shared_from_this<SpaceHandle> {
 public:
  // Of an iommufd. `owner`: this process has allocated it for this share.
  SpaceHandle(std::shared_ptr<OpenFile> file, std::shared_ptr<Object> object, bool owner);
  // Of a container of its own.
  explicit SpaceHandle(std::shared_ptr<OpenFile> file);

  // On the thread that the handle belongs to, as `file` is. Again: nothing.
  void close();
  [[nodiscard]] bool closed() const { return closed_; }
  // Null once it is closed. A call that runs on another thread takes a share of its own along.
  [[nodiscard]] const std::shared_ptr<OpenFile>& file() const { return file_; }

  // Unmaps what is left of a mapping, by the requests of this kind of space.
  [[nodiscard]] int unmapMapping(const OpenFile& file, uint64_t mapping, uint64_t iova, uint64_t length,
                                 uint64_t& bytes);

  const std::shared_ptr<Object> object;  // null: a container's own
  const std::shared_ptr<Space> space;

 private:
  [[nodiscard]] int ask(const OpenFile& file, uint64_t start, uint64_t length, uint64_t& bytes) const;
  void idle() override;
  void end(const OpenFile& file);
  void empty(const OpenFile& file);

  const bool owner_;
  std::shared_ptr<OpenFile> file_;
  std::shared_ptr<OpenFile> ending_;  // for the end that a call under way puts off
  std::atomic<bool> closed_ = false;
};

}  // namespace vfio::ledger
