// A small file tree: the host's /sys, /proc and /dev. It has directories, symbolic links, attributes whose
// text is made when it is read, flat files (config space), and device nodes, which a function of their owner
// opens.
//
// Life: the tree lives as long as the host; nodes are added and removed with drivers and groups. An open
// attribute keeps its node: reading it after it was removed fails with -ENODEV, as in the kernel. Most
// attributes of a large machine are never read. So a directory can offer attributes: a node is made for one
// only while it is looked up or open.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <variant>
#include <vector>

#include "../../backend.h"
#include "../core/file.h"
#include "status.h"

namespace vfio::soft::files {

struct Attribute {
  std::function<int(std::string& text)> show;      // 0 or -errno; null: write-only
  std::function<int64_t(std::string_view)> store;  // 0 (all was taken) or -errno; null: read-only
};

struct Flat {
  uint64_t size = 0;
  std::function<uint8_t(uint64_t offset)> read;
  std::function<void(uint64_t offset, unsigned width, uint32_t value)> write;
};

using Opener = std::function<int(int flags, std::shared_ptr<File>& out)>;

// Attributes that a directory offers besides its nodes.
struct Offer {
  std::function<void(std::vector<std::string>& names)> list;
  std::function<std::optional<Attribute>(std::string_view name)> make;  // null: it offers none of this name
};

struct Node;

struct Directory {
  std::map<std::string, std::shared_ptr<Node>, std::less<>> children;
  std::unique_ptr<Offer> offer;
};

struct Link {
  std::string target;
};

struct DeviceNode {
  Opener opener;
  uint64_t number = 0;
  Ownership ownership{};
};

struct Node {
  std::variant<Directory, Link, Attribute, Flat, DeviceNode> content;
  bool gone = false;
  std::shared_ptr<const Node> offeredBy{};  // the directory, if this is an attribute that it offers

  [[nodiscard]] bool isGone() const { return gone || (offeredBy && offeredBy->gone); }

  template <typename Kind>
  [[nodiscard]] bool is() const {
    return std::holds_alternative<Kind>(content);
  }
  template <typename Kind>
  [[nodiscard]] Kind& as() {
    return std::get<Kind>(content);
  }
  template <typename Kind>
  [[nodiscard]] const Kind& as() const {
    return std::get<Kind>(content);
  }
};

class Tree {
 public:
  Tree() : root_(std::make_shared<Node>()) {}

  // Calls that build the tree. Paths are absolute and contain no links; missing directories are made.
  void directory(const std::string& path) { make(path); }
  void link(const std::string& path, const std::string& target);  // `target` absolute; shown relative
  void attribute(const std::string& path, Attribute attribute);
  void offer(const std::string& path, Offer offer);  // in the directory `path`, which has none yet
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

  // The user that the program runs as. If `permissions` is false, every user may open the device nodes.
  uint32_t user = 0;
  bool permissions = false;

 private:
  // Resolves a path as the kernel does: links are followed (the last one only with `follow`), and ".." after
  // a link is the parent of its target. 0 and a node, or -ENOENT, -ENOTDIR, -ELOOP, -ENAMETOOLONG.
  [[nodiscard]] int find(const std::string& path, bool follow, std::shared_ptr<Node>& out);
  Node& make(const std::string& path);
  template <typename Kind>
  void put(const std::string& path, Kind content) {
    make(path).content = std::move(content);
  }
  [[nodiscard]] Ownership ownershipOf(const Node& node) const;
  [[nodiscard]] bool permits(const Node& node, bool reads, bool writes) const;

  std::shared_ptr<Node> root_;
};

}  // namespace vfio::soft::files
