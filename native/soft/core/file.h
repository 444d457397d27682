// An open file description of the software host: the object that a descriptor refers to. An open creates it
// (or a call that returns a descriptor), duplicates of the descriptor share it, and the last close destroys
// it. Every method runs with the host's lock held.
//
// `user` arguments are addresses in the caller's memory: access them through mm::Memory only.
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
  // Which of these calls the file supports. A call that it doesn't support fails with EINVAL, or with ESPIPE
  // if the call gives a position, whatever the arguments are.
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
  // Returns the new position, or -errno.
  [[nodiscard]] virtual int64_t seek(int64_t /*offset*/, int /*whence*/) { return -ESPIPE; }
  [[nodiscard]] virtual int64_t mmap(void* /*hint*/, size_t /*length*/, int /*protection*/, int /*flags*/,
                                     uint64_t /*offset*/) {
    return -ENODEV;
  }

 private:
  friend files::Descriptors;
  // The description that refers to this file; null once it is closed.
  files::Description* description_ = nullptr;
};

}  // namespace vfio::soft
