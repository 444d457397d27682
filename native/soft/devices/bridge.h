// Functions that consist of a config space only, as far as this host is concerned: the host bridge, PCIe
// ports, bridges to conventional buses. They are in the tree because groups and resets depend on them.
#pragma once

#include <memory>

#include "device.h"

namespace vfio::soft::devices {

// The models of QEMU, as the reference guest has them.
inline constexpr Description hostBridge{.vendor = 0x8086,
                                        .device = 0x29c0,
                                        .subsystemVendor = 0x1af4,
                                        .subsystem = 0x1100,
                                        .classCode = 0x060000};
inline constexpr Description rootPort{.vendor = 0x1b36,
                                      .device = 0x000c,
                                      .subsystemVendor = 0x1b36,
                                      .classCode = 0x060400,
                                      .bars = {{{.kind = BarKind::memory32, .size = 4096}}},
                                      .interruptPin = 1,
                                      .express = true,
                                      .expressType = 4};
// The two sides of a switch.
inline constexpr Description upstreamPort{
    .vendor = 0x104c, .device = 0x8232, .classCode = 0x060400, .express = true, .expressType = 5};
inline constexpr Description downstreamPort{
    .vendor = 0x104c, .device = 0x8233, .classCode = 0x060400, .express = true, .expressType = 6};
// A bridge to a conventional bus.
inline constexpr Description conventionalBridge{.vendor = 0x1b36,
                                                .device = 0x000e,
                                                .classCode = 0x060400,
                                                .bars = {{{.kind = BarKind::memory64, .size = 256}}},
                                                .interruptPin = 1,
                                                .express = true,
                                                .expressType = 7};

// A device with this description, whose BARs read as zero.
[[nodiscard]] std::unique_ptr<Device> makePassive(const Description& description);

}  // namespace vfio::soft::devices
