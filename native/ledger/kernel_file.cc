#include "kernel_file.h"

#include <algorithm>

#include "kept.h"
#include "requests.h"

namespace vfio::ledger {
namespace {

constexpr const char* kClosed = "the file was closed, but the kernel had not said that it unmapped it";

// The open files of this process.
struct Registry {
  std::mutex mutex;
  std::vector<std::weak_ptr<KernelFile>> files;
};

// Never destroyed: worker threads may outlast the main thread's statics.
Registry& registry() {
  static auto* const all = new Registry;
  return *all;
}

struct KeptForGood {
  std::mutex mutex;
  std::vector<std::pair<const char*, Pieces::Map>> all;
};

KeptForGood& keptForGood() {
  static auto* const all = new KeptForGood;
  return *all;
}

void count(std::vector<Kept>& out, const char* reason, uint64_t bytes) {
  const auto found = std::ranges::find(out, reason, &Kept::reason);
  if (found != out.end())
    found->bytes += bytes;
  else
    out.push_back({bytes, reason});
}

}  // namespace

void keep(Pieces::Map pieces, const char* reason) {
  auto& kept = keptForGood();
  const std::lock_guard lock(kept.mutex);
  kept.all.emplace_back(reason, std::move(pieces));
}

std::vector<Kept> kept() {
  std::vector<Kept> out;
  {
    auto& forGood = keptForGood();
    const std::lock_guard lock(forGood.mutex);
    for (const auto& [reason, pieces] : forGood.all)
      for (const auto& [start, piece] : pieces)
        count(out, piece.doubt != nullptr ? piece.doubt : reason, piece.last - start + 1);
  }
  std::vector<std::shared_ptr<KernelFile>> files;  // released without the lock
  {
    const std::lock_guard lock(registry().mutex);
    for (const auto& weak : registry().files)
      if (auto file = weak.lock()) files.push_back(std::move(file));
  }
  std::vector<std::pair<const char*, uint64_t>> doubtful;
  for (const auto& file : files) file->doubtful(doubtful);
  for (const auto& [reason, bytes] : doubtful) count(out, reason, bytes);
  return out;
}

KernelFile::~KernelFile() {
  const auto keepAll = [](Space& space) {
    if (!space.empty()) keep(space.takeAll(), kClosed);
  };
  for (const auto& [id, object] : objects_)
    if (object->space) keepAll(*object->space);
  if (own_) keepAll(*own_);
}

std::shared_ptr<KernelFile> KernelFile::of(const OpenFile& descriptor, bool adopted) {
  const std::lock_guard lock(registry().mutex);
  auto& files = registry().files;
  std::erase_if(files, [](const auto& weak) { return weak.expired(); });
  // A file that this process has just opened has only this descriptor, so there is nothing to search for.
  if (adopted) {
    for (const auto& weak : files)
      if (auto file = weak.lock(); file && file->leadsHere(descriptor)) return file;
  }
  auto file = std::make_shared<KernelFile>(descriptor.backend);
  file->descriptors_.push_back(&descriptor);
  files.push_back(file);
  return file;
}

bool KernelFile::leadsHere(const OpenFile& descriptor) {
  if (backend_.lock() != descriptor.backend) return false;
  const std::lock_guard lock(mutex_);
  if (descriptors_.empty() ||
      !descriptor.backend->same(descriptors_.front()->fd, descriptor.fd).value_or(false))
    return false;
  descriptors_.push_back(&descriptor);
  return true;
}

void KernelFile::closing(const OpenFile& descriptor) {
  const std::lock_guard lock(mutex_);
  std::erase(descriptors_, &descriptor);
}

KernelFile::Node KernelFile::reserve(bool isSpace) {
  Objects maker;
  return maker.extract(maker.emplace(0, std::make_shared<Object>(0, isSpace)).first);
}

std::shared_ptr<Object> KernelFile::insert(Node node, uint32_t id) {
  node.key() = id;
  node.mapped()->id = id;
  // The kernel gives only a free id. So an earlier object with this id was destroyed, no matter how.
  if (const auto earlier = objects_.find(id); earlier != objects_.end()) {
    earlier->second->gone = true;
    if (earlier->second->space) earlier->second->space->ended();
    objects_.erase(earlier);
  }
  return objects_.insert(std::move(node)).position->second;
}

std::shared_ptr<Object> KernelFile::space(uint32_t id) {
  const std::lock_guard lock(mutex_);
  const auto found = objects_.find(id);
  if (found != objects_.end() && found->second->space) return found->second;
  return insert(reserve(true), id);
}

int KernelFile::destroy(const OpenFile& file, Object& object) {
  const std::lock_guard lock(mutex_);
  if (object.gone) return -ENOENT;
  const auto ask = [&] {
    const int result = destroyObject(file, object.id);
    // No object has this id: somebody else has already destroyed the object.
    return result == -ENOENT ? 0 : result;
  };
  const int result = object.space ? object.space->end(true, ask) : ask();
  if (result == 0) {
    object.gone = true;
    if (const auto found = objects_.find(object.id);
        found != objects_.end() && found->second.get() == &object)
      objects_.erase(found);
  }
  return result;
}

int KernelFile::destroy(const OpenFile& file, uint32_t id) {
  std::shared_ptr<Object> object;
  {
    const std::lock_guard lock(mutex_);
    const auto found = objects_.find(id);
    if (found == objects_.end()) return destroyObject(file, id);
    object = found->second;
  }
  return destroy(file, *object);
}

std::shared_ptr<Space> KernelFile::own() {
  const std::lock_guard lock(mutex_);
  if (!own_) own_ = std::make_shared<Space>();
  return own_;
}

void KernelFile::doubtful(std::vector<std::pair<const char*, uint64_t>>& out) const {
  const std::lock_guard lock(mutex_);
  for (const auto& [id, object] : objects_)
    if (object->space) object->space->doubtful(out);
  if (own_) own_->doubtful(out);
}

}  // namespace vfio::ledger
