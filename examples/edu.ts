/**
 * A complete driver on either backend: finds QEMU's `edu` device, computes a factorial on it, moves a pattern to it and back by
 * DMA, waits for its interrupts, and draws the address space.
 *
 *   npm run demo                                              on the software host
 *   npm run demo -- --backend kernel --device 0000:00:10.0    on real hardware (as root; unbinds the device's driver)
 */
import { Command, Option } from 'commander';
import colors from 'picocolors';
import { DmaBuffer, Host, type MappedRegion, VfioError } from '../lib/index.ts';
import { drawAddressSpace } from './picture.ts';

// The registers and bits of the device, from QEMU's specification (docs/specs/edu.rst).
const IDENTIFICATION = 0x00;
const LIVENESS = 0x04;
const FACTORIAL = 0x08;
const STATUS = 0x20;
const COMPUTING = 0x01;
const INTERRUPT_STATUS = 0x24;
const INTERRUPT_ACKNOWLEDGE = 0x64;
const DMA_SOURCE = 0x80;
const DMA_DESTINATION = 0x88;
const DMA_COUNT = 0x90;
const DMA_COMMAND = 0x98;
const DMA_START = 0x01;
const DMA_FROM_DEVICE = 0x02;
const DMA_INTERRUPT = 0x04;
const BUFFER = 0x40000n;
const VENDOR = 0x1234;
const DEVICE = 0x11e8;

const arguments_ = new Command('demo')
  .description('drives an edu device: registers, DMA both ways, an interrupt')
  .addOption(
    new Option('--backend <backend>', 'the kernel, or the software host').choices([
      'auto',
      'kernel',
      'software',
    ]),
  )
  .option('--device <bdf>', 'PCI address; left out: the first edu device')
  .option('--json', 'print one JSON object instead of text')
  .parse();
const {
  backend,
  device: wanted,
  json,
} = arguments_.opts<{
  backend?: 'auto' | 'kernel' | 'software';
  device?: string;
  json?: boolean;
}>();

const hex = (value: number | bigint, digits = 0) => `0x${value.toString(16).padStart(digits, '0')}`;
const say = (text = '') => {
  if (!json) console.log(text);
};
const title = (text: string) => say(`\n${colors.bold(text)}`);

async function until(registers: MappedRegion, reached: () => boolean, what: string): Promise<void> {
  const end = Date.now() + 5000;
  while (!reached()) {
    if (Date.now() > end)
      throw new Error(`waited 5 seconds for ${what}; status ${hex(registers.read32(STATUS))}`);
    await new Promise((resolve) => setImmediate(resolve));
  }
}

async function main(): Promise<void> {
  using host = Host.open(backend ? { backend } : {});
  say(`${colors.bold('vfio demo')} on the ${colors.cyan(host.backend)} backend`);

  title('IOMMU groups');
  const groups = host.groups().map((group) => ({
    id: group.id,
    viable: group.viability().viable,
    devices: group.devices.map(({ bdf, vendor, device, driver }) => ({ bdf, vendor, device, driver })),
  }));
  for (const { id, viable, devices } of groups) {
    const members = devices.map((each) => `${each.bdf} ${colors.dim(each.driver ?? 'no driver')}`).join('  ');
    say(
      `  ${String(id).padStart(3)}  ${viable ? colors.green('viable    ') : colors.red('not viable')}  ${members}`,
    );
  }

  const found = wanted
    ? host.device(wanted)
    : host.devices().find((each) => each.vendor === VENDOR && each.device === DEVICE);
  if (!found) throw new Error('there is no edu device (1234:11e8) on this host; say which with --device');
  const had = found.driver;
  await found.bind();
  try {
    await drive(host, found.bdf, groups);
  } finally {
    if (had !== 'vfio-pci') await found.restore();
  }
}

async function drive(host: Host, bdf: string, groups: object[]): Promise<void> {
  using user = host.attach(bdf);
  const { device, dma } = user;
  title(`Device ${bdf}`);
  const { config } = device;
  const capabilities = [...config.capabilities(), ...config.extendedCapabilities()];
  const identity = { vendor: config.vendor, device: config.device };
  say(`  identity      ${hex(identity.vendor, 4)}:${hex(identity.device, 4)}, attached via ${user.via}`);
  say(
    `  capabilities  ${capabilities.map((each) => `${each.name} at ${hex(each.offset)}`).join(', ') || 'none'}`,
  );
  config.busMaster = true;

  using registers = device.region('bar0').mmap();
  const identification = registers.read32(IDENTIFICATION);
  registers.write32(LIVENESS, 0x12345678);
  if (registers.read32(LIVENESS) !== ~0x12345678 >>> 0) throw new Error('the liveness check failed');
  say(`  revision      ${identification >>> 24}.${(identification >>> 16) & 0xff}, alive`);

  registers.write32(FACTORIAL, 10);
  await until(registers, () => (registers.read32(STATUS) & COMPUTING) === 0, 'the factorial');
  const factorial = registers.read32(FACTORIAL);
  say(`  factorial     10! = ${factorial}`);

  title('DMA');
  const [interrupt] = device.irq('msi').enable(1);
  if (!interrupt) throw new Error('the device has no MSI');
  using memory = DmaBuffer.alloc(2 << 20);
  using mapping = dma.map(memory, { iova: 0x100000 });
  const pattern = Buffer.from('a pattern that went through the IOMMU and came back');
  memory.write(0, pattern);

  const transfer = async (from: bigint, to: bigint, direction: number) => {
    registers.write64(DMA_SOURCE, from);
    registers.write64(DMA_DESTINATION, to);
    registers.write64(DMA_COUNT, pattern.length);
    registers.write64(DMA_COMMAND, DMA_START | direction | DMA_INTERRUPT);
    const fired = await interrupt.wait({ timeout: 10_000 });
    registers.write32(INTERRUPT_ACKNOWLEDGE, registers.read32(INTERRUPT_STATUS));
    return fired;
  };
  const out = await transfer(mapping.iova, BUFFER, 0);
  say(
    `  out           ${pattern.length} bytes from IOVA ${hex(mapping.iova)} to the device, ${out} interrupt`,
  );
  const back = await transfer(BUFFER, mapping.iova + 0x1000n, DMA_FROM_DEVICE);
  const received = Buffer.alloc(pattern.length);
  memory.read(0x1000, received);
  if (!received.equals(pattern)) throw new Error('what came back is not what went out');
  say(`  back          "${received}", ${back} interrupt`);

  title('Address space');
  const { ranges, alignment } = dma.iovaRanges();
  for (const line of drawAddressSpace(ranges, dma.mappings())) say(`  ${line}`);

  if (!json) return;
  const text = (value: unknown) =>
    JSON.stringify(value, (_, each) => (typeof each === 'bigint' ? hex(each) : each));
  console.log(
    text({
      backend: host.backend,
      groups,
      device: { bdf, ...identity, via: user.via, capabilities },
      factorial,
      dma: { bytes: pattern.length, interrupts: out + back, received: received.toString() },
      addressSpace: { ranges, alignment, mappings: dma.mappings() },
    }),
  );
}

try {
  await main();
} catch (error) {
  // The message of a VfioError says what failed and why; a stack would not help.
  console.error(error instanceof VfioError ? error.message : error);
  process.exitCode = 1;
}
