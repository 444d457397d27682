/** Names that others chose (a mount point, a process) in what people read and in what they give to a shell. */

/** What has no shape of its own, or another than it seems: control characters, marks of direction, bytes of no text. */
const UNSEEN = /[\p{C}\ufffd]/gu;

/** Can it be written in a line for people to copy? */
export const isPlain = (text: string) => text.search(UNSEEN) === -1;

/** For people: what would move the cursor or turn the line around is shown as its number. */
export const shown = (text: string) =>
  text.replace(UNSEEN, (letter) => `\\u{${(letter.codePointAt(0) ?? 0).toString(16)}}`);

/** For a shell: one word, whatever is in it. */
export const quoted = (text: string) =>
  /^[\w@%+=:,./-]+$/.test(text) ? text : `'${text.replaceAll("'", "'\\''")}'`;

/** As the kernel writes names in its tables, where spaces part the columns: '\040' is a space. */
export const decoded = (text: string) =>
  text.replace(/\\([0-7]{3})/g, (_, digits: string) => String.fromCharCode(Number.parseInt(digits, 8)));
