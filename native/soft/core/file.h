// An open file description of the software host: what a descriptor leads to. Made by an open (or by a call
// that returns a descriptor), shared by duplicates, destroyed at the last close. Every method runs with the
// host's lock held.
//
// `user` arguments are the caller's addresses: reach them through mm::Memory only.
#pragma once

#include <sys/types.h>

#include <cerrno>
#include <cstddef>
#include <cstdint>

#include "../../backend.h"

namespace vfio::soft {

namespace files {
class Descriptors;
struct Description;
}  // namespace files

using UserAddress = uint64_t;

class File {
 public:
  virtual ~File() = default;

  [[nodiscard]] virtual FileKind kind() const { return FileKind::other; }
  // Which calls it has. Without one it is EINVAL, and ESPIPE with a position, whatever the arguments.
  struct Calls {
    bool reads = false;
    bool writes = false;
    bool positions = true;
  };
  [[nodiscard]] virtual Calls calls() const { return {}; }
  [[nodiscard]] virtual int ioctl(unsigned long /*request*/, UserAddress /*argument*/) { return -ENOTTY; }
  [[nodiscard]] virtual int64_t read(UserAddress /*user*/, size_t /*size*/) { return -EINVAL; }
  [[nodiscard]] virtual int64_t write(UserAddress /*user*/, size_t /*size*/) { return -EINVAL; }
  [[nodiscard]] virtual int64_t pread(UserAddress /*user*/, size_t /*size*/, uint64_t /*offset*/) {
    return -EINVAL;
  }
  [[nodiscard]] virtual int64_t pwrite(UserAddress /*user*/, size_t /*size*/, uint64_t /*offset*/) {
    return -EINVAL;
  }
  // The new position, or -errno.
  [[nodiscard]] virtual int64_t seek(int64_t /*offset*/, int /*whence*/) { return -ESPIPE; }
  [[nodiscard]] virtual int64_t mmap(void* /*hint*/, size_t /*length*/, int /*protection*/, int /*flags*/,
                                     uint64_t /*offset*/) {
    return -ENODEV;
  }

 private:
  friend files::Descriptors;
  files::Description* description_ = nullptr;  // what leads here; null once that is closed
};

}  // namespace vfio::soft
