/** How names that other programs chose (a mount point, a process) are written in text for people, for a shell, and in JSON. */

/**
 * Characters that are invisible, or that make a text look different from what it is: control characters, marks of direction,
 * line separators, and the replacement of bytes that are not UTF-8. The addon escapes the same: native/base/shown.cc.
 */
const UNSEEN = /[\p{C}\p{Zl}\p{Zp}\ufffd]/gu;

/** Whether it can be written in a command for people to copy: it has none of these characters. */
export const isPlain = (text: string) => text.search(UNSEEN) === -1;

/** For people: a character that would move the cursor or reverse the line is shown as its number. */
export const shown = (text: string) =>
  text.replace(UNSEEN, (letter) => `\\u{${(letter.codePointAt(0) ?? 0).toString(16)}}`);

/** The same for text of several lines, whose line breaks are this package's own. */
export const shownLines = (text: string) => text.split('\n').map(shown).join('\n');

/** The same for JSON, where strings keep their meaning. */
export const shownJson = (json: string) =>
  json.replace(UNSEEN, (letter) =>
    letter === '\n'
      ? letter
      : [...Array(letter.length).keys()]
          .map((at) => `\\u${letter.charCodeAt(at).toString(16).padStart(4, '0')}`)
          .join(''),
  );

/** For a shell: one word, whatever is in it. */
export const quoted = (text: string) =>
  /^[\w@%+=:,./-]+$/.test(text) ? text : `'${text.replaceAll("'", "'\\''")}'`;

/** Decodes a name from one of the kernel's tables, where spaces separate the columns: '\040' is a space. */
export const decoded = (text: string) =>
  text.replace(/\\([0-7]{3})/g, (_, digits: string) => String.fromCharCode(Number.parseInt(digits, 8)));
