// Descriptors that come from outside are what they are taken for: a request on another kind of file may be
// another request there.
#pragma once

#include <napi.h>

#include <memory>
#include <string>
#include <utility>

#include "../backend.h"
#include "arguments.h"

namespace vfio::binding {

// A descriptor until somebody owns it.
struct Fresh {
  Backend& backend;
  int fd;
  ~Fresh() {
    if (fd >= 0) backend.close(fd);
  }
  [[nodiscard]] int release() { return std::exchange(fd, -1); }
};

// 'iommufd', 'device', 'group' or 'container'
[[nodiscard]] FileKind kindArgument(const Arguments& arguments, size_t index);

// Throws, in words, if the file behind `fd` is of another kind. `expected`: what was to be passed, "the
// descriptor of" or "the path of"; `received`: what was.
void requireKind(Napi::Env env, Backend& backend, int fd, FileKind kind, const char* expected,
                 const char* name, const std::string& received);

// A duplicate of a descriptor that leads to a file of this kind, as a File. `host`: it has to be this one's;
// null: of any.
[[nodiscard]] Napi::Value adopt(const Arguments& arguments, const std::shared_ptr<Backend>& host);

}  // namespace vfio::binding
