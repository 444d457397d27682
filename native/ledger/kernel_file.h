// An open file of the kernel's (an open file description), as this process knows it: the objects and address
// spaces that were made in it, by id and life. Every descriptor of this process that leads to it shares it: a
// second Iommufd on a duplicate, a container over an iommufd, a worker thread.
//
// The kernel gives an id again as soon as it is free. So an object is destroyed by its id only while it has
// the life that the caller means: what belonged to an earlier object of that id does nothing to a later one.
//
// Locks, in this order: `compat_` (which address space a container's requests work on), `mutex_` (ids and
// lives; held while an object is made or destroyed), then the address space's own.
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
  const std::shared_ptr<Space> space;  // if it is an address space
  std::atomic<bool> gone = false;      // the kernel has destroyed it
  std::atomic<unsigned> handles = 0;   // of this process, on an address space
};

class KernelFile {
 public:
  explicit KernelFile(std::weak_ptr<Backend> backend) : backend_(std::move(backend)) {}
  ~KernelFile();
  KernelFile(const KernelFile&) = delete;
  KernelFile& operator=(const KernelFile&) = delete;

  // The open file that `fd` leads to, which counts as one of its descriptors until `closing`.
  static std::shared_ptr<KernelFile> of(const std::shared_ptr<Backend>& backend, int fd, bool adopted);
  void closing(int fd);

  // Runs `call(id)`, which has the kernel make an object: 0 or -errno.
  template <class Call>
  [[nodiscard]] int make(bool isSpace, std::shared_ptr<Object>& made, Call&& call) {
    const std::lock_guard lock(mutex_);
    Node node = reserve(isSpace);
    uint32_t id = 0;
    const int result = call(id);
    if (result >= 0) made = insert(std::move(node), id);
    return result;
  }
  // The address space of this id, which the kernel made, or somebody else.
  [[nodiscard]] std::shared_ptr<Object> space(uint32_t id);
  // Has the kernel destroy the object: 0, or -errno. Gone already: -ENOENT.
  [[nodiscard]] int destroy(const OpenFile& file, Object& object);
  // The same of whatever has the id now.
  [[nodiscard]] int destroy(const OpenFile& file, uint32_t id);

  // The address space that a container's requests work on stays the same until the lock goes.
  [[nodiscard]] std::shared_lock<std::shared_mutex> holdCompat() { return std::shared_lock(compat_); }
  [[nodiscard]] std::unique_lock<std::shared_mutex> changeCompat() { return std::unique_lock(compat_); }

  // Of a container: its own address space, and how it unmaps (what SET_IOMMU was last given).
  [[nodiscard]] std::shared_ptr<Space> own();
  std::atomic<Manner> manner = Manner::unknown;

  // Bytes that are kept in its address spaces, each with the reason.
  void doubtful(std::vector<std::pair<const char*, uint64_t>>& out) const;

 private:
  using Objects = std::map<uint32_t, std::shared_ptr<Object>>;
  using Node = Objects::node_type;
  [[nodiscard]] static Node reserve(bool isSpace);
  std::shared_ptr<Object> insert(Node node, uint32_t id);
  [[nodiscard]] bool leadsHere(Backend& backend, int fd);

  std::shared_mutex compat_;
  mutable std::mutex mutex_;
  Objects objects_;
  std::shared_ptr<Space> own_;
  std::vector<int> descriptors_;
  const std::weak_ptr<Backend> backend_;
};

}  // namespace vfio::ledger
