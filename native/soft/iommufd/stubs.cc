// Commands whose code has not landed yet. Each is refused as a kernel refuses what its hardware can't do. Who
// brings a command takes its line out; the file goes with the last one.
#include <cerrno>

#include "command.h"

namespace vfio::soft::iommufd {

// viommu.cc
int viommuAlloc(Command&) { return -EOPNOTSUPP; }
// vdevice.cc
int vdeviceAlloc(Command&) { return -EOPNOTSUPP; }
// vevent_queue.cc
int veventqAlloc(Command&) { return -EOPNOTSUPP; }
// hw_queue.cc
int hwQueueAlloc(Command&) { return -EOPNOTSUPP; }

}  // namespace vfio::soft::iommufd
