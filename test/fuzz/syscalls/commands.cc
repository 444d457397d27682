#include "commands.h"

#include "../../../native/soft/selftest/test_command.h"
#include "../../../native/uapi/iommufd.h"
#include "../../../native/uapi/vfio.h"

namespace vfio::soft::fuzz {
namespace {

using namespace uapi;
using enum Family;

constexpr Command kCommands[] = {
    {iommufd, IOMMU_DESTROY, "si"},
    {iommufd, IOMMU_IOAS_ALLOC, "sfo"},
    {iommufd, IOMMU_IOAS_ALLOW_IOVAS, "sin0P"},
    {iommufd, IOMMU_IOAS_COPY, "sfiiLVV"},
    {iommufd, IOMMU_IOAS_IOVA_RANGES, "sin0PX"},
    {iommufd, IOMMU_IOAS_MAP, "sfi0PLV"},
    {iommufd, IOMMU_IOAS_UNMAP, "siVL"},
    {iommufd, IOMMU_OPTION, "snhhiX"},
    {iommufd, IOMMU_VFIO_IOAS, "sihh"},
    {iommufd, IOMMU_HWPT_ALLOC, "sfiio0nnPi0"},
    {iommufd, IOMMU_GET_HW_INFO, "sfinPnnX"},
    {iommufd, IOMMU_HWPT_SET_DIRTY_TRACKING, "sfi0"},
    {iommufd, IOMMU_HWPT_GET_DIRTY_BITMAP, "sif0VLLP"},
    {iommufd, IOMMU_HWPT_INVALIDATE, "siPnnn0"},
    {iommufd, IOMMU_FAULT_QUEUE_ALLOC, "sfo>"},
    {iommufd, IOMMU_IOAS_MAP_FILE, "sfidLLV"},
    {iommufd, IOMMU_VIOMMU_ALLOC, "sfniion0P"},
    {iommufd, IOMMU_VDEVICE_ALLOC, "siioX"},
    {iommufd, IOMMU_IOAS_CHANGE_PROCESS, "s0"},
    {iommufd, IOMMU_VEVENTQ_ALLOC, "sfinno>0"},
    {iommufd, IOMMU_HW_QUEUE_ALLOC, "sfinnoVL"},
    {iommufd, IOMMU_IOAS_NOIOMMU_GET_PA, "sfi0VLX"},

    {iommufd, selftest::kRequest, "sci0VLXXXX", selftest::kAddReserved},
    {iommufd, selftest::kRequest, "sci0ooofXXXX", selftest::kMockDevice},
    {iommufd, selftest::kRequest, "sci0ooofXXXX", selftest::kMockDeviceFlags},
    {iommufd, selftest::kRequest, "sci0iiXXXXXX", selftest::kReplaceMockDevice},
    {iommufd, selftest::kRequest, "sci0VLPXXX", selftest::kCheckMap},
    {iommufd, selftest::kRequest, "sci0LPnnXXXX", selftest::kCheckRefs},
    {iommufd, selftest::kRequest, "sci0>fXXXXXX", selftest::kCreateAccess},
    {any, selftest::kRequest, "sci0>fXXXXXX", selftest::kCreateAccess},
    {iommufd, selftest::kRequest, "sci0inXXXXXX", selftest::kDestroyAccessPages},
    {iommufd, selftest::kRequest, "sci0foVLPXXX", selftest::kAccessPages},
    {iommufd, selftest::kRequest, "sci0VLPfnXXX", selftest::kAccessRw},
    {iommufd, selftest::kRequest, "sci0nnXXXXXX", selftest::kSetMemoryLimit},
    {iommufd, selftest::kRequest, "sci0iiXXXXXX", selftest::kReplaceAccess},
    {iommufd, selftest::kRequest, "sci0f0VLLPXX", selftest::kDirty},
    {iommufd, selftest::kRequest, "sci0nnXXXXXX", selftest::kCheckIotlb},
    {iommufd, selftest::kRequest, "sci0innnVXXX", selftest::kTriggerIopf},

    {device, VFIO_DEVICE_BIND_IOMMUFD, "sfdoP"},
    {device, VFIO_DEVICE_ATTACH_IOMMUFD_PT, "sfin"},
    {device, VFIO_DEVICE_DETACH_IOMMUFD_PT, "sfn"},
    {device, VFIO_DEVICE_GET_INFO, "sfnnnn"},
    {device, VFIO_DEVICE_GET_REGION_INFO, "sfnnXX"},
    {device, VFIO_DEVICE_GET_IRQ_INFO, "sfnn"},
    {device, VFIO_DEVICE_SET_IRQS, "sfnnndddd"},
    {device, VFIO_DEVICE_SET_IRQS, "sfnnn"},
    {device, VFIO_DEVICE_RESET, ""},
    {device, VFIO_DEVICE_GET_PCI_HOT_RESET_INFO, "sfnXXXX"},
    {device, VFIO_DEVICE_PCI_HOT_RESET, "sfndd"},
    {device, VFIO_DEVICE_QUERY_GFX_PLANE, "sfnnXnnnnnnnnn0"},
    {device, VFIO_DEVICE_GET_GFX_DMABUF, "n"},
    {device, VFIO_DEVICE_IOEVENTFD, "sfXXd0"},
    {device, VFIO_DEVICE_FEATURE, "sgXX"},
    {device, VFIO_DEVICE_FEATURE, "sgd0"},
    {device, VFIO_DEVICE_FEATURE, "sgLn0P"},
    {device, VFIO_DEVICE_FEATURE, "sgVLLP"},
    {device, VFIO_DEVICE_FEATURE, "sgnnnnXX"},
    {any, VFIO_MIG_GET_PRECOPY_INFO, "sfXX"},

    {group, VFIO_GROUP_GET_STATUS, "sf"},
    {group, VFIO_GROUP_SET_CONTAINER, "d"},
    {group, VFIO_GROUP_UNSET_CONTAINER, ""},
    {group, VFIO_GROUP_GET_DEVICE_FD, "", 0, Argument::name},

    // Commands of containers, which an iommufd accepts too.
    {container, VFIO_GET_API_VERSION, ""},
    {container, VFIO_CHECK_EXTENSION, "", 0, Argument::value},
    {container, VFIO_SET_IOMMU, "", 0, Argument::value},
    {container, VFIO_IOMMU_GET_INFO, "sfXnnXXXXXX"},
    {container, VFIO_IOMMU_MAP_DMA, "sfPVL"},
    {container, VFIO_IOMMU_UNMAP_DMA, "sfVLLLP"},
    {container, VFIO_IOMMU_DIRTY_PAGES, "sfVLLLP"},
};

}  // namespace

std::span<const Command> commands() { return kCommands; }

}  // namespace vfio::soft::fuzz
