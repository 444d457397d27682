// The ioctls that a sequence can make, each with the fields of its argument, so that most calls are nearly
// valid.
//
// A field is a letter. 32 bits: s the size of the struct, f flags, i an object's id, o an id that is
// returned, > a descriptor that is returned, d a descriptor, n a small number, 0 zero, c the command's own
// constant, g feature flags. 64 bits: P an address, V an IOVA, L a length, X anything. 16 bits: h a small
// number.
#pragma once

#include <cstdint>
#include <span>

namespace vfio::soft::fuzz {

// The kind of descriptor that accepts the command.
enum class Family : uint8_t { iommufd, device, group, container, any };
// The third argument of the call: a struct of fields, a number, or a name.
enum class Argument : uint8_t { fields, value, name };

struct Command {
  Family family;
  uint32_t request;
  const char* fields;
  uint32_t constant = 0;
  Argument argument = Argument::fields;
};

[[nodiscard]] std::span<const Command> commands();

}  // namespace vfio::soft::fuzz
