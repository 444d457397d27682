/** Simulated machines whose IOMMU can do what QEMU's can't, with the edu device where it always is. */
import { type DmaBuffer, Host, type IommuModel, type SoftwareOptions } from '../../lib/index.ts';
import { EDU } from './backends.ts';
import { Edu } from './edu.ts';

/** A software host with one edu device that can ask for pages, behind this IOMMU. */
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

/** An iommufd and the edu device bound to it, attached to nothing. */
export async function bound(host: Host) {
  await host.device(EDU).bind();
  const iommufd = host.openIommufd();
  const device = host.openDevice(EDU);
  device.bind(iommufd);
  return { iommufd, device, edu: new Edu(device) };
}

/** The first byte that the device finds at an address, by way of its own buffer and another address that is mapped. */
export async function fetched(edu: Edu, from: bigint, back: bigint, memory: DmaBuffer): Promise<number> {
  await edu.fetch(from, 8);
  await edu.store(back, 8);
  return memory.bytes[0] as number;
}
