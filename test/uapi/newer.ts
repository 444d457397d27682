// The names that Linux 6.13 to 7.3 added to the headers of 6.12, and facts that no header contains: minimum sizes, and the
// name of each request number. Written from a description of the interface, not from native/uapi, so that each checks the
// other.

/** Size, then `field offset size` of every field. */
export const structs: Readonly<Record<string, readonly [size: number, fields: string]>> = {
  // 6.13
  iommu_ioas_map_file: [40, 'size 0 4, flags 4 4, ioas_id 8 4, fd 12 4, start 16 8, length 24 8, iova 32 8'],
  iommu_ioas_change_process: [8, 'size 0 4, __reserved 4 4'],
  iommu_vdevice_alloc: [24, 'size 0 4, viommu_id 4 4, dev_id 8 4, out_vdevice_id 12 4, virt_id 16 8'],
  iommu_hwpt_arm_smmuv3: [16, 'ste 0 16'],
  iommu_hw_info_arm_smmuv3: [40, 'flags 0 4, __reserved 4 4, idr 8 24, iidr 32 4, aidr 36 4'],
  iommu_viommu_arm_smmuv3_invalidate: [16, 'cmd 0 16'],
  // 6.13, the last two fields 6.17
  iommu_viommu_alloc: [
    40,
    'size 0 4, flags 4 4, type 8 4, dev_id 12 4, hwpt_id 16 4, out_viommu_id 20 4, data_len 24 4, __reserved 28 4, data_uptr 32 8',
  ],
  // 6.15
  iommu_veventq_alloc: [
    32,
    'size 0 4, flags 4 4, viommu_id 8 4, type 12 4, veventq_depth 16 4, out_veventq_id 20 4, out_veventq_fd 24 4, __reserved 28 4',
  ],
  iommufd_vevent_header: [8, 'flags 0 4, sequence 4 4'],
  iommu_vevent_arm_smmuv3: [32, 'evt 0 32'],
  vfio_device_attach_iommufd_pt: [16, 'argsz 0 4, flags 4 4, pt_id 8 4, pasid 12 4'],
  vfio_device_detach_iommufd_pt: [12, 'argsz 0 4, flags 4 4, pasid 8 4'],
  // 6.17
  iommu_hw_info: [
    40,
    'size 0 4, flags 4 4, dev_id 8 4, data_len 12 4, data_uptr 16 8, in_data_type 24 4, out_data_type 24 4, out_max_pasid_log2 28 1, __reserved 29 3, out_capabilities 32 8',
  ],
  iommu_hw_queue_alloc: [
    40,
    'size 0 4, flags 4 4, viommu_id 8 4, type 12 4, index 16 4, out_hw_queue_id 20 4, nesting_parent_iova 24 8, length 32 8',
  ],
  iommu_hw_info_tegra241_cmdqv: [8, 'flags 0 4, version 4 1, log2vcmdqs 5 1, log2vsids 6 1, __reserved 7 1'],
  iommu_viommu_tegra241_cmdqv: [16, 'out_vintf_mmap_offset 0 8, out_vintf_mmap_length 8 8'],
  iommu_vevent_tegra241_cmdqv: [16, 'lvcmdq_err_map 0 16'],
  vfio_device_bind_iommufd: [24, 'argsz 0 4, flags 4 4, iommufd 8 4, out_devid 12 4, token_uuid_ptr 16 8'],
  // 6.19
  vfio_device_feature_dma_buf: [16, 'region_index 0 4, open_flags 4 4, flags 8 4, nr_ranges 12 4'],
  vfio_region_dma_range: [16, 'offset 0 8, length 8 8'],
  // 7.0
  iommu_hwpt_amd_guest: [32, 'dte 0 32'],
  iommu_hw_info_amd: [16, 'efr 0 8, efr2 8 8'],
  // 7.3
  iommu_ioas_noiommu_get_pa: [
    40,
    'size 0 4, flags 4 4, ioas_id 8 4, __reserved 12 4, iova 16 8, length 24 8, out_phys 32 8',
  ],
  vfio_device_feature_zpci_err: [8, 'data 0 8'],
  vfio_device_info_cap_zpci_base: [
    40,
    'header 0 8, start_dma 8 8, end_dma 16 8, pchid 24 2, vfn 26 2, fmb_length 28 2, pft 30 1, gid 31 1, fh 32 4, ccdf_err_length 36 4',
  ],
};

export const numbers: Readonly<Record<string, number>> = {
  // 6.13
  IOMMU_IOAS_MAP_FILE: 0x3b8f,
  IOMMU_VIOMMU_ALLOC: 0x3b90,
  IOMMU_VDEVICE_ALLOC: 0x3b91,
  IOMMU_IOAS_CHANGE_PROCESS: 0x3b92,
  IOMMU_HWPT_DATA_ARM_SMMUV3: 2,
  IOMMU_HW_INFO_TYPE_ARM_SMMUV3: 2,
  IOMMU_VIOMMU_INVALIDATE_DATA_ARM_SMMUV3: 1,
  IOMMU_VIOMMU_TYPE_DEFAULT: 0,
  IOMMU_VIOMMU_TYPE_ARM_SMMUV3: 1,
  // 6.15
  IOMMU_VEVENTQ_ALLOC: 0x3b93,
  IOMMU_HWPT_ALLOC_PASID: 8,
  IOMMU_VEVENTQ_FLAG_LOST_EVENTS: 1,
  IOMMU_VEVENTQ_TYPE_DEFAULT: 0,
  IOMMU_VEVENTQ_TYPE_ARM_SMMUV3: 1,
  VFIO_DEVICE_ATTACH_PASID: 1,
  VFIO_DEVICE_DETACH_PASID: 1,
  // 6.17
  IOMMU_HW_QUEUE_ALLOC: 0x3b94,
  IOMMU_HW_INFO_FLAG_INPUT_TYPE: 1,
  IOMMU_HW_INFO_TYPE_DEFAULT: 0,
  IOMMU_HW_INFO_TYPE_TEGRA241_CMDQV: 3,
  IOMMU_VIOMMU_TYPE_TEGRA241_CMDQV: 2,
  IOMMU_VEVENTQ_TYPE_TEGRA241_CMDQV: 2,
  IOMMU_HW_QUEUE_TYPE_DEFAULT: 0,
  IOMMU_HW_QUEUE_TYPE_TEGRA241_CMDQV: 1,
  VFIO_DEVICE_BIND_FLAG_TOKEN: 1,
  // 6.19
  VFIO_DEVICE_FEATURE_DMA_BUF: 11,
  // 7.0
  IOMMU_HWPT_DATA_AMD_GUEST: 3,
  IOMMU_HW_INFO_TYPE_AMD: 4,
  // 7.1
  IOMMU_HW_CAP_PCI_ATS_NOT_SUPPORTED: 8,
  VFIO_DEVICE_FEATURE_MIG_PRECOPY_INFOv2: 12,
  VFIO_PRECOPY_INFO_REINIT: 1,
  // 7.3
  IOMMU_IOAS_NOIOMMU_GET_PA: 0x3b95,
  IOMMU_HW_INFO_ARM_SMMUV3_ERRATA_REPEAT_TLBI_CFGI: 1,
  VFIO_DEVICE_FEATURE_ZPCI_ERROR: 13,
};

/** The smallest size that the kernel accepts, where it is not the size of the struct. */
export const minimums: Readonly<Record<string, number>> = {
  iommu_hwpt_alloc: 24,
  iommu_hw_info: 32,
  iommu_viommu_alloc: 24,
  vfio_device_info: 16,
  vfio_device_bind_iommufd: 16,
  vfio_device_attach_iommufd_pt: 12,
  vfio_device_detach_iommufd_pt: 8,
  vfio_device_ioeventfd: 28,
  vfio_device_gfx_plane_info: 60,
  vfio_iommu_type1_info: 16,
  vfio_iommu_spapr_tce_info: 16,
  vfio_eeh_pe_op: 12,
};

const container = {
  '3b64': 'VFIO_GET_API_VERSION',
  '3b65': 'VFIO_CHECK_EXTENSION',
  '3b66': 'VFIO_SET_IOMMU',
  '3b70': 'VFIO_IOMMU_GET_INFO',
  '3b71': 'VFIO_IOMMU_MAP_DMA',
  '3b72': 'VFIO_IOMMU_UNMAP_DMA',
  '3b73': 'VFIO_IOMMU_ENABLE',
  '3b74': 'VFIO_IOMMU_DISABLE',
  '3b75': 'VFIO_IOMMU_DIRTY_PAGES',
  '3b76': 'VFIO_IOMMU_SPAPR_UNREGISTER_MEMORY',
  '3b77': 'VFIO_IOMMU_SPAPR_TCE_CREATE',
  '3b78': 'VFIO_IOMMU_SPAPR_TCE_REMOVE',
  '3b79': 'VFIO_EEH_PE_OP',
};

/** Request names by the function that gives them, and by number in hexadecimal. */
export const requestNames: Readonly<Record<string, Readonly<Record<string, string>>>> = {
  vfioContainerRequestName: container,
  vfioGroupRequestName: {
    '3b67': 'VFIO_GROUP_GET_STATUS',
    '3b68': 'VFIO_GROUP_SET_CONTAINER',
    '3b69': 'VFIO_GROUP_UNSET_CONTAINER',
    '3b6a': 'VFIO_GROUP_GET_DEVICE_FD',
  },
  vfioDeviceRequestName: {
    '3b6b': 'VFIO_DEVICE_GET_INFO',
    '3b6c': 'VFIO_DEVICE_GET_REGION_INFO',
    '3b6d': 'VFIO_DEVICE_GET_IRQ_INFO',
    '3b6e': 'VFIO_DEVICE_SET_IRQS',
    '3b6f': 'VFIO_DEVICE_RESET',
    '3b70': 'VFIO_DEVICE_GET_PCI_HOT_RESET_INFO',
    '3b71': 'VFIO_DEVICE_PCI_HOT_RESET',
    '3b72': 'VFIO_DEVICE_QUERY_GFX_PLANE',
    '3b73': 'VFIO_DEVICE_GET_GFX_DMABUF',
    '3b74': 'VFIO_DEVICE_IOEVENTFD',
    '3b75': 'VFIO_DEVICE_FEATURE',
    '3b76': 'VFIO_DEVICE_BIND_IOMMUFD',
    '3b77': 'VFIO_DEVICE_ATTACH_IOMMUFD_PT',
    '3b78': 'VFIO_DEVICE_DETACH_IOMMUFD_PT',
    '3b79': 'VFIO_MIG_GET_PRECOPY_INFO',
  },
  iommufdRequestName: {
    ...container,
    '3b80': 'IOMMU_DESTROY',
    '3b81': 'IOMMU_IOAS_ALLOC',
    '3b82': 'IOMMU_IOAS_ALLOW_IOVAS',
    '3b83': 'IOMMU_IOAS_COPY',
    '3b84': 'IOMMU_IOAS_IOVA_RANGES',
    '3b85': 'IOMMU_IOAS_MAP',
    '3b86': 'IOMMU_IOAS_UNMAP',
    '3b87': 'IOMMU_OPTION',
    '3b88': 'IOMMU_VFIO_IOAS',
    '3b89': 'IOMMU_HWPT_ALLOC',
    '3b8a': 'IOMMU_GET_HW_INFO',
    '3b8b': 'IOMMU_HWPT_SET_DIRTY_TRACKING',
    '3b8c': 'IOMMU_HWPT_GET_DIRTY_BITMAP',
    '3b8d': 'IOMMU_HWPT_INVALIDATE',
    '3b8e': 'IOMMU_FAULT_QUEUE_ALLOC',
    '3b8f': 'IOMMU_IOAS_MAP_FILE',
    '3b90': 'IOMMU_VIOMMU_ALLOC',
    '3b91': 'IOMMU_VDEVICE_ALLOC',
    '3b92': 'IOMMU_IOAS_CHANGE_PROCESS',
    '3b93': 'IOMMU_VEVENTQ_ALLOC',
    '3b94': 'IOMMU_HW_QUEUE_ALLOC',
    '3b95': 'IOMMU_IOAS_NOIOMMU_GET_PA',
  },
};
