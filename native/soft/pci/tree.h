// A small file tree: what the host shows of /sys and /dev. Directories, symbolic links, attributes whose text
// is made when it is read, flat files (config space), and nodes whose open is somebody else's business.
//
// Life: the tree belongs to the machine; nodes come and go with drivers and groups. An open attribute keeps
// its node: reading it after it left the tree gives -ENODEV, as with the kernel's.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "../../backend.h"
#include "../file.h"

namespace vfio::soft::pci {

struct Attribute {
  std::function<int(std::string& text)> show;      // 0 or -errno; null: write-only
  std::function<int64_t(std::string_view)> store;  // 0 (all was taken) or -errno; null: read-only
};

struct Flat {
  uint64_t size = 0;
  std::function<uint8_t(uint64_t offset)> read;
  std::function<void(uint64_t offset, unsigned width, uint32_t value)> write;
};

// What stat(2) tells of a node.
struct Status {
  uint32_t mode = 0;  // type and permissions, as st_mode
  uint64_t size = 0;
  uint64_t device = 0;  // of a device node, as st_rdev
};

using Opener = std::function<int(int flags, std::shared_ptr<File>& out)>;

struct Node {
  enum class Kind { directory, link, attribute, flat, device };
  Kind kind = Kind::directory;
  std::map<std::string, std::shared_ptr<Node>, std::less<>> children;
  std::string target;
  Attribute attribute;
  Flat flat;
  Opener opener;
  uint64_t number = 0;
  Ownership ownership{};  // of a device node; the rest is root's
  bool gone = false;
};

class Tree {
 public:
  Tree() : root_(std::make_shared<Node>()) {}

  // Building. Paths are absolute and go through no links; missing directories are made.
  void directory(const std::string& path) { make(path); }
  void link(const std::string& path, const std::string& target);  // `target` absolute; shown relative
  void attribute(const std::string& path, Attribute attribute);
  void flat(const std::string& path, Flat flat);
  void device(const std::string& path, Opener opener, unsigned major, unsigned minor, uint32_t mode = 0600);
  void remove(const std::string& path);

  [[nodiscard]] int open(const std::string& path, int flags, std::shared_ptr<File>& out);
  [[nodiscard]] int readlink(const std::string& path, std::string& target);
  [[nodiscard]] int status(const std::string& path, bool follow, Status& out);
  [[nodiscard]] int list(const std::string& path, std::vector<std::string>& names);
  [[nodiscard]] int readText(const std::string& path, std::string& text);
  [[nodiscard]] int ownership(const std::string& path, Ownership& out);
  [[nodiscard]] int own(const std::string& path, uint32_t uid, uint32_t mode);

  // Who the program is. What root may do everybody may, unless nodes have permissions.
  uint32_t user = 0;
  bool permissions = false;

 private:
  // Resolves as the kernel does: links are followed (the last one only with `follow`), ".." of a link's
  // target is the target's parent. 0 and a node, or -ENOENT, -ENOTDIR, -ELOOP, -ENAMETOOLONG.
  [[nodiscard]] int find(const std::string& path, bool follow, std::shared_ptr<Node>& out);
  Node& make(const std::string& path);
  [[nodiscard]] Ownership ownershipOf(const Node& node) const;
  [[nodiscard]] bool permits(const Node& node, bool reads, bool writes) const;

  std::shared_ptr<Node> root_;
};

}  // namespace vfio::soft::pci
