/**
 * The machine that sequences run on: a host, a device that does DMA, and the handles through which address spaces are used. It
 * is opened once for many sequences, since that takes longer than a sequence. It is opened again after a sequence that failed
 * or that disposed it.
 */
import { constants, openSync, readSync, writeSync } from 'node:fs';
import { native } from '../../lib/addon/native.ts';
import {
  type Container,
  DmaBuffer,
  type Group,
  Host,
  type Iommufd,
  type VfioDevice,
} from '../../lib/index.ts';
import { type Backend, EDU } from '../support/backends.ts';
import { BUFFER, Edu, Reg } from '../support/edu.ts';
import { type Kind, PAGE } from './model.ts';

/** Reads and writes at any address of this process. A read returns false if nothing is mapped there. */
const self = openSync('/proc/self/mem', constants.O_RDWR);

export function peek(address: number, into: Uint8Array): boolean {
  try {
    return readSync(self, into, 0, into.length, address) === into.length;
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'EIO') return false;
    throw error;
  }
}

export function poke(address: number, from: Uint8Array): void {
  writeSync(self, from, 0, from.length, address);
}

/** How many bytes the device writes, at the start of a page. The tag is at another place. */
export const LANDING = 8;
/** The number of different patterns that the device can send. */
export const PATTERNS = 256;
export const patternOf = (index: number): bigint => 0xedb0_0000_0000_0001n + (BigInt(index) << 8n);

const never = new Int32Array(new SharedArrayBuffer(4));

/** The first address that the device can't reach: it has 28 address lines. */
const REACH = 1 << 28;

export class Rig implements Disposable {
  readonly kind: Kind;
  readonly backend: Backend;
  readonly host: Host;
  readonly iommufd: Iommufd | undefined;
  /** The container without an iommufd, for the kinds that have one. */
  container: Container | undefined;
  group: Group | undefined;
  device: VfioDevice | undefined;
  /** If true, no other sequence can use this rig. */
  spent = false;
  #edu: Edu | undefined;

  private constructor(kind: Kind, backend: Backend, host: Host) {
    this.kind = kind;
    this.backend = backend;
    this.host = host;
    if (this.type1 === undefined) {
      this.iommufd = host.openIommufd();
      this.device = host.openDevice(EDU);
      this.device.bind(this.iommufd);
    } else {
      this.openContainer();
    }
  }

  static async open(kind: Kind, backend: Backend): Promise<Rig> {
    const host = Host.open({ backend });
    await host.device(EDU).bind();
    const rig = new Rig(kind, backend, host);
    if (rig.iommufd) {
      const ioas = rig.iommufd.allocIoas();
      rig.device?.attach(ioas);
      await rig.#loadPatterns((memory) => ioas.map(memory, { iova: 0x10000 }));
      rig.device?.detach();
      ioas[Symbol.dispose]();
    } else {
      rig.openDevice();
      await rig.#loadPatterns((memory) => (rig.container as Container).map(memory, { iova: 0x10000 }));
    }
    return rig;
  }

  /** The version of type1 of the container; undefined: this kind has no such container. */
  get type1(): 'type1' | 'type1v2' | undefined {
    return this.kind === 'container-type1'
      ? 'type1'
      : this.kind === 'container-type1v2'
        ? 'type1v2'
        : undefined;
  }

  get edu(): Edu {
    if (this.device === undefined) throw new Error('no device is open');
    this.#edu ??= new Edu(this.device);
    return this.#edu;
  }

  openContainer(): void {
    this.container = this.host.openContainer();
    this.group = this.host.openGroup(this.host.device(EDU).group as number);
    this.join();
  }

  /** The group joins the container, which gets its IOMMU from it. */
  join(): void {
    this.group?.setContainer(this.container as Container);
    this.container?.setIommu(this.type1 as 'type1' | 'type1v2');
  }

  openDevice(): void {
    this.device ??= this.group?.openDevice(EDU);
  }

  closeDevice(): void {
    this.#edu?.[Symbol.dispose]();
    this.#edu = undefined;
    this.device?.[Symbol.dispose]();
    this.device = undefined;
  }

  /** Makes one transfer of a pattern to `iova`. False: the device can't reach this address. */
  async send(iova: number, pattern: number): Promise<boolean> {
    if (iova >= REACH) return false;
    this.edu.start(BUFFER + BigInt(pattern * LANDING), BigInt(iova), LANDING, true);
    await this.#done();
    return true;
  }

  /** Brings the rig into the state that the next sequence expects. */
  rest(): void {
    if (this.type1 === undefined) return;
    if (this.container?.iommuType === null) this.join();
    this.openDevice();
  }

  takeFaults(): number {
    return this.host.software?.takeFaults().length ?? 0;
  }

  async #done(): Promise<void> {
    const { registers } = this.edu;
    if (this.backend === 'kernel') return this.edu.idle();
    const until = performance.now() + 10_000;
    // settle() can't be used, since its call would wait in the schedule. The wait lets the device's thread use the processor.
    while ((registers.read64(Reg.command) & 1n) !== 0n) {
      if (performance.now() > until) throw new Error('the device does not finish its transfer');
      Atomics.wait(never, 0, 0, 0.02);
    }
  }

  async #loadPatterns(map: (memory: DmaBuffer) => Disposable): Promise<void> {
    const memory = DmaBuffer.alloc(PAGE);
    const bytes = new DataView(new ArrayBuffer(PATTERNS * LANDING));
    for (let i = 0; i < PATTERNS; i++) bytes.setBigUint64(i * LANDING, patternOf(i), true);
    memory.write(0, new Uint8Array(bytes.buffer));
    const mapping = map(memory);
    await this.edu.fetch(0x10000n, PATTERNS * LANDING);
    mapping[Symbol.dispose]();
    memory[Symbol.dispose]();
  }

  [Symbol.dispose](): void {
    native.schedule.release();
    this.#edu?.[Symbol.dispose]();
    this.host[Symbol.dispose]();
  }
}
