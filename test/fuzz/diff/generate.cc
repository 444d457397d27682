#include "generate.h"

#include "builder.h"
#include "generate_iommufd.h"
#include "generate_vfio.h"

namespace vfio::fuzz {

Case generate(const std::string& kind, uint64_t seed) {
  Builder builder(seed);
  if (kind == "vfio") {
    VfioGenerator(builder).generate();
  } else {
    IommufdGenerator(builder, kind == "mock" && builder.random.percent(85)).generate();
  }
  return {"seed " + std::to_string(seed), kind, 0, std::move(builder.calls), {}};
}

}  // namespace vfio::fuzz
