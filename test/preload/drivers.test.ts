/**
 * Drivers in C that know nothing of this package: on the software host by way of the preload library, and the same
 * programs on a kernel.
 */
import { expect, test } from 'vitest';
import { EDU, IVSHMEM, needs } from '../support/backends.ts';
import { compile, expectClaims, mirrors, needsCompiler, run } from './programs.ts';

needs({ guest: ['intel', 'amd', 'virtio'], because: 'without an IOMMU there are no groups' });
needsCompiler();

test('A1: a driver in C does the whole job: binding, mapping, DMA, an MSI, registers by plain loads and stores', () => {
  expectClaims(run(compile('edu.c'), [EDU]), 12);
  expect(mirrors()).toEqual([]);
});

test('A2: a driver in C by way of its group and a container', () => {
  expectClaims(run(compile('group.c'), [EDU]), 8);
  expect(mirrors()).toEqual([]);
});

test('A2: type1 maps the memory of a device for another, and nobody pays for it (30)', () => {
  expectClaims(run(compile('peer.c'), [EDU, IVSHMEM]), 7);
  expect(mirrors()).toEqual([]);
});
