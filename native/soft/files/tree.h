// A small file tree: what the host shows of /sys and /dev. Directories, symbolic links, attributes whose text
// is made when it is read, flat files (config space), and nodes whose open is somebody else's business.
//
// Life: the tree belongs to the machine; nodes come and go with drivers and groups. An open attribute keeps
// its node: reading it after it left the tree gives -ENODEV, as with the kernel's. Most attributes of a large
// machine are never read: a directory may offer some, each of which is a node while somebody looks at it.
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

// Attributes that a directory has besides its nodes.
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
  std::shared_ptr<const Node> offeredBy{};  // of an attribute that its directory does not hold

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

  // Building. Paths are absolute and go through no links; missing directories are made.
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

  // Who the program is. What root may do everybody may, unless nodes have permissions.
  uint32_t user = 0;
  bool permissions = false;

 private:
  // Resolves as the kernel does: links are followed (the last one only with `follow`), ".." of a link's
  // target is the target's parent. 0 and a node, or -ENOENT, -ENOTDIR, -ELOOP, -ENAMETOOLONG.
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
