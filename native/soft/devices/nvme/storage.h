// What a namespace stores: memory that no file system shows, or a file, which keeps it. Only what was written
// takes room; the rest reads as zero.
//
// Life: a part of its controller. A reset doesn't touch it.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

#include "../state.h"
#include "nvme.h"

namespace vfio::soft::devices::nvme {

class Storage {
 public:
  // How much memory can hold data at a time, however large the namespace is. A file has no such limit.
  static constexpr uint64_t kMost = uint64_t{4} << 30;

  // Throws std::system_error if there is no memory, or the file can't be used.
  explicit Storage(const NvmeOptions& options);
  ~Storage();
  Storage(const Storage&) = delete;
  Storage& operator=(const Storage&) = delete;

  [[nodiscard]] uint64_t size() const { return size_; }  // in bytes
  [[nodiscard]] uint64_t used() const;                   // how many of them take room
  [[nodiscard]] bool inMemory() const { return limited_; }
  [[nodiscard]] uint64_t most() const { return limited_ && size_ > kMost ? kMost : size_; }

  // The caller has checked that the range lies inside. Each returns false if it fails: then part of the range
  // may have been moved.
  [[nodiscard]] bool read(uint64_t at, std::span<uint8_t> into) const;
  [[nodiscard]] bool write(uint64_t at, std::span<const uint8_t> from);
  [[nodiscard]] bool clear(uint64_t at, uint64_t size);

  // All data, for another namespace in memory of the same size. `load` reads what is left of the state; if it
  // returns false, nothing has changed.
  void save(StateWriter& writer) const;
  [[nodiscard]] bool load(StateReader& reader);

 private:
  [[nodiscard]] bool hasRoom(uint64_t at, uint64_t size) const;

  int fd_ = -1;
  bool limited_;
  uint64_t size_ = 0;
};

}  // namespace vfio::soft::devices::nvme
