// The requests that the ledger itself makes: they end mappings and objects, or query them. Each returns 0 or
// -errno.
#pragma once

#include <cstdint>

#include "open_file.h"

namespace vfio::ledger {

// `bytes`: how many bytes were unmapped. Start 0 with length 2^64-1 means everything.
[[nodiscard]] int unmapIoas(const OpenFile& file, uint32_t ioas, uint64_t start, uint64_t length,
                            uint64_t& bytes);
[[nodiscard]] int unmapContainer(const OpenFile& file, uint64_t start, uint64_t length, uint64_t& bytes);
[[nodiscard]] int destroyObject(const OpenFile& file, uint32_t id);
// The compatibility IOAS of an iommufd. -ENODEV: it has none.
[[nodiscard]] int compatIoas(const OpenFile& file, uint32_t& id);
// Are huge pages allowed in it? If not, a container's requests can split mappings.
[[nodiscard]] bool hugePages(const OpenFile& file, uint32_t ioas);
// 0: the container has an IOMMU. -EINVAL: it has none, so nothing is mapped in it.
[[nodiscard]] int containerIommu(const OpenFile& file);

}  // namespace vfio::ledger
