// The kinds of units: the properties of each, those that a description can change, and those that are
// refused.
#include <algorithm>
#include <functional>
#include <stdexcept>

#include "iommufd_harness.h"

namespace vfio::soft::check {
namespace {

using iommu::makeUnit;
using iommu::UnitDescription;
namespace models = iommu::models;

// The IOVAs that an address space may use with one device behind such a unit, as IOVA_RANGES returns them.
std::vector<uapi::iommu_iova_range> usable(Host& host, const UnitDescription& model) {
  iommu::Unit unit = makeUnit(model);
  iommu::Group group = {.id = 0, .members = {}};
  iommu::Endpoint endpoint(host, "0000:00:10.0", 0x80, unit, group);
  Fd fd(host);
  std::unique_ptr<iommufd::BoundDevice> device;
  if (iommufd::bind(fd.file, endpoint, device) != 0) return {};
  const uint32_t ioas = fd.ioas();
  uint32_t pt = ioas;
  if (device->attach(pt) != 0) return {};
  auto ranges = fd.ranges(ioas);
  ranges.list.resize(ranges.count);
  return ranges.list;
}

void claimRanges(const std::string& text, const std::vector<uapi::iommu_iova_range>& expected,
                 const std::vector<uapi::iommu_iova_range>& actual) {
  bool same = expected.size() == actual.size();
  for (size_t at = 0; same && at < expected.size(); ++at) {
    same = expected[at].start == actual[at].start && expected[at].last == actual[at].last;
  }
  claim(text, same);
  for (size_t at = 0; !same && at < actual.size(); ++at) {
    std::printf("     got %#llx-%#llx\n", static_cast<unsigned long long>(actual[at].start),
                static_cast<unsigned long long>(actual[at].last));
  }
}

// Each model's apertures and reserved regions (requirement D2). The first three are the answers of Linux 6.12
// in the guest, for its edu device.
void apertures(Host& host) {
  claimRanges("D2: VT-d", {{0, 0xfedfffff}, {0xfef00000, 0xffffffffffff}},
              usable(host, {.model = &models::vtd()}));
  claimRanges("D2: AMD", {{0, 0xfedfffff}, {0xfef00000, 0xfcffffffff}, {0x10000000000, 0xffffffffffffffff}},
              usable(host, {.model = &models::amd()}));
  claimRanges("D6: virtio-iommu, with its interrupts taken for safe",
              {{0, 0xfedfffff}, {0xfef00000, 0xffffffffffffffff}},
              usable(host, {.model = &models::virtio(), .isolatesInterrupts = true}));
  claimRanges("D2: Arm has its message window", {{0, 0x7ffffff}, {0x8100000, 0xffffffffffff}},
              usable(host, {.model = &models::smmuv3()}));
  claimRanges("D2: PPC has two windows",
              {{0, 0x7fffffff}, {0x800000000000000, 0x800000000000000 + (uint64_t{1} << 44) - 1}},
              usable(host, {.model = &models::ppc()}));
  UnitDescription custom = {.model = &models::custom()};
  custom.apertures = {{{0x100000000, 0x1ffffffff}, {0x1000, 0xffff}, {0x10000, 0x1ffff}}};
  custom.reserved = {{{{0x4000, 0x4fff}, iommu::ReservedKind::direct}}};
  claimRanges("D2: windows of a custom unit, in any order, some of them touching",
              {{0x1000, 0x3fff}, {0x5000, 0x1ffff}, {0x100000000, 0x1ffffffff}}, usable(host, custom));
  claim("a unit without interrupt isolation takes no device (EPERM)",
        usable(host, {.model = &models::virtio()}).empty());
}

// A mapping on each side of the hole between the windows, and DMA to both.
void twoWindows(Host& host) {
  iommu::Unit unit = makeUnit({.model = &models::ppc()});
  iommu::Group group = {.id = 0, .members = {}};
  iommu::Endpoint endpoint(host, "0000:00:10.0", 0x80, unit, group);
  Fd fd(host);
  std::unique_ptr<iommufd::BoundDevice> device;
  claim("bind", 0, iommufd::bind(fd.file, endpoint, device));
  const uint32_t ioas = fd.ioas();
  uint32_t pt = ioas;
  claim("attach", 0, device->attach(pt));
  Buffer memory(2 * kPage);
  constexpr uint64_t kHigh = 0x800000000000000;
  claim("D2: a map in the low window", 0, fd.mapAt(ioas, 0x7ffff000, memory.user(), kPage));
  claim("D2: a map in the high window", 0, fd.mapAt(ioas, kHigh, memory.user() + kPage, kPage));
  claim("D2: one in the hole is EINVAL", -EINVAL, fd.mapAt(ioas, 0x80000000, memory.user(), kPage));
  claim("D2: one across its edge too", -EINVAL, fd.mapAt(ioas, kHigh - kPage, memory.user(), 2 * kPage));
  claim("D2: DMA to the low window", endpoint.dma.write(0x7ffff000, "low", 4));
  claim("D2: DMA to the high window", endpoint.dma.write(kHigh, "high", 5));
  claim("... arrived",
        std::strcmp(memory.bytes(), "low") == 0 && std::strcmp(memory.bytes() + kPage, "high") == 0);
  claim("DMA to the hole is a fault", !endpoint.dma.write(0x80000000, "hole", 5));
}

std::string refusal(const UnitDescription& model) {
  try {
    (void)makeUnit(model);
  } catch (const std::invalid_argument& error) {
    return error.what();
  }
  return "nothing";
}

void claimRefusal(const std::string& expected, const UnitDescription& model) {
  const std::string actual = refusal(model);
  claim(expected, actual == expected);
  if (actual != expected) std::printf("     got %s\n", actual.c_str());
}

void refusals() {
  claimRefusal("Expected at least one range for apertures but received none",
               {.model = &models::custom(), .apertures = std::vector<iommu::Range>{}});
  claimRefusal("Expected a start that is not above its last for apertures but received 0x2-0x1",
               {.model = &models::custom(), .apertures = {{{2, 1}}}});
  claimRefusal("Expected ranges that do not overlap for apertures but received 0x0-0x1000 and 0x1000-0x2000",
               {.model = &models::custom(), .apertures = {{{0x1000, 0x2000}, {0, 0x1000}}}});
  claimRefusal("Expected sizes from 256 for pageSizes but received none",
               {.model = &models::vtd(), .pageSizes = 0});
  claimRefusal("Expected sizes from 256 for pageSizes but received 128",
               {.model = &models::vtd(), .pageSizes = 4096 | 128});
  claimRefusal("Expected 0 to 20 for pasidBits but received 21", {.model = &models::amd(), .pasidBits = 21});
  claimRefusal("Expected a start that is not above its last for reserved but received 0x10-0xf",
               {.model = &models::vtd(), .reserved = {{{{16, 15}, iommu::ReservedKind::msi}}}});
  claimRefusal("Expected a format that a unit of kind vtd has for nesting but received arm-smmuv3",
               {.model = &models::vtd(), .nesting = {{models::smmuv3().format()}}});
  claimRefusal("Expected a format that a unit of kind virtio has for nesting but received vtd-s1",
               {.model = &models::virtio(), .nesting = {{models::vtd().format()}}});
  claimRefusal(
      "Expected one format for nesting but received 2",
      {.model = &models::custom(), .nesting = {{models::vtd().format(), models::smmuv3().format()}}});
}

void names() {
  const char* const kNames[] = {"vtd", "smmuv3", "amd", "ppc", "virtio", "custom"};
  const auto listed = models::names();
  claim("the kinds, in this order", std::ranges::equal(kNames, listed));
  for (const char* name : kNames) {
    const iommu::Model* const model = models::find(name);
    claim(std::string("a unit of kind ") + name,
          model != nullptr && model->name == name &&
              makeUnit({.model = model, .index = 3}).name.ends_with('3'));
  }
  claim("no kind of another name", models::find("VTD") == nullptr && models::find("") == nullptr);
  claim("the formats", models::findFormat("vtd-s1") == models::vtd().format() &&
                           models::findFormat("arm-smmuv3") == models::smmuv3().format() &&
                           models::findFormat("amd-guest") == models::amd().format() &&
                           models::findFormat("vtd") == nullptr);
  claim("a custom unit reads any of them",
        makeUnit({.model = &models::custom(), .nesting = {{models::amd().format()}}}).nesting ==
            models::amd().format());
  claim("SMMUv3 nests unless it is told not to",
        makeUnit({.model = &models::smmuv3()}).nesting != nullptr &&
            makeUnit({.model = &models::smmuv3(), .nesting = std::vector<const iommu::GuestFormat*>{}})
                    .nesting == nullptr);
}

}  // namespace
}  // namespace vfio::soft::check

int main() {
  using namespace vfio::soft::check;
  vfio::soft::Host host(std::make_shared<vfio::soft::mm::Memory>());
  names();
  apertures(host);
  twoWindows(host);
  refusals();
  return failures == 0 ? 0 : 1;
}
