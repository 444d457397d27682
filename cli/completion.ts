/** vfio completion: scripts for shells, generated from the command's own description so that they always match it. */
import type { Command } from 'commander';

interface Described {
  name: string;
  description: string;
  options: {
    flag: string;
    description: string;
    choices: readonly string[] | undefined;
    takesValue: boolean;
  }[];
  /** Whether its arguments are PCI addresses. */
  takesDevices: boolean;
  choices: readonly string[];
}

function describe(command: Command): Described {
  return {
    name: command.name(),
    description: command.description(),
    options: command.options.map((option) => ({
      flag: option.long ?? '',
      description: option.description,
      choices: option.argChoices,
      takesValue: option.required || option.optional,
    })),
    takesDevices: command.registeredArguments.some((each) => each.name() === 'bdf'),
    choices: command.registeredArguments.flatMap((each) => each.argChoices ?? []),
  };
}

const DEVICES = 'ls /sys/bus/pci/devices 2>/dev/null';

export function completion(program: Command, shell: 'bash' | 'zsh' | 'fish'): string {
  const top = describe(program);
  const commands = program.commands.map(describe);
  if (shell === 'fish') return fish(top, commands);
  // zsh runs the bash script, by its module bashcompinit.
  const loading = shell === 'zsh' ? '#compdef vfio\nautoload -U +X bashcompinit && bashcompinit\n' : '';
  return loading + bash(top, commands);
}

function bash(top: Described, commands: Described[]): string {
  const flags = (each: Described) => each.options.map(({ flag }) => flag).join(' ');
  const cases = commands.map((each) => {
    const words = [flags(each), flags(top), ...each.choices].filter(Boolean).join(' ');
    return `    ${each.name}) words="${words}${each.takesDevices ? ` $(${DEVICES})` : ''}" ;;`;
  });
  const values = [top, ...commands].flatMap(({ options }) =>
    options
      .filter((option) => option.takesValue)
      .map(({ flag, choices }) =>
        choices
          ? `    ${flag}) COMPREPLY=($(compgen -W "${choices.join(' ')}" -- "$current")); return ;;`
          : flag === '--user'
            ? `    ${flag}) COMPREPLY=($(compgen -u -- "$current")); return ;;`
            : flag === '--topology'
              ? `    ${flag}) COMPREPLY=($(compgen -f -- "$current")); return ;;`
              : `    ${flag}) return ;;`,
      ),
  );
  return `_vfio() {
  # bash takes words apart at colons, which are a part of PCI addresses: the line has them whole.
  local line="\${COMP_LINE:0:$COMP_POINT}" word words=""
  local current="\${line##* }"
  line="\${line% *}"
  local before="\${line##* }"
  case "$before" in
${values.join('\n')}
  esac
  words="${[...commands.map((each) => each.name), flags(top)].join(' ')}"
  for word in "\${COMP_WORDS[@]:1:$((COMP_CWORD - 1))}"; do
    case "$word" in
${cases.join('\n')}
    *) continue ;;
    esac
    break
  done
  COMPREPLY=($(compgen -W "$words" -- "$current"))
  if [[ "$current" == *:* && "$COMP_WORDBREAKS" == *:* ]]; then
    COMPREPLY=("\${COMPREPLY[@]#"\${current%:*}:"}")
  fi
}
complete -F _vfio vfio
`;
}

function fish(top: Described, commands: Described[]): string {
  const quote = (text: string) => `'${text.replaceAll('\\', '\\\\').replaceAll("'", "\\'")}'`;
  const lines = ['complete -c vfio -f'];
  const option = (each: Described['options'][number], condition: string) => {
    const values = each.choices
      ? ` -x -a ${quote(each.choices.join(' '))}`
      : each.flag === '--topology'
        ? ' -r -F'
        : each.flag === '--user'
          ? " -x -a '(__fish_complete_users)'"
          : each.takesValue
            ? ' -x'
            : '';
    lines.push(
      `complete -c vfio${condition} -l ${each.flag.slice(2)}${values} -d ${quote(each.description)}`,
    );
  };
  for (const each of top.options) option(each, '');
  for (const each of commands) {
    lines.push(`complete -c vfio -n __fish_use_subcommand -a ${each.name} -d ${quote(each.description)}`);
    const condition = ` -n '__fish_seen_subcommand_from ${each.name}'`;
    for (const its of each.options) option(its, condition);
    if (each.takesDevices) lines.push(`complete -c vfio${condition} -a '(${DEVICES})'`);
    if (each.choices.length > 0)
      lines.push(`complete -c vfio${condition} -a ${quote(each.choices.join(' '))}`);
  }
  return `${lines.join('\n')}\n`;
}
