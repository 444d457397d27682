// Shared code of the programs that print a host's answers, one on each line, so that two hosts can be
// compared: the host that is called, and the output of a line.
#pragma once

#include <fcntl.h>

#include <cerrno>
#include <cstdarg>
#include <cstdio>
#include <cstring>
#include <memory>
#include <optional>
#include <string>

#include "../../native/kernel/kernel.h"
#include "../../native/soft/host/host.h"
#include "../../native/soft/mm/memory.h"
#include "failing.h"

namespace vfio::trace {

inline std::unique_ptr<Backend> host;

// The first argument of the program chooses the host: "kernel"; "soft", a software host of that topology that
// answers as Linux 6.12; "failing" and a seed: the software host, with calls that fail first (failing.h).
inline void chooseHost(char** arguments, std::optional<std::string> topology = std::nullopt) {
  const std::string which = arguments[1] ? arguments[1] : "soft";
  if (which == "kernel") {
    host = std::make_unique<KernelBackend>();
  } else {
    const unsigned seed = failing::seedOf(which);
    auto made =
        std::make_unique<soft::Host>(std::make_shared<soft::mm::Memory>(),
                                     soft::HostOptions{.kernel = {6, 12}, .topology = std::move(topology)});
    host = failing::wrap(std::move(made), seed);
  }
}

inline void say(const char* pattern, ...) __attribute__((format(printf, 1, 2)));
inline void say(const char* pattern, ...) {
  va_list arguments;
  va_start(arguments, pattern);
  std::vprintf(pattern, arguments);
  va_end(arguments);
  std::putchar('\n');
}

inline int64_t put(const std::string& path, const std::string& value) {
  const int fd = host->open(path.c_str(), O_WRONLY);
  if (fd < 0) return fd;
  const int64_t size = host->write(fd, value.data(), value.size());
  host->close(fd);
  return size;
}

}  // namespace vfio::trace
