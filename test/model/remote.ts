/** A worker thread with its own Iommufd on a descriptor of another thread. It carries out orders that it receives. */
import type { Worker } from 'node:worker_threads';
import { message, work } from '../support/program.ts';

type Order =
  | { do: 'open'; fd: number }
  | { do: 'compat' | 'unmapAll' | 'mappings' | 'leave' | 'close' }
  | { do: 'map'; iova: number; pages: number; tag: bigint; at: number }
  | { do: 'unmap'; iova: number; length: number }
  | { do: 'drop'; address: number };

export interface Answer {
  readonly code?: string;
  readonly message?: string;
  readonly bytes?: number;
  readonly address?: number;
  readonly there?: boolean;
  readonly mappings?: { iova: bigint; length: bigint; writable: boolean }[];
}

const BODY = `
  let iommufd, ioas;
  const buffers = new Map();
  const orders = {
    open({ fd }) { iommufd = Iommufd.fromFd(fd); return {}; },
    compat() { ioas = iommufd.vfioCompatIoas; return { there: ioas !== null }; },
    map({ iova, pages, tag, at }) {
      const memory = DmaBuffer.alloc(pages * 4096);
      const bytes = new BigUint64Array([tag]);
      for (let page = 0; page < pages; page++) memory.write(page * 4096 + at, new Uint8Array(bytes.buffer));
      const address = Number(memory.address);
      try {
        ioas.map(memory, { iova });
      } catch (error) {
        memory[Symbol.dispose]();
        return { address, code: error.code, message: error.message };
      }
      buffers.set(address, memory);
      return { address };
    },
    unmap({ iova, length }) { return { bytes: Number(ioas.unmap(iova, length)) }; },
    unmapAll() { return { bytes: Number(ioas.unmapAll()) }; },
    mappings() { return { mappings: ioas.mappings() }; },
    drop({ address }) { buffers.get(address)[Symbol.dispose](); buffers.delete(address); return {}; },
    leave() { ioas[Symbol.dispose](); return {}; },
    close() {
      iommufd[Symbol.dispose]();
      for (const each of buffers.values()) each[Symbol.dispose]();
      buffers.clear();
      return {};
    },
  };
  parentPort.on('message', (order) => {
    let answer;
    try {
      answer = orders[order.do](order);
    } catch (error) {
      answer = { code: error.code ?? error.name, message: error.message };
    }
    parentPort.postMessage(answer);
  });
  parentPort.postMessage('ready');
`;

export class Remote {
  readonly #worker: Worker;

  private constructor(worker: Worker) {
    this.#worker = worker;
  }

  static async start(): Promise<Remote> {
    const worker = work(BODY);
    await message(worker);
    worker.setMaxListeners(0);
    return new Remote(worker);
  }

  async ask(order: Order): Promise<Answer> {
    const answer = new Promise<Answer>((resolve) => this.#worker.once('message', resolve));
    this.#worker.postMessage(order);
    return answer;
  }

  async end(): Promise<void> {
    await this.#worker.terminate();
  }
}
