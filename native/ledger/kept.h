// Memory that stays allocated because the process cannot know whether a device can still reach it.
//
// Life: memory that is still kept when its address space loses its last owner is kept until the process ends.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "pieces.h"

namespace vfio::ledger {

struct Kept {
  uint64_t bytes;
  std::string reason;
};

// Keeps the memory of these pieces until the process ends.
void keep(Pieces::Map pieces, const char* reason);

// All memory that this process keeps, by reason: the memory kept for good and the memory kept in address
// spaces that still exist.
[[nodiscard]] std::vector<Kept> kept();

}  // namespace vfio::ledger
