// An open file of the kernel (an open file description), as this process knows it. It records the objects and
// address spaces that were created in the file, by id and life. All descriptors of this process that refer to
// the open file share one KernelFile: a second Iommufd on a duplicate, a container over an iommufd, a worker
// thread.
//
// The kernel reuses an id as soon as it is free. So an object is destroyed by its id only while the id still
// belongs to the object that the caller means. A handle of an earlier object with that id does nothing to a
// later one.
//
// Locks, in this order: `compat_` (which address space a container's requests work on), `mutex_` (ids and
// lives; held while an object is created or destroyed), then the lock of the address space.
#pragma once

#include <atomic>
#include <cstdint>
#include <map>
#include <memory>
#include <mutex>
#include <shared_mutex>
#include <utility>
#include <vector>

#include "open_file.h"
#include "space.h"

namespace vfio::ledger {

// An object of an iommufd.
struct Object {
  Object(uint32_t id, bool isSpace) : id(id), space(isSpace ? std::make_shared<Space>() : nullptr) {}
  uint32_t id;
  const std::shared_ptr<Space> space;  // set only if the object is an address space
  std::atomic<bool> gone = false;      // the kernel has destroyed it
  std::atomic<unsigned> handles = 0;   // handles of this process on an address space
};

class KernelFile {
 public:
  explicit KernelFile(std::weak_ptr<Backend> backend) : backend_(std::move(backend)) {}
  ~KernelFile();
  KernelFile(const KernelFile&) = delete;
  KernelFile& operator=(const KernelFile&) = delete;

  // The open file that the descriptor refers to. The descriptor is listed in it until `closing`.
  static std::shared_ptr<KernelFile> of(const OpenFile& descriptor, bool adopted);
  void closing(const OpenFile& descriptor);

  // Runs `call(id)`, which asks the kernel to create an object: 0 or -errno.
  template <class Call>
  [[nodiscard]] int make(bool isSpace, std::shared_ptr<Object>& made, Call&& call) {
    const std::lock_guard lock(mutex_);
    Node node = reserve(isSpace);
    uint32_t id = 0;
    const int result = call(id);
    if (result >= 0) made = insert(std::move(node), id);
    return result;
  }
  // The address space with this id. The kernel or another owner created it.
  [[nodiscard]] std::shared_ptr<Object> space(uint32_t id);
  // Asks the kernel to destroy the object: 0, or -errno. -ENOENT: it was destroyed before.
  [[nodiscard]] int destroy(const OpenFile& file, Object& object);
  // The same for the object that has this id now.
  [[nodiscard]] int destroy(const OpenFile& file, uint32_t id);

  // While the lock is held, a container's requests work on the same address space.
  [[nodiscard]] std::shared_lock<std::shared_mutex> holdCompat() { return std::shared_lock(compat_); }
  [[nodiscard]] std::unique_lock<std::shared_mutex> changeCompat() { return std::unique_lock(compat_); }

  // For a container: its own address space, and how it unmaps (from the type in the last SET_IOMMU).
  [[nodiscard]] std::shared_ptr<Space> own();
  std::atomic<Manner> manner = Manner::unknown;

  // The bytes that are kept in its address spaces, each with the reason.
  void doubtful(std::vector<std::pair<const char*, uint64_t>>& out) const;

 private:
  using Objects = std::map<uint32_t, std::shared_ptr<Object>>;
  using Node = Objects::node_type;
  [[nodiscard]] static Node reserve(bool isSpace);
  std::shared_ptr<Object> insert(Node node, uint32_t id);
  [[nodiscard]] bool leadsHere(const OpenFile& descriptor);

  std::shared_mutex compat_;
  mutable std::mutex mutex_;
  Objects objects_;
  std::shared_ptr<Space> own_;
  std::vector<const OpenFile*> descriptors_;
  const std::weak_ptr<Backend> backend_;
};

}  // namespace vfio::ledger
