// Objects of an iommufd and the table of their ids.
//
// Life of an object: `create` gives it the lowest free id, from 1, shared by all kinds; nothing can find it
// yet. `publish` makes it visible, once nothing can fail any more; `abort` destroys it and frees the id. A
// published object lives until DESTROY, its driver or the closing of the file removes it, which works only
// while nothing else uses it. Every user of an object is counted in `users`; a user's reference to it is
// valid as long as the user is counted.
#pragma once

#include <cerrno>
#include <cstdint>
#include <memory>
#include <set>
#include <utility>
#include <vector>

namespace vfio::soft::iommufd {

enum class ObjectKind {
  ioas,
  pagingHwpt,
  nestedHwpt,
  device,
  access,
  faultQueue,
  viommu,
  vdevice,
  veventQueue,
  hwQueue,
  selftest,
};

class Object {
 public:
  explicit Object(ObjectKind itsKind) : kind(itsKind) {}
  virtual ~Object() = default;
  Object(const Object&) = delete;
  Object& operator=(const Object&) = delete;

  const ObjectKind kind;
  uint32_t id = 0;
  unsigned users = 1;  // the table is the first user
  bool published = false;
};

class ObjectTable {
 public:
  ObjectTable() = default;
  ~ObjectTable() { removeAll(); }
  ObjectTable(const ObjectTable&) = delete;
  ObjectTable& operator=(const ObjectTable&) = delete;

  // A new, unpublished T, or null when the ids (31 bits) have run out, for which the kernel returns -EBUSY.
  template <class T, class... Arguments>
  [[nodiscard]] T* create(Arguments&&... arguments) {
    auto object = std::make_unique<T>(std::forward<Arguments>(arguments)...);
    const uint32_t id = takeId();
    if (id == 0) return nullptr;
    T* const made = object.get();
    made->id = id;
    slots_[id] = std::move(object);
    return made;
  }
  static void publish(Object& object) { object.published = true; }
  void abort(Object& object) { erase(object.id); }

  // By id; null if there is none (yet) or it is of another kind.
  [[nodiscard]] Object* find(uint32_t id) const;
  template <class T>
  [[nodiscard]] T* find(uint32_t id) const {
    Object* const object = find(id);
    return object != nullptr && object->kind == T::kKind ? static_cast<T*>(object) : nullptr;
  }

  // Shows every published object until `visit` returns false. Returns false if stopped.
  template <class Visit>
  bool forEach(const Visit& visit) const {
    for (const std::unique_ptr<Object>& slot : slots_) {
      if (slot != nullptr && slot->published && !visit(*slot)) return false;
    }
    return true;
  }

  // Removes and destroys: 0, -ENOENT, or -EBUSY while it has other users than the table.
  [[nodiscard]] int remove(uint32_t id);
  // The same, but the id is never given out again.
  [[nodiscard]] int entomb(uint32_t id);
  // Removes everything: objects that nothing uses first, until none is left.
  void removeAll();

  // Are there no objects, published or not?
  [[nodiscard]] bool empty() const { return slots_.size() - 1 == free_.size(); }

 private:
  [[nodiscard]] uint32_t takeId();
  void erase(uint32_t id);
  [[nodiscard]] int removable(uint32_t id) const;

  std::vector<std::unique_ptr<Object>> slots_{1};  // by id; there is no id 0
  std::set<uint32_t> free_;                        // empty slots
};

}  // namespace vfio::soft::iommufd
