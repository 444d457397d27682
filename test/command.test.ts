/**
 * The command `vfio`, in this process, on software hosts. There are sixteen broken hosts (test/fixtures/broken): `vfio explain`
 * names the cause, and its commands, run one after the other, repair it. A command that is not of this package (modprobe, a
 * boot with another command line, umount) changes the description of the machine, and a new machine is made from that.
 */
import { spawnSync } from 'node:child_process';
import { mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { describe, expect, onTestFinished, type TestContext, test } from 'vitest';
import { main } from '../cli/main.ts';
import { type Cause, Host, type Topology, VfioDevice, VfioError } from '../lib/index.ts';
import { needs } from './support/backends.ts';

interface Broken {
  bdf: string;
  cause: Cause;
  /** A part of the reason. */
  says: string;
  /** A device that a program has open meanwhile. */
  opens?: string;
  /** A group whose node a program has open meanwhile. */
  opensGroup?: number;
  /** Whether the device can be used nevertheless. */
  warns?: boolean;
  /** Whether no command repairs it, since it needs another kernel. */
  remains?: boolean;
  /** The limit of locked memory, in KiB, and how much the program is going to map. */
  limit?: number;
  memory?: string;
  topology: Topology;
}

interface Explained {
  usable: boolean;
  findings: { cause: Cause; blocks: boolean; reason: string; commands: string[] }[];
  commands: string[];
}

/**
 * Runs a suggested command line for the boot loader on a copy of its file, up to the reboot. Returns the changed file; null if
 * it stopped before.
 */
function grub(before: string, line: string): string | null {
  const file = join(mkdtempSync(join(tmpdir(), 'command-test-')), 'grub');
  onTestFinished(() => rmSync(dirname(file), { recursive: true }));
  writeFileSync(file, before);
  const command = line
    .replaceAll('/etc/default/grub', file)
    .replaceAll('sudo ', '')
    .replace(/\bupdate-grub && reboot$/, 'true');
  const { status, stderr } = spawnSync('sh', ['-c', command], { encoding: 'utf8' });
  expect(command).toMatch(/ && true$/);
  expect(stderr).toBe('');
  if (status !== 0) return null;
  return readFileSync(file, 'utf8');
}

/** A machine, and a program that uses one of its devices. */
class Machine {
  topology: Topology;
  host: Host;
  program: Disposable | undefined;

  constructor({ topology, opens, opensGroup }: Broken) {
    this.topology = topology;
    this.host = Host.open({ backend: 'software', software: { topology } });
    if (opens !== undefined) this.program = this.host.attach(opens, { via: 'cdev' });
    if (opensGroup !== undefined) this.program = this.host.openGroup(opensGroup);
    onTestFinished(() => this.host[Symbol.dispose]());
  }

  async vfio(...args: string[]): Promise<{ status: number; out: string; err: string }> {
    let out = '';
    let err = '';
    const status = await main(args, {
      host: this.host,
      out: (text) => {
        out += text;
      },
      err: (text) => {
        err += text;
      },
      colors: false,
    });
    return { status, out, err };
  }

  async explain(bdf: string): Promise<Explained & { status: number }> {
    const { status, out } = await this.vfio('explain', bdf, '--json');
    return { ...(JSON.parse(out) as Explained), status };
  }

  /** Makes a new machine, with the changes. */
  restart(): void {
    this.host[Symbol.dispose]();
    this.host = Host.open({ backend: 'software', software: { topology: this.topology } });
  }

  async run(line: string): Promise<void> {
    const asUser = this.topology.system?.user;
    const command = line.replace(/ #.*/, '').replace(/^sudo /, '');
    if (command !== line && asUser !== undefined) this.host.software?.become(0);
    const system = this.topology.system ?? {};
    this.topology.system = system;
    const [name, ...args] = command.split(' ');
    switch (name) {
      case 'vfio':
        expect(await this.vfio(...args)).toMatchObject({ status: 0, err: '' });
        break;
      case 'modprobe':
        system.without = (system.without ?? []).filter((each) => each !== args[0]);
        this.restart();
        break;
      case 'grep':
      case 'sed': {
        const text = grub(`GRUB_CMDLINE_LINUX="${system.commandLine ?? ''}"\n`, line);
        expect(text).not.toBeNull();
        system.commandLine = /^GRUB_CMDLINE_LINUX="(.*)"$/m.exec(text ?? '')?.[1] ?? '';
        this.restart();
        break;
      }
      case 'umount':
        for (const each of this.topology.devices ?? [])
          if (each.disk?.mountedOn === args[0]) each.disk = { name: each.disk?.name ?? '' };
        this.restart();
        break;
      case 'ip':
        for (const each of this.topology.devices ?? [])
          if (each.network?.name === args[3]) each.network = { name: each.network?.name ?? '' };
        this.restart();
        break;
      case 'echo':
        // A module parameter, which can be set on the kernel's command line too.
        expect(command).toMatch(/^echo Y \| tee \/sys\/module\/\w+\/parameters\/\w+$/);
        system.commandLine = `${system.commandLine ?? ''} ${args[3]?.split('/')[3]}.${args[3]?.split('/')[5]}=Y`;
        this.restart();
        break;
      default:
        throw new Error(`what is this: ${line}`);
    }
    if (asUser !== undefined) this.host.software?.become(asUser);
  }
}

needs({ backends: ['software'], because: 'its hosts are simulated, wherever it runs' });

const folder = `${import.meta.dirname}/fixtures/broken`;

/** Whether the cause is among the findings. */
const names = ({ cause, says }: Broken, { findings }: Explained) =>
  findings.some((each) => each.cause === cause && each.reason.includes(says));

/** Runs `vfio explain` in a process with this limit, after these commands in its shell. */
function explainUnderLimit(file: string, { bdf, limit, memory, topology }: Broken, commands: string[]) {
  const machine = join(mkdtempSync(join(tmpdir(), 'command-test-')), file);
  onTestFinished(() => rmSync(dirname(machine), { recursive: true }));
  writeFileSync(machine, JSON.stringify(topology));
  const command = [process.execPath, `${import.meta.dirname}/../dist/vfio-command.js`, 'explain', bdf];
  const options = ['--json', '--memory', memory, '--topology', machine];
  const lines = [`ulimit -S -l ${limit}`, ...commands, `exec ${[...command, ...options].join(' ')}`];
  // The capability that lifts the limit is dropped, if this process is root.
  const drop =
    process.geteuid?.() === 0 ? ['setpriv', '--bounding-set=-ipc_lock', '--inh-caps=-ipc_lock'] : [];
  const [name = '', ...args] = [...drop, 'sh', '-ec', lines.join('\n')];
  const { status, stdout, stderr } = spawnSync(name, args, { encoding: 'utf8' });
  expect(stderr).toBe('');
  return { ...(JSON.parse(stdout) as Explained), status };
}

describe('A4, A5: a broken host is explained, and the suggested commands repair it:', () => {
  for (const file of readdirSync(folder)) {
    test(file.replace('.json', ''), async () => {
      const broken = JSON.parse(readFileSync(`${folder}/${file}`, 'utf8')) as Broken;
      const yes = { usable: true, status: 0 };
      const no = { usable: false, status: 1 };
      if (broken.limit !== undefined) {
        const explained = explainUnderLimit(file, broken, []);
        expect(explained).toMatchObject(no);
        expect(names(broken, explained), JSON.stringify(explained.findings)).toBe(true);
        expect(explainUnderLimit(file, broken, explained.commands)).toMatchObject(yes);
        return;
      }
      const machine = new Machine(broken);
      let explained = await machine.explain(broken.bdf);
      expect(explained).toMatchObject(broken.warns ? yes : no);
      expect(names(broken, explained), JSON.stringify(explained.findings)).toBe(true);
      const left = () => !explained.usable || (names(broken, explained) && !broken.remains);
      // Some causes hide others: a device without an IOMMU can't be bound to a VFIO driver either.
      for (let round = 0; round < 4 && left(); round++) {
        // Here this process itself has the device open: the command says so, and suggests no kill.
        if (broken.cause === 'open-elsewhere') machine.program?.[Symbol.dispose]();
        else expect(explained.commands).not.toEqual([]);
        for (const command of explained.commands) await machine.run(command);
        explained = await machine.explain(broken.bdf);
      }
      expect(explained).toMatchObject(yes);
      expect(left()).toBe(false);
      machine.host.attach(broken.bdf)[Symbol.dispose]();
    });
  }
});

test('a boot loader that is not configured as on Debian is not changed, and the machine does not reboot', async () => {
  const off = async (commandLine: string) => {
    const topology: Topology = {
      system: { commandLine },
      iommus: [],
      devices: [{ model: 'edu', bdf: '0000:00:10.0' }],
    };
    const { commands } = await new Machine({ bdf: '', cause: 'iommu-off', says: '', topology }).explain(
      '0000:00:10.0',
    );
    return commands;
  };
  const [add = ''] = await off('quiet');
  expect(grub("GRUB_CMDLINE_LINUX='quiet'\n", add)).toBe("GRUB_CMDLINE_LINUX='intel_iommu=on quiet'\n");
  expect(grub('GRUB_CMDLINE_LINUX=""\n', add)).toBe('GRUB_CMDLINE_LINUX="intel_iommu=on "\n');
  expect(grub('GRUB_TIMEOUT=5\n', add)).toBeNull();
  const [remove = ''] = await off('iommu=off intel_iommu=on');
  expect(grub('GRUB_CMDLINE_LINUX_DEFAULT="quiet iommu=off"\n', remove)).toBe(
    'GRUB_CMDLINE_LINUX_DEFAULT="quiet"\n',
  );
  expect(grub('GRUB_CMDLINE_LINUX=""\n', remove)).toBeNull();
  // The option is there already: the cause is the firmware.
  expect(await off('intel_iommu=on iommu=pt')).toEqual([]);
});

const PAIR: Broken = {
  bdf: '0000:01:00.0',
  cause: 'group',
  says: '',
  topology: {
    devices: [
      { model: 'bridge', bdf: '0000:00:01.0' },
      { model: 'edu', bdf: '0000:01:00.0', behind: '0000:00:01.0', driver: 'e1000e' },
      {
        model: 'edu',
        bdf: '0000:01:01.0',
        behind: '0000:00:01.0',
        driver: 'ahci',
        disk: { name: 'sda', mountedOn: '/' },
      },
    ],
  },
};

test('a device that the kernel uses is refused before any device is changed, unless it is forced', async () => {
  const machine = new Machine(PAIR);
  const refused = await machine.vfio('bind', '--group', PAIR.bdf);
  expect(refused).toMatchObject({ status: 1, err: expect.stringContaining('disk sda is mounted on /') });
  expect(machine.host.device('0000:01:00.0').driver).toBe('e1000e');
  const { status, out } = await machine.vfio('bind', '--group', PAIR.bdf, '--force', '--json');
  expect(status).toBe(0);
  expect(JSON.parse(out).devices.map((each: { driver: string }) => each.driver)).toEqual([
    'vfio-pci',
    'vfio-pci',
  ]);
  expect((await machine.vfio('restore', '--group', PAIR.bdf)).status).toBe(0);
  expect(machine.host.device('0000:01:00.0').driver).toBe('e1000e');
  expect(machine.host.device('0000:01:01.0').driver).toBe('ahci');
});

test.each([
  '/srv',
  '/my disk',
  '/media/u/x;touch$IFS`pwd`/$(id)',
  `/it's "quoted" \\040 & more`,
  '/#*?[a]~',
  '/größe',
  '/brk\u00a0nbsp',
])('A5: whatever a mount point is called, the shell gets it as one word: %j', async (mountedOn) => {
  const machine = new Machine({
    ...PAIR,
    topology: {
      devices: [{ model: 'edu', bdf: '0000:00:10.0', driver: 'ahci', disk: { name: 'sda', mountedOn } }],
    },
  });
  const { commands, findings } = await machine.explain('0000:00:10.0');
  expect(findings[0]?.reason).toContain(`disk sda is mounted on ${mountedOn}`);
  const script = `umount() { printf '<%s>' "$@"; }\n${commands[0]}`;
  expect(spawnSync('sh', ['-c', script], { encoding: 'utf8' })).toMatchObject({
    stdout: `<${mountedOn}>`,
    stderr: '',
  });
});

test('A5: control characters of a name are shown as numbers, and the name is not given to a shell', async () => {
  const machine = new Machine({
    ...PAIR,
    topology: {
      devices: [
        {
          model: 'edu',
          bdf: '0000:00:10.0',
          driver: 'ahci',
          disk: { name: 'sda', mountedOn: '/a\u202e' },
        },
      ],
    },
  });
  const { out } = await machine.vfio('explain', '0000:00:10.0');
  expect(out).toContain('mounted on /a\\u{202e})');
  expect(out).toContain('\n  umount /dev/sda\n');
});

test('a driver made from vfio-pci leaves the group to user space; bridges of the chipset stay with the kernel', async () => {
  const passive = { model: 'passive', vendor: 0x8086, device: 1, group: 9 } as const;
  const machine = new Machine({
    ...PAIR,
    topology: {
      devices: [
        { model: 'edu', bdf: '0000:00:10.0', driver: 'mlx5_vfio_pci' },
        { ...passive, bdf: '0000:00:1f.0', classCode: 0x060100, driver: 'lpc_ich' },
        { ...passive, bdf: '0000:00:1f.3', classCode: 0x040300, driver: 'snd_hda_intel' },
      ],
    },
  });
  const { host } = machine;
  expect(host.group(host.device('0000:00:10.0').group ?? -1).viability().blockers).toEqual([]);
  expect((await machine.vfio('list', '--vfio')).out).toMatch(
    /^0000:00:10\.0 .* mlx5_vfio_pci +\d+ +\/dev\/vfio\/devices\/vfio0$/m,
  );
  expect(await machine.explain('0000:00:10.0')).toMatchObject({ usable: true, commands: [] });
  expect(await machine.explain('0000:00:1f.0')).toMatchObject({ usable: false, commands: [] });
  expect((await machine.vfio('bind', '--group', '0000:00:1f.3')).out).toContain(
    '0000:00:1f.0 is in use by driver lpc_ich',
  );
  expect(['0000:00:1f.0', '0000:00:1f.3'].map((bdf) => host.device(bdf).driver)).toEqual([
    'lpc_ich',
    'vfio-pci',
  ]);
});

test('a group is changed as a whole or not at all', async () => {
  const machine = new Machine(PAIR);
  const drivers = () => ['0000:01:00.0', '0000:01:01.0'].map((bdf) => machine.host.device(bdf).driver);
  await machine.vfio('bind', '0000:01:01.0', '--force');
  {
    // The second device is open: that is noticed before the first one is changed.
    using _user = machine.host.openDevice('0000:01:01.0');
    for (const command of ['unbind', 'restore', 'bind --driver pci-stub'])
      expect(await machine.vfio(...command.split(' '), '--group', PAIR.bdf), command).toMatchObject({
        status: 1,
        err: `vfio: EBUSY: this process (${process.pid}) has the device or its group open: 0000:01:01.0\nvfio: Dispose it first (VfioDevice 0000:01:01.0), or let this call do so: { force: true }\n`,
      });
    expect(drivers()).toEqual(['e1000e', 'vfio-pci']);
  }
  {
    // With force the change is tried, and the first device is restored, since the second is open by a descriptor that does not
    // show its device.
    await machine.vfio('bind', '--group', PAIR.bdf, '--force');
    using user = machine.host.attach('0000:01:01.0', { via: 'group-type1' });
    using _hidden = VfioDevice.fromFd(user.device.fd);
    expect(await machine.vfio('unbind', '--group', '--force', PAIR.bdf)).toMatchObject({
      status: 1,
      err: expect.stringContaining('every device is as it was'),
    });
    expect(drivers()).toEqual(['vfio-pci', 'vfio-pci']);
  }
  expect((await machine.vfio('restore', '--group', PAIR.bdf)).status).toBe(0);
  expect(drivers()).toEqual(['e1000e', 'ahci']);
});

test('a device whose new driver must wait keeps the driver that it has', async () => {
  const machine = new Machine(PAIR);
  const device = machine.host.device(PAIR.bdf);
  const had = [device.driver, device.driverOverride];
  await machine.vfio('bind', '--group', PAIR.bdf, '--force');
  {
    using _user = machine.host.attach('0000:01:01.0', { via: 'cdev' });
    expect(await machine.vfio('restore', PAIR.bdf)).toMatchObject({
      status: 1,
      err: 'vfio: EBUSY: another device of group 0 is in use by user space: until that ends, the group takes no driver that does DMA for the kernel\n',
    });
    expect([device.driver, device.driverOverride]).toEqual(['vfio-pci', 'vfio-pci']);
  }
  expect((await machine.vfio('restore', PAIR.bdf)).status).toBe(0);
  expect([device.driver, device.driverOverride]).toEqual(had);
});

test('restore: also a device that was unbound, or bound to another driver; it says when no driver took the device', async () => {
  const machine = new Machine(PAIR);
  const device = machine.host.device(PAIR.bdf);
  const had = device.driverOverride;
  for (const taken of ['bind', 'unbind', 'bind --driver pci-stub']) {
    await machine.vfio(...taken.split(' '), PAIR.bdf);
    if (taken !== 'unbind') await machine.vfio('unbind', PAIR.bdf);
    expect(await machine.vfio('restore', PAIR.bdf), taken).toMatchObject({
      status: 0,
      out: `${PAIR.bdf}  no driver -> e1000e\n`,
    });
    expect(device.driverOverride).toBe(had);
  }
  // No driver was chosen for it, so nothing is done, although the kernel uses it.
  expect(await machine.vfio('restore', '0000:01:01.0')).toMatchObject({
    status: 0,
    out: '0000:01:01.0  ahci -> ahci\n',
  });
  const bare = new Machine({
    ...PAIR,
    topology: { devices: [{ model: 'edu', bdf: '0000:00:02.0', driver: 'vfio-pci' }] },
  });
  expect(await bare.vfio('restore', '0000:00:02.0')).toMatchObject({
    status: 1,
    out: expect.stringMatching(/^0000:00:02\.0 {2}vfio-pci -> no driver\n! no driver took 0000:00:02\.0: /),
  });
});

test('E1: half a group is granted to nobody, a whole one to a user, with the rules that make it permanent', async () => {
  const machine = new Machine({ ...PAIR, topology: { ...PAIR.topology, system: { user: 0 } } });
  await machine.vfio('bind', PAIR.bdf);
  expect(await machine.vfio('grant', PAIR.bdf, '--user', '1000')).toMatchObject({
    status: 1,
    err: expect.stringContaining("group 0 can't be granted in part: 0000:01:01.0 is in use by driver ahci"),
  });
  await machine.vfio('bind', '0000:01:01.0', '--force');
  const { status, out } = await machine.vfio('grant', PAIR.bdf, '--user', '1000');
  expect(status).toBe(0);
  expect(out).toContain('KERNELS=="0000:01:01.0", OWNER="1000"');
  expect(out).toContain(':1000 - memlock unlimited');
  machine.host.software?.become(1000);
  machine.host.attach(PAIR.bdf, { via: 'cdev' })[Symbol.dispose]();
  await expect(machine.host.device(PAIR.bdf).unbind()).rejects.toThrow(VfioError);
  machine.host.software?.become(1001);
  expect(() => machine.host.attach(PAIR.bdf, { via: 'cdev' })).toThrow(
    expect.objectContaining({ code: 'EACCES' }),
  );
});

test('lists, doctors, completes; bad usage is status 2', async () => {
  const machine = new Machine(PAIR);
  const listed = JSON.parse((await machine.vfio('list', '--json')).out) as { bdf: string }[];
  expect(listed.map((each) => each.bdf)).toEqual(machine.host.devices().map((each) => each.bdf));
  expect((await machine.vfio('list')).out).toMatch(/^0000:01:00\.0 {2}1234:11e8 {2}00ff00 {2}e1000e {2}0 /m);
  expect(await machine.vfio('doctor')).toMatchObject({
    status: 0,
    out: expect.stringMatching(/^ok +IOMMU/m),
  });
  for (const shell of ['bash', 'zsh', 'fish'])
    expect(await machine.vfio('completion', shell)).toMatchObject({
      status: 0,
      out: expect.stringContaining('restore'),
    });
  for (const bad of [
    [],
    ['nonsense'],
    ['explain'],
    ['explain', '0000:7f:00.0'],
    ['explain', 'x'],
    ['grant', PAIR.bdf],
  ])
    expect((await machine.vfio(...bad)).status, bad.join(' ')).toBe(2);
  const without = new Machine({
    ...PAIR,
    topology: { ...PAIR.topology, system: { commandLine: 'iommu=off' } },
  });
  expect(await without.vfio('doctor')).toMatchObject({
    status: 1,
    out: expect.stringMatching(/^fail +IOMMU/m),
  });
});

/** The completions that a shell offers for a line, by the script of `vfio completion`; `ls` lists two devices. */
const SHELLS: Record<'bash' | 'zsh' | 'fish', (script: string, line: string) => string> = {
  bash: (script, line) => `source ${script}
    ls() { printf '0000:00:10.0\\n0000:03:01.0\\n'; }
    COMP_LINE='${line}' COMP_POINT=${line.length} COMP_WORDS=(${line.replaceAll(':', ' : ')} '') COMP_CWORD=2
    COMP_WORDBREAKS=$' \\t:'
    _vfio; printf '%s\\n' "\${COMPREPLY[@]}"`,
  zsh: (script, line) => `autoload -U compinit; compinit -D -u; source ${script}
    ls() { printf '0000:00:10.0\\n0000:03:01.0\\n'; }
    emulate -L bash; setopt kshglob noshglob braceexpand
    COMP_LINE='${line}' COMP_POINT=${line.length} COMP_WORDS=(${line} '') COMP_CWORD=2
    _vfio; printf '%s\\n' "\${COMPREPLY[@]}"`,
  fish: (script, line) => `function ls; printf '0000:00:10.0\\n0000:03:01.0\\n'; end
    source ${script}; complete -C '${line}' | cut -f1`,
};

test.each(['bash', 'zsh', 'fish'] as const)(
  '%s completes by the script that the command prints',
  async (shell, ...rest) => {
    const [context] = rest as unknown as [TestContext];
    if (spawnSync(shell, ['--version']).error !== undefined) context.skip(`there is no ${shell} here`);
    const folder = mkdtempSync(join(tmpdir(), 'command-test-'));
    onTestFinished(() => rmSync(folder, { recursive: true }));
    const script = join(folder, 'vfio');
    writeFileSync(script, (await new Machine(PAIR).vfio('completion', shell)).out);
    const offered = (line: string) => {
      const plain = shell === 'bash' ? ['--norc'] : shell === 'zsh' ? ['-f'] : ['--no-config'];
      const { stdout, stderr } = spawnSync(shell, [...plain, '-c', SHELLS[shell](script, line)], {
        encoding: 'utf8',
      });
      expect(stderr).toBe('');
      const words = stdout.trim().split('\n');
      // zsh itself selects those that begin with the word.
      if (shell !== 'zsh') return words;
      const begun = words.filter((word) => word.startsWith(line.slice(line.lastIndexOf(' ') + 1)));
      return begun.length === 0 ? [''] : begun;
    };
    expect(offered('vfio ex')).toEqual(['explain']);
    // bash replaces only the text after the colon.
    expect(offered('vfio explain 0000:00')).toEqual([shell === 'bash' ? '00:10.0' : '0000:00:10.0']);
    expect(offered('vfio completion z')).toEqual(['zsh']);
    expect(offered('vfio explain --att')).toEqual(['']);
    expect(offered('vfio explain --no')).toEqual(['--no-attempt']);
  },
);

describe('as a process of its own', () => {
  const vfio = (args: string, env: NodeJS.ProcessEnv = {}, after = '') =>
    spawnSync(
      'bash',
      ['-c', `set -o pipefail; '${process.execPath}' dist/vfio-command.js ${args} ${after}`],
      {
        encoding: 'utf8',
        cwd: join(import.meta.dirname, '..'),
        env: { ...process.env, VFIO_BACKEND: undefined, ...env },
      },
    );

  test('a simulated machine is used only if the user asked for it', () => {
    expect(JSON.parse(vfio('doctor --json').stdout)).toMatchObject({ backend: 'kernel' });
    expect(JSON.parse(vfio('doctor --json', { VFIO_BACKEND: 'software' }).stdout)).toMatchObject({
      backend: 'software',
    });
    expect(vfio('list', { VFIO_BACKEND: 'bogus' })).toMatchObject({
      status: 2,
      stderr: expect.stringContaining("for backend but received 'bogus'"),
    });
    expect(vfio('list --kernel 6.12 --backend kernel')).toMatchObject({
      status: 2,
      stderr: expect.stringContaining("no software host's options with backend 'kernel'"),
    });
  });

  test('bad usage is JSON too, if that is asked for', () => {
    const { status, stdout } = vfio('--json nonsense');
    expect(status).toBe(2);
    expect(JSON.parse(stdout)).toMatchObject({ error: { message: expect.stringContaining('nonsense') } });
  });

  test('a reader that closes the pipe early ends it without a message', () => {
    const { status, stderr } = vfio('list --backend software', {}, '| true');
    expect(stderr).toBe('');
    expect([0, 141]).toContain(status);
    expect(vfio('list --backend software', {}, '>/dev/full')).toMatchObject({ status: 2, stderr: '' });
  });
});
