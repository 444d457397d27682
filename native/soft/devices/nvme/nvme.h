// An NVMe controller, after the NVM Express base specification 1.3: one namespace, in memory or in a
// file, up to 31 pairs of I/O queues, MSI-X with a vector for each queue, or INTx. Its ids are those of
// QEMU's device (1b36:0010).
//
// The folder: `format.h` has what the specification lays out in registers and memory, `controller.h` the
// device, whose parts are in a file each: registers and queues (controller.cc, queues.cc), admin commands
// (admin.cc, identify.cc, features.cc, logs.cc), I/O commands (io.cc). `storage.h` is what it stores,
// `prp.h` where a command's data is.
//
// Commands are done one after the other, each whole, so there are none in flight that an Abort could find,
// but for requests of events. It asks for no missing pages (PRI): a transfer that finds none fails.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>

#include "../device.h"

namespace vfio::soft::devices {

struct NvmeOptions {
  // Bytes of the namespace, a multiple of blockSize. Default: those of the file, or 64 MiB.
  std::optional<uint64_t> size{};
  std::string file{};           // what keeps the data; empty: memory does, as long as the device is there
  uint32_t blockSize = 512;     // 512 or 4096
  uint32_t doorbellStride = 4;  // bytes from one doorbell to the next, a power of two from 4 to 64
};

// Throws std::system_error if the file can't be used, or there is no memory.
[[nodiscard]] std::unique_ptr<Device> makeNvme(const NvmeOptions& options);

}  // namespace vfio::soft::devices
