/**
 * Writes docs/requirements.md from reports of test runs: which test showed which requirement, and on which backend. With
 * --check it compares the file instead.
 *
 *   npm run requirements -- [--check] test-report/software.json test-report/kernel.json ...
 */
import { readFileSync, writeFileSync } from 'node:fs';

const page = new URL('../docs/requirements.md', import.meta.url);

/** The requirements in the words of this project. The names of tests contain the ids. */
const REQUIREMENTS = {
  A1: 'A device by its address: its node in sysfs, opened, joined to an iommufd',
  A2: 'Groups first: the group opened, joined to a container, the device from the group',
  A3: 'One flow for programs that do not care about groups',
  A4: 'A refusal says which device, which group and who uses it',
  A5: 'Groups are never hidden: members, drivers, viability, reserved regions, owner',
  A6: 'A mediated device is alone in its group, wherever its parent is',
  B1: 'The DMA of a group has an owner: nobody, the kernel, or a user with a count and a file',
  B2: 'Users and drivers of the kernel exclude each other; the same user may claim again',
  B3: 'Only the owner attaches page tables to the group',
  B4: 'An attach inside the kernel is exclusive: one device, no other driver',
  B5: 'A device that joins an owned group later breaks no rule',
  C1: 'Features of a device are asked for, switched on and off',
  C2: 'A process and a device are bound; two devices of one process share its PASID',
  C3: 'The PASID is read, and invalid after the process',
  C4: 'Callbacks apart from the bind, with private data',
  C5: 'The end of a process comes before the end of its memory',
  C6: 'Refusals of a bind: no device, a group of several, twice',
  C7: 'Page faults of devices are queued, answered, flushed',
  C8: 'After a bind, memory needs no map',
  C9: 'Page tables of guests are another interface',
  D1: 'Address spaces by map, unmap and copy, whatever the IOMMU',
  D2: 'Several windows of addresses in one space',
  D3: 'What a machine needs of addresses is stated, and met or refused with a reason',
  D4: 'An iommufd takes the calls of containers, with the same results',
  D5: "Page tables of the user's own, typed by their format",
  D6: 'virtio-iommu is a host like the others',
  E1: 'One device of a group takes permission for all: half a group is reported',
  E2: 'Devices of a group reach each other without the IOMMU, and nothing outside',
  E3: 'Devices of a group that nobody drives are parked',
  E4: 'Mediated devices whose parent isolates badly share a group, visibly',
};

const args = process.argv.slice(2);
const check = args[0] === '--check';
const files = check ? args.slice(1) : args;
if (files.length < 2) {
  console.error(`Expected reports of the software host and of the kernel but received ${files.length} files`);
  process.exit(2);
}
const reports = files.map((file) => JSON.parse(readFileSync(file, 'utf8')));
const failed = reports.flatMap((report) => report.failures);
if (failed.length > 0) {
  console.error(`Expected reports without failures but received ${failed.join('; ')}`);
  process.exit(2);
}

/** Name of a test to where it was shown. */
const shown = new Map();
for (const { backend, guest, shown: names } of reports)
  for (const name of names) {
    const where = shown.get(name) ?? new Set();
    where.add(backend === 'software' ? 'software' : `Linux (${guest})`);
    shown.set(name, where);
  }

const cell = (text) =>
  text
    .replace(/^test\//, '')
    .replace(/\s+/g, ' ')
    .replaceAll('|', '\\|');
const rows = Object.entries(REQUIREMENTS).flatMap(([id, what]) => {
  const tests = [...shown]
    .filter(([name]) => new RegExp(`\\b${id}\\b`).test(name))
    .sort(([a], [b]) => (a < b ? -1 : 1));
  if (tests.length === 0) return [`| ${id} | ${what} | no test yet | |`];
  return tests.map(
    ([name, where], index) =>
      `| ${index === 0 ? id : ''} | ${index === 0 ? what : ''} | ${cell(name)} | ${[...where].sort().reverse().join(', ')} |`,
  );
});
const text = `# Requirements

What the kernel's community asked for when it argued these interfaces out, by the ids in the names of tests, and where
each test passed: on the software host, and on Linux 6.12 in the guest (with the IOMMU in brackets). Generated from the
reports of these runs: \`npm run requirements -- test-report/software.json test-report/kernel.json\`.

| id | requirement | test | passed on |
|---|---|---|---|
${rows.join('\n')}
`;

if (!check) {
  writeFileSync(page, text);
  process.exit(0);
}
// A machine that lacks something skips a test and says why; that is no reason to change the page.
const skipped = new Set(reports.flatMap((report) => report.skipped.map(({ test }) => cell(test))));
const lines = (of) =>
  new Set(of.split('\n').filter((line) => ![...skipped].some((name) => line.includes(`| ${name} |`))));
const [now, committed] = [lines(text), lines(readFileSync(page, 'utf8'))];
const lacks = [...now].filter((line) => !committed.has(line));
const stale = [...committed].filter((line) => !now.has(line));
if (lacks.length + stale.length > 0) {
  console.error(
    `docs/requirements.md is not what these reports give: npm run requirements. It lacks\n${lacks.join('\n')}\nand has\n${stale.join('\n')}`,
  );
  process.exit(1);
}
