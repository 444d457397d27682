// The binary interface of the kernel's test-only iommufd command (0xa0), which its self-test is written
// against: one struct for all operations, and the data of the mock page tables.
//
// Not part of native/uapi: no program that isn't a test of iommufd itself uses it, and a kernel has it only
// when it was built for testing.
#pragma once

#include <cstddef>
#include <cstdint>

namespace vfio::soft::selftest {

enum Operation : uint32_t {
  kAddReserved = 1,         // reserves a range of an IOAS permanently
  kMockDevice = 2,          // makes a mock device, bound and attached
  kCheckMap = 3,            // checks that the page table maps this memory
  kCheckRefs = 4,           // checks how many pins these pages have
  kCreateAccess = 5,        // makes an access, an in-kernel user of an IOAS, with a descriptor
  kDestroyAccessPages = 6,  // unpins pages that an access has pinned
  kAccessPages = 7,         // pins pages by an access
  kAccessRw = 8,            // reads or writes memory by an access
  kSetMemoryLimit = 9,      // limits the memory that the kernel uses at once while it fills page tables
  kReplaceMockDevice = 10,  // attaches a mock device to another page table
  kReplaceAccess = 11,      // attaches an access to another IOAS
  kMockDeviceFlags = 12,    // kMockDevice with flags
  kDirty = 13,              // marks pages of a mock page table as written to
  kCheckIotlb = 14,         // checks the content of the cache of a nested mock page table
  kTriggerIopf = 15,        // a mock device requests a page
};

// Flags of kMockDeviceFlags.
inline constexpr uint32_t kDeviceNoDirty = 1;   // its unit doesn't track dirty pages
inline constexpr uint32_t kDeviceHugeIova = 2;  // its unit has large pages too
// Flags of kCreateAccess, kAccessPages and kAccessRw.
inline constexpr uint32_t kAccessNeedsPinPages = 1;
inline constexpr uint32_t kAccessWrite = 1;
inline constexpr uint32_t kAccessRwWrite = 1;
inline constexpr uint32_t kAccessRwSlowPath = 4;
// A flag of kAccessPages, kAccessRw and IOAS_COPY: the IOVA is the ordinal number of a mapped area (low half)
// and an offset in it (high half).
inline constexpr uint32_t kNthArea = 1U << 16;

struct TestCommand {
  uint32_t size;
  uint32_t op;
  uint32_t id;  // an IOAS, a page table, a mock device or an access, depending on the operation
  uint32_t __reserved;
  union {
    struct {
      uint64_t start;
      uint64_t length;
    } addReserved;
    struct {
      uint32_t outStdevId;
      uint32_t outHwptId;
      uint32_t outIdevId;
      uint32_t flags;  // kMockDeviceFlags only
    } mockDevice;
    struct {
      uint32_t ptId;
    } replaceMockDevice;
    struct {
      uint64_t iova;
      uint64_t length;
      uint64_t user;
    } checkMap;
    struct {
      uint64_t length;
      uint64_t user;
      uint32_t refs;
    } checkRefs;
    struct {
      uint32_t outAccessFd;
      uint32_t flags;
    } createAccess;
    struct {
      uint32_t accessPagesId;
    } destroyAccessPages;
    struct {
      uint32_t flags;
      uint32_t outAccessPagesId;
      uint64_t iova;
      uint64_t length;
      uint64_t user;
    } accessPages;
    struct {
      uint64_t iova;
      uint64_t length;
      uint64_t user;
      uint32_t flags;
    } accessRw;
    struct {
      uint32_t limit;
    } memoryLimit;
    struct {
      uint32_t ioasId;
    } replaceAccess;
    struct {
      uint32_t flags;
      uint64_t iova;
      uint64_t length;
      uint64_t pageSize;
      uint64_t user;
      uint64_t outDirty;
    } dirty;
    struct {
      uint32_t id;
      uint32_t iotlb;
    } checkIotlb;
    struct {
      uint32_t deviceId;
      uint32_t pasid;
      uint32_t groupId;
      uint32_t permission;
      uint64_t address;
    } triggerIopf;
  };
  uint32_t last;
};
static_assert(sizeof(TestCommand) == 72 && offsetof(TestCommand, addReserved) == 16 &&
              offsetof(TestCommand, last) == 64);

inline constexpr uint32_t kRequest = 0x3ba0;  // _IO(';', 0xa0)
inline constexpr uint32_t kMinimum = offsetof(TestCommand, last) + sizeof(TestCommand::last);

// The answer of GET_HW_INFO for a mock device.
inline constexpr uint32_t kHwInfoType = 0xfeedbeef;
inline constexpr uint32_t kHwInfoRegister = 0xdeadbeef;
struct HwInfo {
  uint32_t flags;
  uint32_t testRegister;
};

// The data of HWPT_ALLOC for a nested mock page table. The table has a cache of four words, which are all set
// to this value.
inline constexpr uint32_t kHwptDataType = 0xdead;
inline constexpr uint32_t kIotlbWords = 4;
struct HwptData {
  uint32_t iotlb;
};

// The entries of HWPT_INVALIDATE for it: each sets one word of the cache to zero, or all.
inline constexpr uint32_t kInvalidateDataType = 0xdeadbeef;
inline constexpr uint32_t kInvalidateAll = 1;
struct InvalidateEntry {
  uint32_t flags;
  uint32_t iotlbId;
};

}  // namespace vfio::soft::selftest
