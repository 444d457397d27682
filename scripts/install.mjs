/**
 * The install script: what node-gyp-build does, which compiles the addon unless a prebuilt one loads. node-gyp compiles
 * one file at a time unless JOBS (or npm's option `jobs`) says otherwise. Here it is one for each processor, as far as
 * memory goes: the compiler takes up to 470 MB for a file.
 */
import { availableParallelism, freemem } from 'node:os';

const MEMORY_OF_A_COMPILER = 512 * 2 ** 20;

const fitting = Math.floor(freemem() / MEMORY_OF_A_COMPILER);
process.env['JOBS'] ??= String(Math.max(1, Math.min(availableParallelism(), fitting)));
await import('node-gyp-build/bin.js');
