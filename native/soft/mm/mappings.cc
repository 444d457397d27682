#include "mappings.h"

#include <fcntl.h>
#include <linux/magic.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/statfs.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <cstring>
#include <new>
#include <string>
#include <string_view>

#include "memory.h"

namespace vfio::soft::mm {
namespace {

// One mapping of the process.
struct Mapping {
  uint64_t first;  // page
  uint64_t last;
  bool readable;
  bool sharedFile;  // shared, writable, and of a file
  std::string path;
};

// /proc/self/maps answers for one address since Linux 6.11 (linux/fs.h: procmap_query).
struct Query {
  uint64_t size;
  uint64_t flags;
  uint64_t address;
  uint64_t start;
  uint64_t end;
  uint64_t vmaFlags;
  uint64_t pageSize;
  uint64_t offset;
  uint64_t inode;
  uint32_t major;
  uint32_t minor;
  uint32_t nameSize;
  uint32_t buildIdSize;
  uint64_t name;
  uint64_t buildId;
};
constexpr unsigned long kQuery = _IOWR('f', 17, Query);
constexpr uint64_t kReadable = 1;
constexpr uint64_t kWritable = 2;
constexpr uint64_t kShared = 8;

class Maps {
 public:
  // A direct system call, not the C library's function: a preloaded host stands in front of the C library.
  Maps() : fd_(static_cast<int>(syscall(SYS_openat, AT_FDCWD, "/proc/self/maps", O_RDONLY | O_CLOEXEC, 0))) {}
  ~Maps() {
    if (fd_ >= 0) syscall(SYS_close, fd_);
  }
  Maps(const Maps&) = delete;
  Maps& operator=(const Maps&) = delete;

  // The mapping that a page is in, or nothing known of it.
  bool find(uint64_t page, Mapping& out) {
    if (fd_ < 0) return false;
    char name[4096] = {};
    Query query = {};
    query.size = sizeof(query);
    query.address = page * pageSize();
    query.nameSize = sizeof(name);
    query.name = reinterpret_cast<uint64_t>(name);
    if (syscall(SYS_ioctl, fd_, kQuery, &query) == 0) {
      const bool shared = (query.vmaFlags & (kShared | kWritable)) == (kShared | kWritable);
      out = {query.start / pageSize(), query.end / pageSize() - 1, (query.vmaFlags & kReadable) != 0,
             shared && query.inode != 0, name};
      return true;
    }
    return findInText(page, out);
  }

 private:
  bool findInText(uint64_t page, Mapping& out) {
    const uint64_t address = page * pageSize();
    if (text_.empty()) {
      char part[16384];
      long size;
      while ((size = syscall(SYS_read, fd_, part, sizeof(part))) > 0) {
        text_.append(part, static_cast<size_t>(size));
      }
    }
    for (size_t at = 0; at < text_.size();) {
      const size_t end = std::min(text_.find('\n', at), text_.size());
      const std::string line = text_.substr(at, end - at);
      at = end + 1;
      unsigned long long first = 0;
      unsigned long long after = 0;
      unsigned long long inode = 0;
      char rights[5] = {};
      int name = 0;
      if (std::sscanf(line.c_str(), "%llx-%llx %4s %*x %*x:%*x %llu %n", &first, &after, rights, &inode,
                      &name) < 4 ||
          address < first || address >= after) {
        continue;
      }
      const bool shared = rights[1] == 'w' && rights[3] == 's';
      out = {first / pageSize(), after / pageSize() - 1, rights[0] == 'r', shared && inode != 0,
             line.substr(static_cast<size_t>(name))};
      return true;
    }
    return false;
  }

  const int fd_;
  std::string text_;
};

// Is the file in memory only, so that nothing has to be written back? For a deleted file its folder decides.
bool inMemory(std::string path) {
  for (const std::string_view kind : {"/memfd:", "/SYSV", "/dev/zero", "/anon_hugepage"}) {
    if (path.starts_with(kind)) return true;
  }
  constexpr std::string_view kDeleted = " (deleted)";
  if (path.ends_with(kDeleted)) path.resize(path.size() - kDeleted.size());
  while (!path.empty()) {
    struct statfs system = {};
    if (syscall(SYS_statfs, path.c_str(), &system) == 0) {
      struct stat file = {};
      if (syscall(SYS_newfstatat, AT_FDCWD, path.c_str(), &file, 0) == 0 && S_ISBLK(file.st_mode))
        return false;
      const auto type = static_cast<uint32_t>(system.f_type);
      return type == TMPFS_MAGIC || type == RAMFS_MAGIC || type == HUGETLBFS_MAGIC;
    }
    path.resize(path.find_last_of('/') == std::string::npos ? 0 : path.find_last_of('/'));
  }
  return true;  // unknown
}

}  // namespace

bool Mappings::ask(uint64_t first, uint64_t last, bool write) {
  Maps maps;
  Range good;
  bool keep = true;  // true for nearly all mappings
  for (uint64_t next = first;;) {
    Mapping mapping = {};
    if (!maps.find(next, mapping)) return true;  // without /proc nothing is known
    if (!write && !mapping.readable) return false;
    if (mapping.sharedFile) {
      if (write && !inMemory(mapping.path)) return false;
      keep = false;
    }
    good.readable = good.readable && mapping.readable;
    if (next == first) good.first = mapping.first;
    good.last = mapping.last;
    if (mapping.last >= last) break;
    next = mapping.last + 1;
  }
  if (!keep) return true;
  for (Range& range : known_) {
    if (range.first <= good.last && range.last >= good.first) range = {};
  }
  known_[oldest_] = good;
  oldest_ = (oldest_ + 1) % known_.size();
  return true;
}

uint64_t Mappings::ofDevices(uint64_t first, uint64_t last) const {
  uint64_t pages = 0;
  for (uint64_t next = first; !devices_.empty();) {
    const auto* const range = devices_.find(next, last);
    if (range == nullptr) break;
    const uint64_t end = std::min(range->last, last);
    pages += end - std::max(range->start, next) + 1;
    if (end == last) break;
    next = end + 1;
  }
  return pages;
}

void Mappings::unmapped(uint64_t first, uint64_t last) {
  for (Range& range : known_) {
    if (range.first <= last && range.last >= first) range = {};
  }
  while (const auto* const found = devices_.find(first, last)) {
    const auto range = *found;
    devices_.erase(range.start);
    try {
      if (range.start < first) devices_.insert(range.start, first - 1, {});
      if (range.last > last) devices_.insert(last + 1, range.last, {});
    } catch (const std::bad_alloc&) {
      // Even the reserve has no memory: the rest of the range is no longer known as a device's.
    }
  }
}

void Mappings::setDevice(uint64_t first, uint64_t last) {
  unmapped(first, last);
  devices_.insert(first, last, {});
}

}  // namespace vfio::soft::mm
