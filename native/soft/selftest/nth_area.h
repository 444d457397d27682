// The kernel's test kernels take an IOVA also as an area's ordinal number and an offset, under a flag, so
// that a fuzzer that can't guess addresses still meets areas.
#pragma once

#include <cstdint>

namespace vfio::soft::iommufd {
class Context;
class Ioas;
}  // namespace vfio::soft::iommufd

namespace vfio::soft::selftest {

// The IOVA that is meant; 0: there is no such area.
[[nodiscard]] uint64_t nthAreaIova(const iommufd::Ioas* ioas, uint64_t packed);
// For IOAS_COPY: takes the flag away and replaces the IOVA (TestHooks::convertIova).
void convertIova(const iommufd::Context& context, uint32_t ioasId, uint64_t& iova, uint32_t& flags);

}  // namespace vfio::soft::selftest
