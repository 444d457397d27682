// The descriptors of a software host: which numbers of the process refer to which files of the host.
//
// A descriptor is one end of a socket pair. The inode of that end identifies the file, even if the program
// has duplicated, closed or reused the number without a call of the host. The host keeps the other end, the
// peer: it makes the descriptor readable, and its POLLHUP says that the last duplicate was closed, however
// that happened.
//
// Life: the host owns this object. A Description is made with its first descriptor and lives until the first
// reap() after its last duplicate was closed.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "../core/services.h"

namespace vfio::soft::files {

using Inode = std::pair<uint64_t, uint64_t>;  // device, inode

struct Description {
  std::shared_ptr<File> file;
  Inode inode;
  std::string path;  // the path that it was opened by; empty: none
  int flags;
  int fd;    // the number that it was given first
  int peer;  // the host's end of the socket pair
  bool readable;

  [[nodiscard]] bool closed() const;
};

class Descriptors {
 public:
  // The description that a number refers to; null: the number is not one of the host's.
  [[nodiscard]] Description* find(int fd);
  // The same, but without a system call if the number is known already: that would cost as much as the rest
  // of a call. If the program has closed the number without the host, the next open, close or dup of it
  // notices.
  [[nodiscard]] Description* known(int fd);

  // Implements the calls of Services with these names.
  [[nodiscard]] int install(std::shared_ptr<File> file, FdKind kind, int flags);
  void uninstall(int fd);
  void setReadable(const File& file, bool readable);

  // Records the path that an installed file was opened by.
  static void setPath(const File& file, std::string path);
  // Call this when a number was closed.
  void forget(int fd);
  // Drops the files whose last descriptor was closed.
  void reap();
  // Call this in the child of a fork. The child shares the socket pairs with its parent: each description
  // gets a new pair here, under the same numbers.
  void separate();
  // Closes every number and drops every file.
  void clear();

  [[nodiscard]] bool isOpen(std::string_view path) const;
  // The numbers that refer to files opened by this path. 0 or -errno.
  [[nodiscard]] int list(std::string_view path, std::vector<int>& fds) const;
  // A number that refers to the file object at this address; -1: there is none.
  [[nodiscard]] int leadingTo(const void* object) const;

 private:
  // A number that refers to this description: the first one, or a duplicate if that is closed.
  [[nodiscard]] static int number(Description& description);

  std::map<Inode, std::unique_ptr<Description>> descriptions_;
  std::vector<Description*> numbers_;  // by descriptor; null: not known
};

}  // namespace vfio::soft::files
