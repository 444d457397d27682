// A kernel that is built for testing takes, under a flag, the ordinal number of a mapped area and an offset
// in it instead of an IOVA, so that a fuzzer that can't guess addresses still finds areas.
#pragma once

#include <cstdint>

namespace vfio::soft::iommufd {
class Context;
class Ioas;
}  // namespace vfio::soft::iommufd

namespace vfio::soft::selftest {

// The IOVA that these two numbers mean; 0: there is no such area.
[[nodiscard]] uint64_t nthAreaIova(const iommufd::Ioas* ioas, uint64_t packed);
// For IOAS_COPY: clears the flag and replaces the IOVA (TestHooks::convertIova).
void convertIova(const iommufd::Context& context, uint32_t ioasId, uint64_t& iova, uint32_t& flags);

}  // namespace vfio::soft::selftest
