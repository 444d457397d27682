/** Simulated machines with an IOMMU that has features which QEMU's lacks. The edu device has its usual address. */
import { type DmaBuffer, Host, type IommuModel, type SoftwareOptions } from '../../lib/index.ts';
import { EDU } from './backends.ts';
import { Edu } from './edu.ts';

/** A software host with one edu device behind this IOMMU. The device can request pages. */
export function machine(iommu: IommuModel, kernel?: string): Host {
  const software: SoftwareOptions = {
    topology: {
      iommus: [iommu],
      devices: [{ model: 'edu', bdf: EDU, driver: 'vfio-pci', pageRequests: true, pasidBits: 8 }],
    },
  };
  if (kernel !== undefined) software.kernel = kernel;
  return Host.open({ backend: 'software', software });
}

/** An iommufd, and the edu device, which is bound to it and not attached. */
export async function bound(host: Host) {
  await host.device(EDU).bind();
  const iommufd = host.openIommufd();
  const device = host.openDevice(EDU);
  device.bind(iommufd);
  return { iommufd, device, edu: new Edu(device) };
}

/**
 * The first byte that the device reads at `from`. The device copies it into its own buffer, and from there to `back`, an IOVA
 * where `memory` is mapped.
 */
export async function fetched(edu: Edu, from: bigint, back: bigint, memory: DmaBuffer): Promise<number> {
  await edu.fetch(from, 8);
  await edu.store(back, 8);
  return memory.bytes[0] as number;
}
