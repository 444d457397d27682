// virtio-iommu: QEMU's, as Linux 6.12 finds it in the guest. Its driver makes tables of one kind only. It is
// the only driver that makes entries without any access right.
#include "catalogue.h"
#include "values.h"

namespace vfio::soft::iommu::models {
namespace {

class Virtio final : public Model {
 public:
  Virtio()
      : Model("virtio", {.unitName = "virtio",
                         .apertures = {kEverything},
                         .reserved = {kX86Messages},
                         .pageSizes = ~(4 * kKiB - 1)}) {}

  [[nodiscard]] LeafRules leaves(const Services&) const override { return {.noAccess = true}; }
  [[nodiscard]] bool takesFlags() const override { return false; }
  [[nodiscard]] bool attachesPasids() const override { return false; }
};

}  // namespace

const Model& virtio() {
  static const Virtio kModel;
  return kModel;
}

}  // namespace vfio::soft::iommu::models
