// Memory that stays since nobody knows whether a device can still reach it.
//
// Life: what is kept when its address space has no owner any more is kept until the process ends.
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

// From now on for good.
void keep(Pieces::Map pieces, const char* reason);

// All that is kept in this process, by reason: for good, and in address spaces that still live.
[[nodiscard]] std::vector<Kept> kept();

}  // namespace vfio::ledger
