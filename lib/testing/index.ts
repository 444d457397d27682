/** The exports of vfio/testing: what tests of drivers need besides the software host. */
export { type SweepOptions, type SweepReport, type SweepRun, sweep } from './sweep.ts';
