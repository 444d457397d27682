// The records that are read from the files of queues and bonds.
#pragma once

#include <napi.h>

#include <cstdint>
#include <vector>

#include "../ledger/open_file.h"

namespace vfio::binding {

// Reads the whole records that are available now; empty: there are none. `unit`: the size of one.
std::vector<uint8_t> readAll(Napi::Env env, ledger::OpenFile& file, size_t unit);

// The access of a page request: { read, write, execute, privileged }. `permissions`: IOMMU_PGFAULT_PERM_*
Napi::Object accessOf(Napi::Env env, uint32_t permissions);

}  // namespace vfio::binding
