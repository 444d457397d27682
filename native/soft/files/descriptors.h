// The descriptors of a software host: which numbers of the process lead to which files.
//
// A descriptor is one end of a socket pair. The inode of that end tells which file a number stands for, even
// after a dup or a reuse of the number behind our back; the end that we keep makes it readable, and hangs up
// exactly when the last duplicate is closed, however it was closed.
//
// Life: the host's. A Description is made with its first descriptor and lives until the last duplicate is
// closed, which is noticed by the next reap().
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
  std::string path;  // that it was opened by; empty: by no path
  int flags;
  int fd;    // the number that it was given first
  int peer;  // our end
  bool readable;

  [[nodiscard]] bool closed() const;
};

class Descriptors {
 public:
  // What a number leads to; null if it is none of the host's.
  [[nodiscard]] Description* find(int fd);
  // The same, trusting that a number which led to a description still does: asking costs as much as the call.
  // A number that was closed behind our back is noticed at the next open, close or dup of it.
  [[nodiscard]] Description* known(int fd);

  // As Services has them.
  [[nodiscard]] int install(std::shared_ptr<File> file, FdKind kind, int flags);
  void uninstall(int fd);
  void setReadable(const File& file, bool readable);

  // The path that an installed file was opened by.
  static void setPath(const File& file, std::string path);
  // This number was closed.
  void forget(int fd);
  // Drops the files whose last descriptor has gone.
  void reap();
  // In the child of a fork. The socket pairs are the parent's too: each description gets a new one, under the
  // same numbers.
  void separate();
  // Closes every number and drops every file.
  void clear();

  [[nodiscard]] bool isOpen(std::string_view path) const;
  // The numbers that lead to files opened by this path. 0 or -errno.
  [[nodiscard]] int list(std::string_view path, std::vector<int>& fds) const;
  // A number that leads to the file object at this address; -1: there is none.
  [[nodiscard]] int leadingTo(const void* object) const;

 private:
  // A number that the program has for this description: the first one, or whichever duplicate is left.
  [[nodiscard]] static int number(Description& description);

  std::map<Inode, std::unique_ptr<Description>> descriptions_;
  std::vector<Description*> numbers_;  // by descriptor; null: not known
};

}  // namespace vfio::soft::files
