#include "object.h"

namespace vfio::soft::iommufd {

uint32_t ObjectTable::takeId() {
  if (free_.empty()) {
    if (slots_.size() > INT32_MAX) return 0;
    slots_.emplace_back();
    return static_cast<uint32_t>(slots_.size() - 1);
  }
  const uint32_t id = *free_.begin();
  free_.erase(free_.begin());
  return id;
}

void ObjectTable::erase(uint32_t id) {
  // The id is free before the object's destructor runs, which may remove others.
  const std::unique_ptr<Object> object = std::move(slots_[id]);
  free_.insert(id);
}

Object* ObjectTable::find(uint32_t id) const {
  if (id >= slots_.size()) return nullptr;
  Object* const object = slots_[id].get();
  return object != nullptr && object->published ? object : nullptr;
}

int ObjectTable::removable(uint32_t id) const {
  const Object* const object = find(id);
  if (object == nullptr) return -ENOENT;
  return object->users == 1 ? 0 : -EBUSY;
}

int ObjectTable::remove(uint32_t id) {
  const int error = removable(id);
  if (error == 0) erase(id);
  return error;
}

int ObjectTable::entomb(uint32_t id) {
  const int error = removable(id);
  if (error == 0) slots_[id].reset();  // and the id is not among the free ones
  return error;
}

void ObjectTable::removeAll() {
  for (bool removed = true; removed && !empty();) {
    removed = false;
    for (uint32_t id = 1; id < slots_.size(); ++id) {
      if (slots_[id] == nullptr || slots_[id]->users != 1) continue;
      erase(id);
      removed = true;
    }
  }
}

}  // namespace vfio::soft::iommufd
