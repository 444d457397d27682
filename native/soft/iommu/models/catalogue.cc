#include "catalogue.h"

namespace vfio::soft::iommu::models {

std::vector<const Model*> all() {
#define VFIO_SOFT_IOMMU_MODEL(name) &name(),
  return {VFIO_SOFT_IOMMU_MODELS(VFIO_SOFT_IOMMU_MODEL)};
#undef VFIO_SOFT_IOMMU_MODEL
}

std::vector<std::string_view> names() {
  std::vector<std::string_view> names;
  for (const Model* model : all()) names.push_back(model->name);
  return names;
}

const Model* find(std::string_view name) {
  for (const Model* model : all()) {
    if (model->name == name) return model;
  }
  return nullptr;
}

std::vector<std::string_view> formatNames() {
  std::vector<std::string_view> names;
  for (const Model* model : all()) {
    if (model->format() != nullptr) names.push_back(model->format()->name);
  }
  return names;
}

const GuestFormat* findFormat(std::string_view name) {
  for (const Model* model : all()) {
    const GuestFormat* const format = model->format();
    if (format != nullptr && format->name == name) return format;
  }
  return nullptr;
}

}  // namespace vfio::soft::iommu::models
