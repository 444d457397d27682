// Checks that a descriptor from outside has the expected kind: on another kind of file the same ioctl number
// may mean another request.
#pragma once

#include <napi.h>

#include <memory>
#include <string>
#include <utility>

#include "../backend.h"
#include "arguments.h"

namespace vfio::binding {

// Holds a new descriptor until another object takes it over.
struct Fresh {
  Backend& backend;
  int fd;
  ~Fresh() {
    if (fd >= 0) backend.close(fd);
  }
  [[nodiscard]] int release() { return std::exchange(fd, -1); }
};

// 'iommufd', 'device', 'group', 'container' or 'other'
[[nodiscard]] FileKind kindArgument(const Arguments& arguments, size_t index);

// Throws an error with a message if the file behind `fd` has another kind. `expected`: the argument that the
// caller should pass, "the descriptor of" or "the path of". `received`: the argument that it passed.
void requireKind(Napi::Env env, Backend& backend, int fd, FileKind kind, const char* expected,
                 const char* name, const std::string& received);

// Returns a File on a duplicate of a descriptor that refers to a file of this kind. `host`: the descriptor
// must belong to this host; null: to any host.
[[nodiscard]] Napi::Value adopt(const Arguments& arguments, const std::shared_ptr<Backend>& host);

}  // namespace vfio::binding
