/**
 * The release of a host's kernel: the one that a software host behaves as, and the errors of calls that need a later one. On the
 * kernel backend, a software host of the same release must give the same answers.
 */
import { release } from 'node:os';
import { describe, expect, test } from 'vitest';
import { DmaBuffer, Host, type IommufdFeature, VfioError } from '../lib/index.ts';
import { backend, IVSHMEM, needs, openHost } from './support/backends.ts';
import { bound, fetched, machine } from './support/iommu.ts';

/** The release that introduced each feature. */
const features: Record<IommufdFeature, string> = {
  hwpt: '6.6',
  'hw-info': '6.6',
  'dirty-tracking': '6.7',
  nesting: '6.8',
  'fault-queue': '6.11',
  'map-file': '6.13',
  viommu: '6.13',
  vdevice: '6.13',
  'change-process': '6.13',
  veventq: '6.15',
  pasid: '6.15',
  'hw-queue': '6.17',
  'noiommu-physical-address': '7.3',
};
const releases = ['6.6', '6.7', '6.8', '6.9', '6.10', '6.11', '6.12', '6.13', '6.14', '6.15', '6.16', '6.17'];
releases.push('6.18', '6.19', '7.0', '7.1', '7.2', '7.3');
const before = (a: string, b: string) => {
  const [major = 0, minor = 0] = a.split('.').map(Number);
  const [other = 0, otherMinor = 0] = b.split('.').map(Number);
  return major < other || (major === other && minor < otherMinor);
};

/** The error code of a call; null if it succeeds. */
function codeOf(call: () => unknown): string | null {
  try {
    call();
    return null;
  } catch (error) {
    if (error instanceof VfioError) return error.code;
    throw error;
  }
}

/** The answers of a host that differ between releases. */
async function answers(host: Host): Promise<Record<string, unknown>> {
  const { iommufd, device } = await bound(host);
  const ioas = iommufd.allocIoas();
  const queue = iommufd.allocFaultQueue();
  const table = iommufd.allocHwpt({ device, parent: ioas });
  const supported = Object.keys(features).filter((each) => iommufd.supports(each as IommufdFeature));
  return {
    supported,
    mapFile: codeOf(() => ioas.mapFile(0, { offset: 0, length: 4096 })),
    physicalAddress: codeOf(() => ioas.physicalAddress(0, 4096)),
    changeProcess: codeOf(() => iommufd.changeProcess()),
    pasidTable: codeOf(() => iommufd.allocHwpt({ device, parent: ioas, pasid: true })),
    pasidAttach: codeOf(() => device.attach(ioas, { pasid: 1 })),
    pasidDetach: codeOf(() => device.detach({ pasid: 1 })),
    faultQueueOfIoas: codeOf(() => iommufd.allocHwpt({ device, parent: ioas, faultQueue: queue })),
    invalidatePaging: codeOf(() => table.invalidate('vtd-s1', [{ addr: 0, npages: 1 }])),
    invalidateNothing: codeOf(() => table.invalidate('vtd-s1', [])),
    hwInfoType: codeOf(() => iommufd.hwInfo(device, { type: 'tegra241-cmdqv' })),
    viommu: codeOf(() => iommufd.allocViommu({ device, parent: table, type: 'arm-smmuv3' })),
  };
}

test('a software host answers as the newest release that it knows, unless the options name another', () => {
  using newest = Host.open({ backend: 'software' });
  expect(newest.report()).toMatchObject({ backend: 'software', kernel: '7.3' });
  for (const kernel of releases) {
    using host = Host.open({ backend: 'software', software: { kernel } });
    expect(host.report().kernel).toBe(kernel);
  }
});

test('each feature exists from its release on, and asking for it makes no object', () => {
  for (const kernel of releases) {
    using host = Host.open({ backend: 'software', software: { kernel } });
    using iommufd = host.openIommufd();
    for (const [feature, since] of Object.entries(features))
      expect(iommufd.supports(feature as IommufdFeature), `${feature} on ${kernel}`).toBe(
        !before(kernel, since),
      );
    expect(iommufd.allocIoas().id).toBe(1);
  }
});

test("on the kernel, the answers about features are the kernel's own", (ctx) => {
  needs(ctx, { backends: ['kernel'], because: 'it is about the running kernel' });
  using host = openHost();
  using iommufd = host.openIommufd();
  expect(host.report().kernel).toBe(release());
  const [major, minor] = release().split('.');
  for (const [feature, since] of Object.entries(features))
    expect(iommufd.supports(feature as IommufdFeature), feature).toBe(!before(`${major}.${minor}`, since));
});

test('the software host of this release answers as this kernel', async (ctx) => {
  needs(ctx, { backends: ['kernel'], guest: ['intel'], because: 'it compares the two' });
  using real = openHost();
  const [major, minor] = release().split('.');
  using simulated = Host.open({ backend: 'software', software: { kernel: `${major}.${minor}` } });
  expect(await answers(simulated)).toEqual(await answers(real));
});

describe('too old a kernel', () => {
  /** The host, and the release that it reports. */
  async function old() {
    const host = backend === 'kernel' ? openHost() : Host.open({ backend, software: { kernel: '6.12' } });
    return { host, name: host.report().kernel, ...(await bound(host)) };
  }

  test('is ENOTTY for a later request, with its release and that of the host', async () => {
    const { host, name, iommufd, device } = await old();
    using _ = host;
    const ioas = iommufd.allocIoas();
    const parent = iommufd.allocHwpt({ device, parent: ioas });
    const later: [string, string, () => unknown][] = [
      ['IOMMU_IOAS_MAP_FILE', '6.13', () => ioas.mapFile(0, { offset: 0, length: 4096 })],
      ['IOMMU_IOAS_CHANGE_PROCESS', '6.13', () => iommufd.changeProcess()],
      ['IOMMU_VIOMMU_ALLOC', '6.13', () => iommufd.allocViommu({ device, parent, type: 'arm-smmuv3' })],
      ['IOMMU_IOAS_NOIOMMU_GET_PA', '7.3', () => ioas.physicalAddress(0, 4096)],
    ];
    for (const [request, since, call] of later)
      expect(call, request).toThrow(
        expect.objectContaining({
          code: 'ENOTTY',
          request,
          reason: `${request} needs Linux ${since}, this host answers as ${name}`,
        }),
      );
  });

  test('is EOPNOTSUPP or EINVAL for a later flag, and the error says so', async () => {
    const { host, name, iommufd, device } = await old();
    using _ = host;
    const ioas = iommufd.allocIoas();
    const faultQueue = iommufd.allocFaultQueue();
    const because = (code: string, reason: string) =>
      expect.objectContaining({ code, reason: `${reason}, this host answers as ${name}` });
    expect(() => iommufd.allocHwpt({ device, parent: ioas, pasid: true })).toThrow(
      because('EOPNOTSUPP', 'pasid needs Linux 6.15'),
    );
    expect(() => iommufd.allocHwpt({ device, parent: ioas, faultQueue })).toThrow(
      because('EOPNOTSUPP', 'faultQueue on a page table of an Ioas needs Linux 6.13'),
    );
    expect(() => device.attach(ioas, { pasid: 1 })).toThrow(because('EINVAL', 'pasid needs Linux 6.15'));
    expect(() => device.detach({ pasid: 1 })).toThrow(because('EINVAL', 'pasid needs Linux 6.15'));
    await host.device(IVSHMEM).bind();
    using unbound = host.openDevice(IVSHMEM);
    expect(() => unbound.bind(iommufd, { token: '00112233-4455-6677-8899-aabbccddeeff' })).toThrow(
      because('EINVAL', 'token needs Linux 6.17'),
    );
  });

  test('a request that the kernel has but this IOMMU does not support is not explained by the release', async () => {
    using host = machine({ kind: 'vtd' });
    const { iommufd, device } = await bound(host);
    const ioas = iommufd.allocIoas();
    for (const o of [{ dirtyTracking: true }, { nestParent: true }])
      expect(() => iommufd.allocHwpt({ device, parent: ioas, ...o })).toThrow(
        expect.objectContaining({ code: 'EOPNOTSUPP', reason: expect.not.stringContaining('needs Linux') }),
      );
    using memory = DmaBuffer.alloc(4096);
    ioas.map(memory);
    expect(() => iommufd.changeProcess()).toThrow(expect.objectContaining({ code: 'EINVAL' }));
  });
});

describe('a machine of its own', () => {
  test('is built as described, with numbers of 64 bits', () => {
    using host = Host.open({
      backend: 'software',
      software: {
        topology: {
          iommus: [{ kind: 'vtd', apertures: [{ start: 0, last: 2n ** 57n - 1n }] }],
          devices: [
            { model: 'edu', bdf: '0000:00:04.0', driver: null },
            {
              model: 'passive',
              bdf: '0000:00:05.0',
              vendor: 0x8086,
              device: '0x5845' as never,
              classCode: 0x010802,
            },
          ],
        },
      },
    });
    expect(host.devices().map((each) => [each.bdf, each.vendor, each.classCode])).toEqual([
      ['0000:00:04.0', 0x1234, 0x00ff00],
      ['0000:00:05.0', 0x8086, 0x010802],
    ]);
    expect(host.device('0000:00:04.0').driver).toBeNull();
  });

  test('that can not be built is a TypeError that says what was expected', () => {
    const build = (topology: object) => () => Host.open({ backend: 'software', software: { topology } });
    const refused = (text: RegExp) =>
      expect.objectContaining({
        name: 'TypeError',
        code: 'ERR_INVALID_ARG_TYPE',
        message: expect.stringMatching(text),
      });
    expect(build({ devices: [{ model: 'edu', bdf: '0:10' }] })).toThrow(
      refused(/^Expected a PCI address .+ for devices\[0\]\.bdf but received "0:10"/),
    );
    expect(build({ devices: [{ model: 'toaster', bdf: '0000:00:10.0' }] })).toThrow(
      refused(/devices\[0\]\.model/),
    );
    expect(build({ iommus: [{ kind: 'vtd', colour: 'red' }], devices: [] })).toThrow(refused(/colour/));
    const circle: { devices: unknown[] } = { devices: [] };
    circle.devices.push(circle);
    expect(build(circle)).toThrow(refused(/^Expected what can be written as JSON for software\.topology/));
  });
});

test('behind VT-d a device can read write-only mappings, before 6.19', async (ctx) => {
  needs(ctx, { guest: ['intel'], because: 'other drivers make exact page tables' });
  const levels = backend === 'kernel' ? [undefined] : ['6.12', '6.18', '6.19', '7.3'];
  for (const kernel of levels) {
    using host = kernel === undefined ? openHost() : machine({ kind: 'vtd' }, kernel);
    const { iommufd, device, edu } = await bound(host);
    using memory = DmaBuffer.alloc(4096);
    using back = DmaBuffer.alloc(4096);
    const ioas = iommufd.allocIoas();
    ioas.map(memory, { iova: 0x10000, read: false });
    ioas.map(back, { iova: 0x20000 });
    device.attach(ioas);
    memory.bytes.fill(0x5a);
    const exact = !before(host.report().kernel, '6.19');
    expect(await fetched(edu, 0x10000n, 0x20000n, back), host.report().kernel).toBe(exact ? 0 : 0x5a);
  }
});
