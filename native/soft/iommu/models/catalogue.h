// The models of IOMMUs that a machine's description can name. To add one, add a file to this folder and a
// line here; for programs in TypeScript, add its name to IommuModel in lib/host/software/topology.ts.
//
// Life: each model is made at its first use and lives until the process ends.
#pragma once

#include <string_view>
#include <vector>

#include "../guest_format.h"
#include "../model.h"

// In the order in which they are listed to users.
#define VFIO_SOFT_IOMMU_MODELS(MODEL) \
  MODEL(vtd)                          \
  MODEL(smmuv3)                       \
  MODEL(amd)                          \
  MODEL(ppc)                          \
  MODEL(virtio)                       \
  MODEL(custom)

namespace vfio::soft::iommu::models {

#define VFIO_SOFT_IOMMU_MODEL(name) [[nodiscard]] const Model& name();
VFIO_SOFT_IOMMU_MODELS(VFIO_SOFT_IOMMU_MODEL)
#undef VFIO_SOFT_IOMMU_MODEL

[[nodiscard]] std::vector<const Model*> all();
[[nodiscard]] std::vector<std::string_view> names();
// Null: there is none of that name.
[[nodiscard]] const Model* find(std::string_view name);

// The formats of guests' tables that these models have.
[[nodiscard]] std::vector<std::string_view> formatNames();
[[nodiscard]] const GuestFormat* findFormat(std::string_view name);

}  // namespace vfio::soft::iommu::models
