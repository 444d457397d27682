// What the virtio specification 1.2 lays out: registers, rings, the network device's header. Numbers are
// little-endian, like the machine's own.
#pragma once

#include <cstdint>

namespace vfio::soft::devices::virtio {

// The layout of the BAR is this device's own choice; the capabilities tell the driver.
enum Layout : uint32_t {
  commonAt = 0x0000,
  commonSize = 0x3c,
  isrAt = 0x1000,
  isrSize = 1,
  specificAt = 0x2000,  // the configuration of the type of device
  notifyAt = 0x3000,
  notifyMultiplier = 4,
  vectorTable = 0x4000,  // the port answers from here on
  pendingTable = 0x5000,
  barSize = 0x8000,
};

enum class Structure : uint8_t { common = 1, notify = 2, isr = 3, specific = 4, configAccess = 5 };

enum CommonRegister : uint64_t {
  deviceFeatureSelect = 0x00,
  deviceFeature = 0x04,
  driverFeatureSelect = 0x08,
  driverFeature = 0x0c,
  configVector = 0x10,
  queueCount = 0x12,
  deviceStatus = 0x14,
  configGeneration = 0x15,
  queueSelect = 0x16,
  queueSize = 0x18,
  queueVector = 0x1a,
  queueEnable = 0x1c,
  queueNotifyOffset = 0x1e,
  queueDescriptors = 0x20,  // 64 bits
  queueDriver = 0x28,       // 64 bits
  queueDevice = 0x30,       // 64 bits
  queueNotifyData = 0x38,
};

enum Status : uint8_t {
  statusAcknowledge = 1,
  statusDriver = 2,
  statusDriverOk = 4,
  statusFeaturesOk = 8,
  statusNeedsReset = 64,
  statusFailed = 128,
};

enum IsrBit : uint8_t { isrQueue = 1, isrConfig = 2 };

inline constexpr uint16_t noVector = 0xffff;
inline constexpr uint16_t queueSizeMost = 256;

// Feature bits of every device.
inline constexpr uint64_t featureIndirect = uint64_t{1} << 28;
inline constexpr uint64_t featureVersion1 = uint64_t{1} << 32;
inline constexpr uint64_t featureAccessPlatform = uint64_t{1} << 33;

// --- split virtqueues

struct Descriptor {
  uint64_t address;
  uint32_t length;
  uint16_t flags;
  uint16_t next;
};
static_assert(sizeof(Descriptor) == 16);

enum DescriptorFlag : uint16_t { hasNext = 1, isWritable = 2, isIndirect = 4 };

// The ring of the driver, and behind its flags and its index the entries: heads of chains.
inline constexpr uint64_t ringIndex = 2;
inline constexpr uint64_t ringEntries = 4;
inline constexpr uint16_t noInterrupt = 1;  // a flag of the driver

struct UsedEntry {
  uint32_t head;
  uint32_t length;
};

// --- the network device

inline constexpr uint64_t featureMac = uint64_t{1} << 5;
inline constexpr uint64_t featureMergeable = uint64_t{1} << 15;
inline constexpr uint64_t featureStatus = uint64_t{1} << 16;

// Precedes each frame in memory.
struct FrameHeader {
  uint8_t flags;
  uint8_t segmentation;
  uint16_t headerLength, segmentSize;
  uint16_t checksumStart, checksumOffset;
  uint16_t buffers;
};
static_assert(sizeof(FrameHeader) == 12);

struct NetConfig {
  uint8_t mac[6];
  uint16_t status;
};
inline constexpr uint16_t linkUp = 1;

}  // namespace vfio::soft::devices::virtio
