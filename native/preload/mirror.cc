#include "mirror.h"

#include <dirent.h>
#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <cerrno>
#include <climits>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string_view>
#include <system_error>
#include <utility>
#include <vector>

#include "../base/shown.h"
#include "real.h"
#include "software.h"

namespace vfio::preload {

namespace {

constexpr std::string_view kName = "vfio-soft-";

struct Entry {
  uint32_t mode;
  std::string target;  // of a link

  bool operator==(const Entry&) const = default;
};

// Everything below is guarded by `lock`, but for `made`.
struct State {
  std::mutex lock;
  std::string root;   // empty: not made yet
  std::string first;  // of the parent that this process was forked from: names in it stay known
  int locked = -1;    // its descriptor, which has the lock on it while this process lives
  pid_t owner = 0;
  bool stale = true;
  std::map<std::string, Entry> entries;
  std::map<std::string, std::string> texts;
};

State& state() {
  // Never destroyed: threads may still run when the process ends.
  static auto* const made = new State;
  return *made;
}

constinit std::atomic<bool> made{false};  // is there a mirror, or was there one before a fork?

[[noreturn]] void fail(const char* what) { throw std::system_error(errno, std::generic_category(), what); }

void writeFile(const std::string& path, const std::string& text, mode_t mode) {
  // A new file each time: who has the old one open keeps what it read.
  const std::string fresh = path + ".new";
  const int fd = REAL(open)(fresh.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_NOFOLLOW | O_CLOEXEC, 0600);
  if (fd < 0) fail("open");
  const auto written = REAL(write)(fd, text.data(), text.size());
  const int error = written < 0 ? errno : ENOSPC;
  const bool whole = written == static_cast<ssize_t>(text.size());
  if (whole) fchmod(fd, mode & 0777);
  REAL(close)(fd);
  if (whole && rename(fresh.c_str(), path.c_str()) == 0) return;
  if (!whole) errno = error;
  fail("write");
}

// ---------------------------------------------------------------- whose directory it is

constexpr int kDirectory = O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC;

// Empties a directory. No link is followed: what it leads to is somebody else's.
void emptyTree(int directory) {
  // A descriptor of its own, since closedir takes it.
  const int listed = REAL(openat)(directory, ".", kDirectory);
  if (listed < 0) return;
  DIR* entries = fdopendir(listed);
  if (!entries) {
    REAL(close)(listed);
    return;
  }
  while (const dirent* entry = readdir(entries)) {
    const std::string_view name = entry->d_name;
    if (name == "." || name == "..") continue;
    if (unlinkat(directory, entry->d_name, 0) == 0) continue;
    const int child = REAL(openat)(directory, entry->d_name, kDirectory);
    if (child < 0) continue;
    emptyTree(child);
    REAL(close)(child);
    unlinkat(directory, entry->d_name, AT_REMOVEDIR);
  }
  closedir(entries);
}

// Does the name lead to this directory still?
bool isAt(int directory, int parent, const char* name) {
  struct stat opened {};
  struct stat named {};
  return REAL(fstat)(directory, &opened) == 0 &&
         REAL(fstatat)(parent, name, &named, AT_SYMLINK_NOFOLLOW) == 0 && opened.st_dev == named.st_dev &&
         opened.st_ino == named.st_ino;
}

// Opens a directory of this user's and locks it, if nobody has it locked. -1: it is in use, or another's.
int claim(int parent, const char* name) {
  const int directory = REAL(openat)(parent, name, kDirectory);
  if (directory < 0) return -1;
  struct stat status {};
  if (REAL(fstat)(directory, &status) == 0 && status.st_uid == geteuid() &&
      flock(directory, LOCK_EX | LOCK_NB) == 0 && isAt(directory, parent, name))
    return directory;
  REAL(close)(directory);
  return -1;
}

// Those of processes that are gone, and of this one before an exec: nobody has them locked. The lock says so
// whatever namespaces of processes the others are in.
void sweep(const std::string& parent) {
  DIR* listed = REAL(opendir)(parent.c_str());
  if (!listed) return;
  std::vector<std::string> names;
  while (const dirent* entry = readdir(listed)) {
    if (std::string_view(entry->d_name).starts_with(kName)) names.emplace_back(entry->d_name);
  }
  for (const auto& name : names) {
    const int dead = claim(dirfd(listed), name.c_str());
    if (dead < 0) continue;
    emptyTree(dead);
    unlinkat(dirfd(listed), name.c_str(), AT_REMOVEDIR);
    REAL(close)(dead);
  }
  closedir(listed);
}

// Makes a directory and locks it: its path. Between the two, another process's sweep may take it for a dead
// one and remove it; then a new one is made. Empty, with errno: none can be made.
std::string makeLocked(const std::string& parent, int& lock) {
  constexpr int tries = 100;
  for (int i = 0; i < tries; ++i) {
    std::string path = parent + "/" + std::string(kName) + "XXXXXX";
    if (!mkdtemp(path.data())) return {};
    const int directory = REAL(open)(path.c_str(), kDirectory);
    if (directory < 0 && errno != ENOENT) return {};
    if (directory < 0) continue;
    // Where there are no locks, nobody sweeps either.
    const bool locked = flock(directory, LOCK_EX | LOCK_NB) == 0 || errno != EWOULDBLOCK;
    if (locked && isAt(directory, AT_FDCWD, path.c_str())) {
      // The program can neither use nor close it: wrapped.cc.
      lock = fcntl(directory, F_DUPFD_CLOEXEC, 0);
      const int error = errno;
      REAL(close)(directory);
      errno = error;
      return lock < 0 ? std::string() : path;
    }
    REAL(close)(directory);
  }
  errno = EBUSY;
  return {};
}

void create(State& it) {
  const char* parent = getenv("TMPDIR");
  const std::string base = parent && *parent == '/' ? parent : "/tmp";
  sweep(base);
  const std::string path = makeLocked(base, it.locked);
  if (path.empty()) fail("mkdtemp");
  // As the kernel names it: TMPDIR may go through links.
  std::array<char, PATH_MAX> resolved;
  it.root = REAL(realpath)(path.c_str(), resolved.data()) ? resolved.data() : path;
  it.owner = getpid();
  if (it.first.empty()) it.first = it.root;
  made.store(true);
}

// An answer that says nothing of the name, only of what this process lacks.
int64_t orLack(int64_t answer) {
  for (const int lacking : {ENOMEM, EMFILE, ENFILE}) {
    if (answer == -lacking) throw std::system_error(lacking, std::generic_category());
  }
  return answer;
}

void collect(soft::Host& host, const std::string& path, std::map<std::string, Entry>& entries) {
  soft::files::Status status;
  if (orLack(host.status(path.c_str(), false, status)) != 0) return;
  Entry entry{status.mode, {}};
  if (S_ISLNK(status.mode)) {
    std::array<char, PATH_MAX> target;
    const auto size = orLack(host.readlink(path.c_str(), target.data(), target.size()));
    if (size > 0) entry.target.assign(target.data(), static_cast<size_t>(size));
  }
  entries.emplace(path, std::move(entry));
  std::vector<std::string> names;
  if (!S_ISDIR(status.mode) || orLack(host.list(path.c_str(), names)) != 0) return;
  for (const auto& name : names) collect(host, path + "/" + name, entries);
}

std::optional<std::string> textOf(const std::string& path) {
  auto& machine = host();
  const auto fd = static_cast<int>(orLack(machine.open(path.c_str(), O_RDONLY | O_CLOEXEC)));
  if (fd < 0) return std::nullopt;
  std::array<char, 4096> text;
  const auto size = machine.read(fd, text.data(), text.size());
  machine.close(fd);
  if (orLack(size) < 0) return std::nullopt;
  return std::string(text.data(), static_cast<size_t>(size));
}

void bringUpToDate(State& it) {
  if (it.root.empty()) create(it);
  if (!it.stale) return;
  std::map<std::string, Entry> wanted;
  collect(host(), "/sys", wanted);
  collect(host(), "/dev", wanted);
  // What is known follows each step, so that after one that fails the next try goes on from there. Children
  // come after their directory in this order, so they go first.
  for (auto old = it.entries.end(); old != it.entries.begin();) {
    --old;
    const auto found = wanted.find(old->first);
    if (found != wanted.end() && found->second == old->second) continue;
    const std::string path = it.root + old->first;
    if (S_ISDIR(old->second.mode)) {
      rmdir(path.c_str());
    } else {
      unlink(path.c_str());
    }
    it.texts.erase(old->first);
    old = it.entries.erase(old);
  }
  for (auto next = wanted.begin(); next != wanted.end();) {
    const auto& [path, entry] = *next;
    if (it.entries.contains(path)) {
      ++next;
      continue;
    }
    const std::string place = it.root + path;
    if (S_ISDIR(entry.mode)) {
      if (mkdir(place.c_str(), 0755) != 0 && errno != EEXIST) fail("mkdir");
    } else if (S_ISLNK(entry.mode)) {
      if (symlink(entry.target.c_str(), place.c_str()) != 0 && errno != EEXIST) fail("symlink");
    } else {
      // Read from within the C library, without an open of the program's, attributes show what they were.
      const bool text = S_ISREG(entry.mode) && (entry.mode & 0444) != 0 && !path.ends_with("/config");
      writeFile(place, text ? textOf(path).value_or("") : "", entry.mode);
    }
    it.entries.insert(wanted.extract(next++));
  }
  it.stale = false;
}

// Is `path` this one or below it?
bool under(std::string_view path, std::string_view top) {
  return path.starts_with(top) && (path.size() == top.size() || path[top.size()] == '/');
}

bool isHosts(std::string_view path) {
  constexpr std::array<std::string_view, 13> tops{"/dev/iommu",
                                                  "/dev/vfio",
                                                  "/sys/bus/pci",
                                                  "/sys/class/vfio",
                                                  "/sys/class/iommu",
                                                  "/sys/class/vfio-dev",
                                                  "/sys/kernel/iommu_groups",
                                                  "/sys/module/vfio",
                                                  "/sys/module/vfio_pci",
                                                  "/sys/module/vfio_iommu_type1",
                                                  "/sys/module/iommufd",
                                                  "/sys/devices/virtual/iommu",
                                                  "/sys/devices/virtual/vfio"};
  // Root buses: /sys/devices/pci0000:00.
  return path.starts_with("/sys/devices/pci") ||
         std::any_of(tops.begin(), tops.end(), [path](std::string_view top) { return under(path, top); });
}

// Without what means nothing: "//" and "/./".
std::string tidy(std::string_view path) {
  std::string result;
  for (size_t i = 0; i < path.size(); ++i) {
    if (path[i] == '/') {
      if (i + 1 < path.size() && path[i + 1] == '/') continue;
      if (i + 2 < path.size() && path[i + 1] == '.' && path[i + 2] == '/') {
        ++i;
        continue;
      }
    }
    result += path[i];
  }
  return result;
}

// What is behind a mirror's directory, this process's or that of a parent.
std::optional<std::string> inside(const std::string& path) {
  auto& it = state();
  const std::lock_guard hold(it.lock);
  for (const auto* root : {&it.root, &it.first}) {
    if (!root->empty() && under(path, *root)) return path.substr(root->size());
  }
  return std::nullopt;
}

}  // namespace

std::optional<std::string> hostPath(int directory, const char* path) {
  if (!path || !*path) return std::nullopt;
  const bool some = made.load(std::memory_order_relaxed);
  if (*path == '/') {
    const char* name = path;
    while (*name == '/' || (*name == '.' && name[1] == '/')) ++name;
    if (!some && std::strncmp(name, "dev/", 4) != 0 && std::strncmp(name, "sys/", 4) != 0)
      return std::nullopt;
    std::string whole = tidy(path);
    if (isHosts(whole)) return whole;
    return some ? inside(whole) : std::nullopt;
  }
  // Relative names concern the host only from within the mirror.
  if (!some) return std::nullopt;
  std::array<char, PATH_MAX> base;
  if (directory == AT_FDCWD) {
    if (!REAL(getcwd)(base.data(), base.size())) return std::nullopt;
  } else {
    const std::string link = "/proc/self/fd/" + std::to_string(directory);
    const auto size = REAL(readlink)(link.c_str(), base.data(), base.size() - 1);
    if (size <= 0) return std::nullopt;
    base[static_cast<size_t>(size)] = '\0';
  }
  const auto found = inside(base.data());
  if (!found) return std::nullopt;
  return tidy(*found + "/" + path);
}

std::string mirrored(const std::string& hostPath) {
  auto& it = state();
  const std::lock_guard hold(it.lock);
  bringUpToDate(it);
  return it.root + hostPath;
}

bool mirroredText(const std::string& hostPath, std::string& path) {
  auto& it = state();
  const std::lock_guard hold(it.lock);
  bringUpToDate(it);
  path = it.root + hostPath;
  auto text = textOf(hostPath);
  if (!text) return false;
  std::array<char, PATH_MAX> resolved;
  if (!REAL(realpath)(path.c_str(), resolved.data())) return false;
  auto& known = it.texts[resolved.data() + it.root.size()];
  if (known != *text) {
    struct stat status {};
    if (REAL(stat)(resolved.data(), &status) == 0) writeFile(resolved.data(), *text, status.st_mode);
    known = std::move(*text);
  }
  return true;
}

std::string programPath(const std::string& path) {
  if (!made.load(std::memory_order_relaxed)) return path;
  return inside(path).value_or(path);
}

void namesChanged() {
  if (!made.load(std::memory_order_relaxed)) return;
  auto& it = state();
  const std::lock_guard hold(it.lock);
  it.stale = true;
}

void lockMirror() { state().lock.lock(); }

void unlockMirror(bool forget) {
  auto& it = state();
  if (forget) {
    it.root.clear();
    // The parent's lock, which a child would keep alive.
    if (it.locked >= 0) close(it.locked);
    it.locked = -1;
    it.entries.clear();
    it.texts.clear();
    it.stale = true;
    it.owner = 0;
  }
  it.lock.unlock();
}

void removeMirror() {
  if (!made.load(std::memory_order_relaxed)) return;
  auto& it = state();
  if (it.owner != getpid() || it.root.empty()) return;
  (void)guarded(0, [&it] {
    // What is known to be there needs no descriptors to be found.
    for (auto entry = it.entries.rbegin(); entry != it.entries.rend(); ++entry) {
      const std::string path = it.root + entry->first;
      S_ISDIR(entry->second.mode) ? rmdir(path.c_str()) : unlink(path.c_str());
    }
    if (rmdir(it.root.c_str()) == 0) return 0;
    emptyTree(it.locked);
    return rmdir(it.root.c_str());
  });
}

}  // namespace vfio::preload
