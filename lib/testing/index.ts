/** The exports of vfio/testing: what tests of drivers need besides the software host. */
export {
  assertMappings,
  assertNoDmaFaults,
  assertNoOpenHandles,
  type ExpectedMapping,
  type HasMappings,
  type MatcherResult,
  matchers,
} from './assertions.ts';
export { type Bench, type BenchOptions, type Checks, notSimulated, withDevice } from './bench.ts';
export { type Fixture, type Fixtures, fixtures } from './fixtures.ts';
export { type SweepOptions, type SweepReport, type SweepRun, sweep } from './sweep.ts';
