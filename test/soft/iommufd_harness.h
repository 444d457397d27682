// Shared code of the checks of the software iommufd: short forms of the requests, for objects that a check
// adds to the default machine.
#pragma once

#include <sys/mman.h>

#include <cerrno>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <memory>
#include <string>
#include <vector>

#include "../../native/soft/core/span_tree.h"
#include "../../native/soft/host/host.h"
#include "../../native/soft/iommu/domain.h"
#include "../../native/soft/iommu/endpoint.h"
#include "../../native/soft/iommu/models/catalogue.h"
#include "../../native/soft/iommufd/iommufd.h"
#include "../../native/soft/mm/memory.h"
#include "../../native/soft/selftest/hooks.h"
#include "../../native/uapi/iommufd.h"
#include "../../native/uapi/iommufd_data.h"
#include "../../native/uapi/vfio_container.h"

namespace vfio::soft::check {

inline int failures = 0;

inline void claim(const std::string& text, bool holds) {
  std::printf("%s %s\n", holds ? "ok  " : "FAIL", text.c_str());
  if (!holds) ++failures;
}
inline void claim(const std::string& text, int64_t expected, int64_t actual) {
  claim(text, expected == actual);
  if (expected != actual) {
    std::printf("     expected %lld, got %lld\n", static_cast<long long>(expected),
                static_cast<long long>(actual));
  }
}

inline void claim(const std::string& text, const std::string& expected, const std::string& actual) {
  claim(text, expected == actual);
  if (expected != actual) std::printf("     expected %s, got %s\n", expected.c_str(), actual.c_str());
}

constexpr uint64_t kPage = 4096;
constexpr uint32_t kRead = uapi::IOMMU_IOAS_MAP_READABLE;
constexpr uint32_t kWrite = uapi::IOMMU_IOAS_MAP_WRITEABLE;
constexpr uint32_t kFixed = uapi::IOMMU_IOAS_MAP_FIXED_IOVA;
constexpr uint32_t kBoth = kRead | kWrite;

// A unit like that of the guest, whose answers the checks compare with.
inline iommu::Unit vtd() { return iommu::makeUnit({.model = &iommu::models::vtd()}); }

// Anonymous memory, which is unmapped with this object.
class Buffer {
 public:
  explicit Buffer(size_t size, int protection = PROT_READ | PROT_WRITE) : size_(size) {
    address_ = mmap(nullptr, size, protection, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  }
  ~Buffer() {
    if (owned_) munmap(address_, size_);
  }
  Buffer(const Buffer&) = delete;
  Buffer& operator=(const Buffer&) = delete;
  [[nodiscard]] uint64_t user() const { return reinterpret_cast<uint64_t>(address_); }
  [[nodiscard]] char* bytes() const { return static_cast<char*>(address_); }
  [[nodiscard]] size_t size() const { return size_; }
  void forget() { owned_ = false; }

 private:
  void* address_;
  size_t size_;
  bool owned_ = true;
};

// One open /dev/iommu.
class Fd {
 public:
  explicit Fd(Host& host)
      : file(iommufd::openIommufd(host, host.options().selftest ? &selftest::hooks() : nullptr)) {}
  std::shared_ptr<File> file;

  template <class Struct>
  int call(uint32_t request, Struct& arguments) {
    return file->ioctl(request, reinterpret_cast<uint64_t>(&arguments));
  }
  uint32_t ioas() {
    uapi::iommu_ioas_alloc alloc = {sizeof(alloc), 0, 0};
    return call(uapi::IOMMU_IOAS_ALLOC, alloc) == 0 ? alloc.out_ioas_id : 0;
  }
  int destroy(uint32_t id) {
    uapi::iommu_destroy destroy = {sizeof(destroy), id};
    return call(uapi::IOMMU_DESTROY, destroy);
  }
  int map(uint32_t ioas, uint32_t flags, uint64_t user, uint64_t length, uint64_t& iova) {
    uapi::iommu_ioas_map map = {sizeof(map), flags, ioas, 0, user, length, iova};
    const int result = call(uapi::IOMMU_IOAS_MAP, map);
    iova = map.iova;
    return result;
  }
  int mapAt(uint32_t ioas, uint64_t iova, uint64_t user, uint64_t length, uint32_t flags = kBoth) {
    return map(ioas, flags | kFixed, user, length, iova);
  }
  int copy(uint32_t from, uint64_t source, uint32_t to, uint64_t length, uint64_t& iova,
           uint32_t flags = kBoth) {
    uapi::iommu_ioas_copy copy = {sizeof(copy), flags, to, from, length, iova, source};
    const int result = call(uapi::IOMMU_IOAS_COPY, copy);
    iova = copy.dst_iova;
    return result;
  }
  int unmap(uint32_t ioas, uint64_t iova, uint64_t length, uint64_t* unmapped = nullptr) {
    uapi::iommu_ioas_unmap unmap = {sizeof(unmap), ioas, iova, length};
    const int result = call(uapi::IOMMU_IOAS_UNMAP, unmap);
    if (unmapped != nullptr) *unmapped = unmap.length;
    return result;
  }
  struct Ranges {
    int result;
    uint32_t count;
    uint64_t alignment;
    std::vector<uapi::iommu_iova_range> list;
  };
  Ranges ranges(uint32_t ioas, uint32_t slots = 16) {
    Ranges out = {0, 0, 0, std::vector<uapi::iommu_iova_range>(slots)};
    uapi::iommu_ioas_iova_ranges ranges = {
        sizeof(ranges), ioas, slots, 0, reinterpret_cast<uint64_t>(out.list.data()), 0};
    out.result = call(uapi::IOMMU_IOAS_IOVA_RANGES, ranges);
    out.count = ranges.num_iovas;
    out.alignment = ranges.out_iova_alignment;
    return out;
  }
  int allow(uint32_t ioas, std::vector<uapi::iommu_iova_range> list) {
    uapi::iommu_ioas_allow_iovas allow = {sizeof(allow), ioas, static_cast<uint32_t>(list.size()), 0,
                                          reinterpret_cast<uint64_t>(list.data())};
    return call(uapi::IOMMU_IOAS_ALLOW_IOVAS, allow);
  }
  int hwpt(uint32_t device, uint32_t pt, uint32_t& id, uint32_t flags = 0) {
    uapi::iommu_hwpt_alloc alloc = {};
    alloc.size = sizeof(alloc);
    alloc.flags = flags;
    alloc.dev_id = device;
    alloc.pt_id = pt;
    const int result = call(uapi::IOMMU_HWPT_ALLOC, alloc);
    id = alloc.out_hwpt_id;
    return result;
  }
  int option(uint32_t id, uint16_t op, uint32_t object, uint64_t& value) {
    uapi::iommu_option option = {sizeof(option), id, op, 0, object, value};
    const int result = call(uapi::IOMMU_OPTION, option);
    value = option.val64;
    return result;
  }
  int vfioIoas(uint16_t op, uint32_t& id) {
    uapi::iommu_vfio_ioas vfio = {sizeof(vfio), id, op, 0};
    const int result = call(uapi::IOMMU_VFIO_IOAS, vfio);
    id = vfio.ioas_id;
    return result;
  }
};

// As VFIO does: attaches a device, or replaces what it is attached to.
inline int place(iommufd::BoundDevice& device, uint32_t& pt, uint32_t pasid = 0) {
  const int result = device.attach(pt, pasid);
  return result == -EBUSY ? device.replace(pt, pasid) : result;
}

}  // namespace vfio::soft::check
