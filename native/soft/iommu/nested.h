// Page tables that a guest wrote, in the format of one kind of unit, on top of a domain that maps the
// guest's physical addresses. They are read at each translation, from the program's memory.
//
// Each format is a class that a GuestFormat makes (guest_format.h). A unit forgets what it has cached of a
// table when the guest's commands say so, and at each change of the parent.
//
// Life: made by HWPT_ALLOC, shared with the endpoints attached to it. It keeps its parent alive, and the
// parent refers to it.
#pragma once

#include <cstdint>
#include <memory>

#include "../core/file.h"
#include "domain.h"
#include "translation.h"

namespace vfio::soft::iommu {

// Driver data of a request: `length` bytes of the format `type` in the caller's memory.
struct UserData {
  uint32_t type;
  UserAddress user;
  uint32_t length;

  // Copies the data if it is of this type and of this size: 0, -EINVAL, -EFAULT.
  [[nodiscard]] int copy(uint32_t expected, void* to, size_t size) const;
};

// The same for an array of entries; `handled` counts the entries that have been handled.
struct UserArray {
  uint32_t type;
  UserAddress user;
  uint32_t entryLength;
  uint32_t entries;
  uint32_t handled = 0;

  [[nodiscard]] int copy(uint32_t expected, uint32_t index, void* to, size_t size) const {
    return UserData{type, user + uint64_t{entryLength} * index, entryLength}.copy(expected, to, size);
  }
};

class NestedTable : public Translation {
 public:
  explicit NestedTable(std::shared_ptr<Domain> itsParent) : parent(std::move(itsParent)) {
    parent->addNested(*this);
  }
  ~NestedTable() override { parent->removeNested(*this); }

  [[nodiscard]] bool nested() const final { return true; }
  // Runs the guest's commands that invalidate what is cached of the table: 0 or -errno; `array.handled` is
  // set in both cases.
  [[nodiscard]] virtual int runCommands(UserArray& array) = 0;

  const std::shared_ptr<Domain> parent;

 protected:
  // Accesses of the table itself, aligned, at an address that the parent translates: false when nothing is
  // mapped there.
  [[nodiscard]] bool load(uint64_t address, uint64_t& word) const;
  [[nodiscard]] bool store(uint64_t address, uint64_t word) const;
};

}  // namespace vfio::soft::iommu
