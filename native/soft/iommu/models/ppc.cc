// PPC's TCE tables, with the two windows of a pSeries partition. Its driver makes tables of one kind only.
#include "catalogue.h"
#include "values.h"

namespace vfio::soft::iommu::models {
namespace {

class Ppc final : public Model {
 public:
  Ppc()
      : Model("ppc", {.unitName = "tce",
                      .apertures = {{0, 2 * kGiB - 1},
                                    {uint64_t{1} << 59, (uint64_t{1} << 59) + (uint64_t{1} << 44) - 1}},
                      .pageSizes = 4 * kKiB | 64 * kKiB | 2 * kMiB | 16 * kMiB,
                      .isolatesInterrupts = true}) {}

  [[nodiscard]] bool takesFlags() const override { return false; }
  [[nodiscard]] bool attachesPasids() const override { return false; }
};

}  // namespace

const Model& ppc() {
  static const Ppc kModel;
  return kModel;
}

}  // namespace vfio::soft::iommu::models
