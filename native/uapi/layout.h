// What every file of this folder needs: the form of a request number, and the check of a struct's layout.
//
// The folder restates the binary interface of iommufd and VFIO through Linux 7.3, with the kernel's own
// names. It has no logic. Which kernel brought a struct stands in its comment; "~" marks a release nobody
// re-checked. A struct that grew has its first accepted size beside it as `<struct>_min`; where there is no
// such constant, the smallest size the kernel takes is sizeof. Flexible arrays are left out: their elements
// begin at sizeof. test/uapi compares all of it with the kernel's headers.
#pragma once

#include <cstddef>
#include <cstdint>

namespace vfio::uapi {

// Both interfaces use one type byte and put neither direction nor size into the number.
constexpr uint32_t request(uint32_t nr) { return uint32_t{';'} << 8 | nr; }

}  // namespace vfio::uapi

// VFIO_UAPI_LAYOUT(struct, size, field, offset, field, offset ...) fails to compile unless all of them hold.
// The macros re-scan their own output so that one line takes any number of fields (64 here).
#define VFIO_UAPI_LAYOUT(type, bytes, ...) \
  static_assert(sizeof(type) == (bytes));  \
  VFIO_UAPI_SCAN(VFIO_UAPI_AT(type, __VA_ARGS__))
#define VFIO_UAPI_AT(type, field, offset, ...)      \
  static_assert(offsetof(type, field) == (offset)); \
  __VA_OPT__(VFIO_UAPI_AGAIN VFIO_UAPI_PARENTHESES(type, __VA_ARGS__))
#define VFIO_UAPI_AGAIN() VFIO_UAPI_AT
#define VFIO_UAPI_PARENTHESES ()
#define VFIO_UAPI_SCAN(...) VFIO_UAPI_SCAN3(VFIO_UAPI_SCAN3(VFIO_UAPI_SCAN3(VFIO_UAPI_SCAN3(__VA_ARGS__))))
#define VFIO_UAPI_SCAN3(...) VFIO_UAPI_SCAN2(VFIO_UAPI_SCAN2(VFIO_UAPI_SCAN2(VFIO_UAPI_SCAN2(__VA_ARGS__))))
#define VFIO_UAPI_SCAN2(...) VFIO_UAPI_SCAN1(VFIO_UAPI_SCAN1(VFIO_UAPI_SCAN1(VFIO_UAPI_SCAN1(__VA_ARGS__))))
#define VFIO_UAPI_SCAN1(...) __VA_ARGS__
