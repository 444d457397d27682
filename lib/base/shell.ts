/** Names that others chose (a mount point, a process) in what people read and in what they give to a shell. */

/**
 * What has no shape of its own, or another than it seems: control characters, marks of direction, separators of lines,
 * bytes of no text. (The addon does the same: native/base/shown.cc.)
 */
const UNSEEN = /[\p{C}\p{Zl}\p{Zp}\ufffd]/gu;

/** Can it be written in a line for people to copy? */
export const isPlain = (text: string) => text.search(UNSEEN) === -1;

/** For people: what would move the cursor or turn the line around is shown as its number. */
export const shown = (text: string) =>
  text.replace(UNSEEN, (letter) => `\\u{${(letter.codePointAt(0) ?? 0).toString(16)}}`);

/** The same for text of several lines that are ours. */
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

/** As the kernel writes names in its tables, where spaces part the columns: '\040' is a space. */
export const decoded = (text: string) =>
  text.replace(/\\([0-7]{3})/g, (_, digits: string) => String.fromCharCode(Number.parseInt(digits, 8)));
