/** Binds over iommufd are counted for each device, as the kernel counts its own (requirement C6). */
import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import { native } from '../lib/addon/native.ts';
import { DmaError, Host, type Iommufd, type SoftwareHost, type VfioDevice } from '../lib/index.ts';
import { fault } from '../lib/sva/fault.ts';
import { mirror } from '../lib/sva/mirror.ts';
import type { Bonding, BondingRequest, MakeBonding, SvaFault } from '../lib/sva/way.ts';
import { needs } from './support/backends.ts';
import { asked } from './support/bonding.ts';
import { Open } from './support/open-device.ts';

needs({ backends: ['software'], because: 'a real machine has no devices of ours' });

const BDF = '0000:00:1c.0';

let host: SoftwareHost;
let iommufd: Iommufd;
let device: VfioDevice;
let model: Open;

beforeEach(() => {
  host = Host.open({
    backend: 'software',
    software: {
      topology: {
        iommus: [{ kind: 'vtd', pasidBits: 8, pageRequests: 'pri' }],
        devices: [{ model: 'host-bridge', bdf: '0000:00:00.0' }],
      },
    },
  });
  model = new Open();
  host.software.addDevice(BDF, model);
  iommufd = host.openIommufd();
  device = opened(BDF);
});
afterEach(() => host[Symbol.dispose]());

function opened(bdf: string): VfioDevice {
  const made = host.openDevice(bdf);
  made.bind(iommufd);
  made.config.busMaster = true;
  return made;
}

function bind(make: MakeBonding, o?: Partial<BondingRequest>, of = device): Bonding {
  const made = asked(make, of, o);
  if ('reason' in made) throw new Error(`${made.code}: ${made.reason}`);
  return made;
}

describe.each([
  ['iommufd-mirror', mirror],
  ['iommufd-fault', fault],
] as const)('%s', (way, make) => {
  test('two bonds of one device are one attachment with one PASID, until both have ended', async () => {
    const before = iommufd.allocIoas().id;
    const [first, second] = [bind(make), bind(make)];
    expect([first, second].map((each) => [each.way, each.pasid()])).toEqual([
      [way, 1],
      [way, 1],
    ]);
    const bytes = new Uint8Array(first.allocate(4096));
    bytes.fill(0x5a);
    first.dispose();
    first.dispose(); // counts once
    second.adopt(0n, 0);
    const into = new Uint8Array(8);
    const address = addressIn(second, bytes);
    await model.fetch(address, into, { pasid: 1 });
    expect(into).toEqual(new Uint8Array(8).fill(0x5a));
    second.dispose();
    await expect(model.fetch(address, into, { pasid: 1 })).rejects.toBeInstanceOf(DmaError);
    const third = bind(make);
    expect(third.pasid()).toBe(1);
    third.dispose();
    expect(iommufd.allocIoas().id).toBe(before + 1); // nothing is left
  });

  test('an exclusive bond is refused while another exists (EEXIST), and made when it is the first', () => {
    const first = bind(make);
    expect(() => bind(make, { exclusive: true })).toThrow(
      expect.objectContaining({ code: 'EEXIST', reason: expect.stringMatching(/bound already/) }),
    );
    first.dispose();
    bind(make, { exclusive: true }).dispose();
  });

  test('another limit of addresses is refused, and so is another process', () => {
    const first = bind(make, { addressBits: 40 });
    expect(asked(make, device)).toMatchObject({
      code: 'EINVAL',
      reason: 'the device is bound already, with addressBits 40, and not with no addressBits',
    });
    expect(asked(make, device, { addressBits: 40, pid: 1 })).toMatchObject({ code: 'EOPNOTSUPP' });
    first.dispose();
  });

  test('two devices have a bond each', () => {
    const other = '0000:00:1d.0';
    host.software.addDevice(other, new Open());
    const [first, second] = [bind(make), bind(make, {}, opened(other))];
    first.dispose();
    expect(second.pasid()).toBe(1);
    second.dispose();
  });
});

test('a fault is told to every bond, but not to one that another has ended meanwhile', async () => {
  const told: string[] = [];
  const events = (name: string, then = () => {}) => ({
    exit: () => {},
    fault: ({ address }: SvaFault) => {
      told.push(`${name} ${address}`);
      then();
    },
  });
  let third: Bonding | undefined;
  bind(fault, { events: events('first') });
  bind(fault, { events: events('second', () => third?.dispose()) });
  third = bind(fault, { events: events('third') });
  await expect(model.fetch(0n, new Uint8Array(8), { pasid: 1 })).rejects.toBeInstanceOf(DmaError);
  await new Promise((resolve) => setTimeout(resolve, 20));
  expect(told).toEqual(['first 0', 'second 0']);
});

/** Where bytes of a heap are. The bonding has to reach them. */
function addressIn(bonding: Bonding, bytes: Uint8Array): bigint {
  const place = native.addressOf(bytes);
  if (place === null) throw new Error('the bytes are nowhere');
  bonding.reach(place.address, bytes.length);
  return place.address;
}
