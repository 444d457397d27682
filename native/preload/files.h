// Opening by path, as all functions that open something do it.
#pragma once

#include <sys/types.h>

#include <optional>
#include <string>

struct stat;

namespace vfio::preload {

// What a path is opened as.
struct Opening {
  int fd = -1;       // a descriptor of the host, or -1 with `error`
  int error = 0;     // errno; 0 with no descriptor: open `path` instead
  std::string path;  // the mirror's
};

// Nothing: the path is none of the host's.
[[nodiscard]] std::optional<Opening> openOnHost(int directory, const char* path, int flags);

// What the program's calls on descriptors of the host do; -errno for errors.
[[nodiscard]] int64_t readHost(int fd, void* buffer, size_t size);
[[nodiscard]] int64_t writeHost(int fd, const void* buffer, size_t size);
int closeHost(int fd);

// fstat of a descriptor of the host.
[[nodiscard]] bool statusOf(int fd, struct stat& status);

}  // namespace vfio::preload
