// Resolves paths, and implements the open files of attributes, config spaces and directories.
#include "tree.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>

#include <algorithm>
#include <array>

#include "../mm/memory.h"

namespace vfio::soft::files {

namespace {

constexpr size_t pageSize = 4096;
constexpr size_t longestName = 255;
constexpr int mostLinks = 40;
constexpr size_t usualDepth = 16;  // most paths have fewer parts, with links resolved

std::vector<std::string_view> split(std::string_view path) {
  std::vector<std::string_view> parts;
  parts.reserve(usualDepth);
  for (size_t at = 0; at < path.size();) {
    const size_t end = std::min(path.find('/', at), path.size());
    if (end > at) parts.emplace_back(path.substr(at, end - at));
    at = end + 1;
  }
  return parts;
}

// An open directory. Reading it fails: the tree's own list() reads directories.
class DirectoryFile final : public File {
 public:
  [[nodiscard]] Calls calls() const override { return {.reads = true}; }
  [[nodiscard]] int64_t read(UserAddress, size_t) override { return -EISDIR; }
  [[nodiscard]] int64_t pread(UserAddress, size_t, uint64_t) override { return -EISDIR; }
};

int64_t moveTo(uint64_t& position, int64_t offset, int whence, uint64_t end) {
  if (whence != SEEK_SET && whence != SEEK_CUR && whence != SEEK_END) return -EINVAL;
  const uint64_t base = whence == SEEK_SET ? 0 : whence == SEEK_CUR ? position : end;
  int64_t moved = 0;
  if (__builtin_add_overflow(static_cast<int64_t>(base), offset, &moved) || moved < 0) return -EINVAL;
  position = static_cast<uint64_t>(moved);
  return moved;
}

// An open attribute. Its text is made at the first read and at every read from offset 0, as in the kernel's
// sequential files.
class AttributeFile final : public File {
 public:
  explicit AttributeFile(std::shared_ptr<Node> node)
      : node_(std::move(node)), attribute_(node_->as<Attribute>()) {}

  [[nodiscard]] Calls calls() const override { return {.reads = true, .writes = true}; }
  [[nodiscard]] int64_t read(UserAddress user, size_t size) override {
    const int64_t moved = pread(user, size, position_);
    if (moved > 0) position_ += static_cast<uint64_t>(moved);
    return moved;
  }
  [[nodiscard]] int64_t pread(UserAddress user, size_t size, uint64_t offset) override {
    if (!attribute_.show) return -EIO;
    if (offset == 0 || !filled_) {
      if (node_->isGone()) return -ENODEV;
      text_.clear();
      if (const int failed = attribute_.show(text_)) return failed;
      filled_ = true;
    }
    if (offset >= text_.size()) return 0;
    const size_t length = std::min(size, text_.size() - offset);
    if (mm::Memory::copyOut(user, text_.data() + offset, length) != 0) return -EFAULT;
    return static_cast<int64_t>(length);
  }
  [[nodiscard]] int64_t write(UserAddress user, size_t size) override {
    const size_t length = std::min(size, pageSize);
    std::array<char, pageSize> text;
    if (mm::Memory::copyIn(text.data(), user, length) != 0) return -EFAULT;
    if (node_->isGone()) return -ENODEV;
    if (!attribute_.store) return -EIO;
    if (length == 0) return 0;
    const int64_t failed = attribute_.store({text.data(), length});
    return failed < 0 ? failed : static_cast<int64_t>(length);
  }
  [[nodiscard]] int64_t pwrite(UserAddress user, size_t size, uint64_t) override { return write(user, size); }
  [[nodiscard]] int64_t seek(int64_t offset, int whence) override {
    return moveTo(position_, offset, whence, pageSize);
  }

 private:
  const std::shared_ptr<Node> node_;
  const Attribute& attribute_;
  std::string text_;
  bool filled_ = false;
  uint64_t position_ = 0;
};

class FlatFile final : public File {
 public:
  explicit FlatFile(std::shared_ptr<Node> node) : node_(std::move(node)), flat_(node_->as<Flat>()) {}

  [[nodiscard]] Calls calls() const override { return {.reads = true, .writes = true}; }
  [[nodiscard]] int64_t read(UserAddress user, size_t size) override {
    const int64_t moved = pread(user, size, position_);
    if (moved > 0) position_ += static_cast<uint64_t>(moved);
    return moved;
  }
  [[nodiscard]] int64_t write(UserAddress user, size_t size) override {
    const int64_t moved = pwrite(user, size, position_);
    if (moved > 0) position_ += static_cast<uint64_t>(moved);
    return moved;
  }
  [[nodiscard]] int64_t pread(UserAddress user, size_t size, uint64_t offset) override {
    std::array<uint8_t, pageSize> bytes;
    const size_t length = clamp(size, offset);
    if (node_->isGone()) return -ENODEV;
    for (size_t i = 0; i < length; ++i) bytes[i] = flat_.read(offset + i);
    if (mm::Memory::copyOut(user, bytes.data(), length) != 0) return -EFAULT;
    return static_cast<int64_t>(length);
  }
  [[nodiscard]] int64_t pwrite(UserAddress user, size_t size, uint64_t offset) override {
    std::array<uint8_t, pageSize> bytes;
    if (offset >= flat_.size && size > 0) return -EFBIG;
    const size_t length = clamp(size, offset);
    if (mm::Memory::copyIn(bytes.data(), user, length) != 0) return -EFAULT;
    if (node_->isGone()) return -ENODEV;
    for (size_t i = 0; i < length;) {
      const uint64_t at = offset + i;
      const unsigned width = at % 4 == 0 && length - i >= 4 ? 4 : at % 2 == 0 && length - i >= 2 ? 2 : 1;
      uint32_t value = 0;
      for (unsigned k = 0; k < width; ++k) value |= uint32_t{bytes[i + k]} << 8 * k;
      flat_.write(at, width, value);
      i += width;
    }
    return static_cast<int64_t>(length);
  }

  [[nodiscard]] int64_t seek(int64_t offset, int whence) override {
    return moveTo(position_, offset, whence, flat_.size);
  }

 private:
  [[nodiscard]] size_t clamp(size_t size, uint64_t offset) const {
    const uint64_t left = offset < flat_.size ? flat_.size - offset : 0;
    return std::min({size, static_cast<size_t>(left), pageSize});
  }
  const std::shared_ptr<Node> node_;
  const Flat& flat_;
  uint64_t position_ = 0;
};

void markGone(Node& node) {
  node.gone = true;
  if (!node.is<Directory>()) return;
  for (auto& [name, child] : node.as<Directory>().children) markGone(*child);
}

}  // namespace

// ---------------------------------------------------------------- building

Node& Tree::make(const std::string& path) {
  Node* node = root_.get();
  for (size_t at = 0; at < path.size();) {
    const size_t end = std::min(path.find('/', at), path.size());
    const auto part = std::string_view(path).substr(at, end - at);
    at = end + 1;
    if (part.empty()) continue;
    auto& children = node->as<Directory>().children;
    auto child = children.lower_bound(part);
    if (child == children.end() || child->first != part)
      child = children.emplace_hint(child, part, std::make_shared<Node>());
    node = child->second.get();
  }
  return *node;
}

void Tree::link(const std::string& path, const std::string& target) {
  auto from = split(path);
  const auto to = split(target);
  from.pop_back();
  // The link goes up to an ancestor of the target, never to the target itself, as sysfs computes it.
  size_t common = 0;
  while (common < from.size() && common + 1 < to.size() && from[common] == to[common]) ++common;
  std::string relative;
  for (size_t i = common; i < from.size(); ++i) relative += "../";
  for (size_t i = common; i < to.size(); ++i) {
    if (i > common) relative += '/';
    relative += to[i];
  }
  put(path, Link{std::move(relative)});
}

void Tree::attribute(const std::string& path, Attribute attribute) { put(path, std::move(attribute)); }

void Tree::offer(const std::string& path, Offer offer) {
  make(path).as<Directory>().offer = std::make_unique<Offer>(std::move(offer));
}

void Tree::flat(const std::string& path, Flat flat) { put(path, std::move(flat)); }

void Tree::device(const std::string& path, Opener opener, unsigned major, unsigned minor, uint32_t mode) {
  put(path, DeviceNode{std::move(opener), makedev(major, minor), {.mode = mode}});
}

void Tree::remove(const std::string& path) {
  const size_t slash = path.rfind('/');
  auto& siblings = make(path.substr(0, slash)).as<Directory>().children;
  const auto found = siblings.find(path.substr(slash + 1));
  if (found == siblings.end()) return;
  markGone(*found->second);
  siblings.erase(found);
}

// ---------------------------------------------------------------- walking

int Tree::find(const std::string& path, bool follow, std::shared_ptr<Node>& out) {
  if (path.empty() || path.front() != '/') return -ENOENT;
  // The parts that are left to walk, the next one at the back. They refer to the path's text, or to the texts
  // of links in the tree.
  std::vector<std::string_view> left = split(path);
  std::reverse(left.begin(), left.end());
  const bool mustBeDirectory = path.back() == '/';
  std::vector<const std::shared_ptr<Node>*> trail{&root_};
  trail.reserve(usualDepth);
  std::shared_ptr<Node> offered;
  int links = 0;
  while (!left.empty()) {
    const std::string_view part = left.back();
    left.pop_back();
    if (part.size() > longestName) return -ENAMETOOLONG;
    Node& here = **trail.back();
    if (!here.is<Directory>()) return -ENOTDIR;
    if (part == ".") continue;
    if (part == "..") {
      if (trail.size() > 1) trail.pop_back();
      continue;
    }
    const auto& directory = here.as<Directory>();
    const auto found = directory.children.find(part);
    if (found == directory.children.end()) {
      auto attribute = directory.offer ? directory.offer->make(part) : std::nullopt;
      if (!attribute) return -ENOENT;
      offered = std::make_shared<Node>(Node{std::move(*attribute), false, *trail.back()});
      trail.push_back(&offered);
      continue;
    }
    const Node& node = *found->second;
    const bool last = left.empty();
    if (node.is<Link>() && (!last || follow || mustBeDirectory)) {
      if (++links > mostLinks) return -ELOOP;
      const auto target = split(node.as<Link>().target);
      left.insert(left.end(), target.rbegin(), target.rend());
      continue;
    }
    trail.push_back(&found->second);
  }
  if (mustBeDirectory && !(*trail.back())->is<Directory>()) return -ENOTDIR;
  out = *trail.back();
  return 0;
}

int Tree::open(const std::string& path, int flags, std::shared_ptr<File>& out) {
  std::shared_ptr<Node> node;
  const int failed = find(path, (flags & O_NOFOLLOW) == 0, node);
  if (failed == -ENOENT && (flags & O_CREAT) != 0 && !path.empty()) return -EACCES;  // as sysfs says
  if (failed) return failed;
  if ((flags & (O_CREAT | O_EXCL)) == (O_CREAT | O_EXCL)) return -EEXIST;
  if (node->is<Link>()) return -ELOOP;
  const int mode = flags & O_ACCMODE;
  const bool reads = mode != O_WRONLY;
  const bool writes = mode != O_RDONLY;
  if (node->is<Directory>()) {
    if (writes || (flags & O_CREAT) != 0) return -EISDIR;
    out = std::make_shared<DirectoryFile>();
    return 0;
  }
  if ((flags & O_DIRECTORY) != 0) return -ENOTDIR;
  if (!permits(*node, reads, writes)) return -EACCES;
  if (node->is<DeviceNode>()) return node->as<DeviceNode>().opener(flags, out);
  if (node->is<Flat>()) {
    out = std::make_shared<FlatFile>(node);
    return 0;
  }
  // In sysfs the permissions of an attribute apply to root too.
  const auto& attribute = node->as<Attribute>();
  if ((reads && !attribute.show) || (writes && !attribute.store)) return -EACCES;
  out = std::make_shared<AttributeFile>(node);
  return 0;
}

Ownership Tree::ownershipOf(const Node& node) const {
  if (const auto* attribute = std::get_if<Attribute>(&node.content))
    return {.mode = (attribute->show ? 0444U : 0U) | (attribute->store ? 0200U : 0U)};
  if (const auto* device = std::get_if<DeviceNode>(&node.content))
    return permissions ? device->ownership : Ownership{.mode = 0666};
  return {.mode = node.is<Directory>() ? 0755U : node.is<Link>() ? 0777U : 0644U};
}

// Root may do everything. A user is in no Unix group but the one that has the user's number.
bool Tree::permits(const Node& node, bool reads, bool writes) const {
  if (user == 0) return true;
  const Ownership owned = ownershipOf(node);
  constexpr unsigned ownerShift = 6, groupShift = 3;
  const unsigned bits = owned.mode >> (owned.uid == user ? ownerShift : owned.gid == user ? groupShift : 0);
  return (!reads || (bits & 4) != 0) && (!writes || (bits & 2) != 0);
}

int Tree::readText(const std::string& path, std::string& text) {
  std::shared_ptr<Node> node;
  if (const int failed = find(path, true, node)) return failed;
  if (node->is<Directory>()) return -EISDIR;
  if (!node->is<Attribute>() || !node->as<Attribute>().show) return -EACCES;
  return node->as<Attribute>().show(text);
}

int Tree::ownership(const std::string& path, Ownership& out) {
  std::shared_ptr<Node> node;
  if (const int failed = find(path, true, node)) return failed;
  out = ownershipOf(*node);
  return 0;
}

int Tree::own(const std::string& path, uint32_t uid, uint32_t mode) {
  std::shared_ptr<Node> node;
  if (const int failed = find(path, true, node)) return failed;
  if (user != 0) return -EPERM;
  if (!node->is<DeviceNode>()) return -EPERM;  // the files of sysfs always belong to root
  auto& ownership = node->as<DeviceNode>().ownership;
  ownership.uid = uid;
  ownership.mode = mode;
  return 0;
}

int Tree::readlink(const std::string& path, std::string& target) {
  std::shared_ptr<Node> node;
  if (const int failed = find(path, false, node)) return failed;
  if (!node->is<Link>()) return -EINVAL;
  target = node->as<Link>().target;
  return 0;
}

int Tree::status(const std::string& path, bool follow, Status& out) {
  std::shared_ptr<Node> node;
  if (const int failed = find(path, follow, node)) return failed;
  const uint32_t permitted = ownershipOf(*node).mode;
  if (node->is<Directory>()) out = {.mode = S_IFDIR | permitted};
  if (node->is<Link>()) out = {.mode = S_IFLNK | permitted, .size = node->as<Link>().target.size()};
  if (node->is<Attribute>()) out = {.mode = S_IFREG | permitted, .size = pageSize};
  if (node->is<Flat>()) out = {.mode = S_IFREG | permitted, .size = node->as<Flat>().size};
  if (node->is<DeviceNode>()) out = {.mode = S_IFCHR | permitted, .device = node->as<DeviceNode>().number};
  return 0;
}

int Tree::list(const std::string& path, std::vector<std::string>& names) {
  std::shared_ptr<Node> node;
  if (const int failed = find(path, true, node)) return failed;
  if (!node->is<Directory>()) return -ENOTDIR;
  const auto& directory = node->as<Directory>();
  for (const auto& [name, child] : directory.children) names.push_back(name);
  if (!directory.offer) return 0;
  directory.offer->list(names);
  std::sort(names.begin(), names.end());
  names.erase(std::unique(names.begin(), names.end()), names.end());
  return 0;
}

}  // namespace vfio::soft::files
