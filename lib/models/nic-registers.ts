/** What a driver of the network card and its model both know: registers and descriptors. */
import { registers } from '../index.ts';

/** Most pairs of rings that a card can have. */
export const MOST_PAIRS = 16;

const RINGS = { count: 2 * MOST_PAIRS, stride: 0x40 } as const;

/**
 * The registers of the network card {@link Nic}, in BAR 0. Ring 2n is the receive ring of pair n, ring 2n + 1 its transmit
 * ring. A ring has the MSI-X vector of its number; the vector after those of the rings is for changes of the link.
 */
export const nicRegisters = registers({
  control: {
    offset: 0x00,
    width: 4,
    fields: { reset: { bits: 0, access: 'w1s', doc: 'resets all registers, itself too' } },
  },
  status: {
    offset: 0x04,
    width: 4,
    fields: {
      link: { bits: 0, access: 'ro', doc: 'the card at the other end can be reached' },
      linkChanged: { bits: 1, access: 'w1c' },
    },
  },
  address: { offset: 0x08, width: 8, access: 'ro', doc: 'the MAC address; its first byte is the lowest' },
  pairs: { offset: 0x10, width: 4, access: 'ro', doc: 'how many pairs of rings there are' },
  ringBase: { ...RINGS, offset: 0x1000, width: 8, doc: 'IOVA of the descriptors, a multiple of 16' },
  ringLength: { ...RINGS, offset: 0x1008, width: 4, doc: 'how many descriptors, from 2 to 65536' },
  ringHead: {
    ...RINGS,
    offset: 0x100c,
    width: 4,
    access: 'ro',
    doc: 'the descriptor that the card uses next',
  },
  ringTail: {
    ...RINGS,
    offset: 0x1010,
    width: 4,
    doc: 'doorbell: the card owns the descriptors from the head up to this one, which it does not own',
  },
  ringControl: {
    ...RINGS,
    offset: 0x1014,
    width: 4,
    fields: {
      enable: { bits: 0, doc: 'a change to 1 takes base and length, and sets head and tail to 0' },
      interrupt: { bits: 1, doc: 'interrupt when descriptors were written back' },
    },
  },
  ringStatus: {
    ...RINGS,
    offset: 0x1018,
    width: 4,
    access: 'w1c',
    doc: 'why the card has turned the ring off',
    fields: {
      badRing: { bits: 0, doc: 'no such pair of rings, or a base, a length or a tail that can not be' },
      fault: { bits: 1, doc: 'the descriptors can not be read or written' },
    },
  },
  ringDropped: {
    ...RINGS,
    offset: 0x101c,
    width: 4,
    access: 'rc',
    doc: 'frames that found no descriptor, or one with an error; of a receive ring',
  },
});

/**
 * A descriptor is 16 bytes, little-endian: 8 bytes IOVA of the frame or the buffer; 4 bytes `length`; 4 bytes status, which
 * the card writes. A descriptor to transmit has the length of its frame. One to receive has the length of its buffer, and then
 * that of the frame.
 */
export const nicDescriptor = {
  size: 16,
  /** Bits of the status. The card is done with the descriptor. */
  done: 1,
  /** The length of the frame is none from 64 to 9000, or the buffer is shorter than the frame. */
  badLength: 2,
  /** The frame can't be read, or the buffer can't be written. */
  fault: 4,
  /** The link was down: the frame went nowhere. */
  noLink: 8,
} as const;

/** Lengths of frames in bytes. */
export const SHORTEST_FRAME = 64;
export const LONGEST_FRAME = 9000;
