// A unit whose values the machine's description gives. It reads guests' tables of any format, in the way of
// that format's driver.
#include "catalogue.h"
#include "values.h"

namespace vfio::soft::iommu::models {
namespace {

class Custom final : public Model {
 public:
  Custom()
      : Model("custom", {.unitName = "iommu",
                         .apertures = {kEverything},
                         .pageSizes = 4 * kKiB,
                         .enforcesCoherency = true,
                         .isolatesInterrupts = true}) {}

  [[nodiscard]] bool accepts(const GuestFormat&) const override { return true; }
  [[nodiscard]] bool sharesTables() const override { return true; }
};

}  // namespace

const Model& custom() {
  static const Custom kModel;
  return kModel;
}

}  // namespace vfio::soft::iommu::models
