// Words: tokens whose every character can be seen, numbers in short, names of rows.

// Characters that leave no mark of their own, or that turn the text around them.
const UNSEEN = /[\p{Cc}\p{Cf}\p{Cs}\p{Co}\p{Cn}\p{Zl}\p{Zp}\p{Zs}\u034f\u115f\u1160\u2800\u3164\uffa0\ufe00-\ufe0f]/u;
const STAND_INS = { " ": "·", "\n": "↵", "\t": "→" };
const SUBSCRIPTS = "₀₁₂₃₄₅₆₇₈₉";
const ALL_ROWS = "all";

/** A text with a mark for each space, line end and tab, and the number of any other character that cannot be seen. */
function visible(text) {
  if (text === "") return "∅";
  let shown = "";
  for (const character of text) {
    const code = character.codePointAt(0).toString(16).toUpperCase().padStart(4, "0");
    shown += STAND_INS[character] ?? (UNSEEN.test(character) ? `U+${code}` : character);
  }
  return shown;
}

function shortened(text, length) {
  const characters = [...text];
  return characters.length <= length ? text : characters.slice(0, length - 1).join("") + "…";
}

const subscript = (number) => [...String(number)].map((digit) => SUBSCRIPTS[digit]).join("");

const repeatedTexts = new WeakMap();

/** Whether the text of token `t` stands elsewhere in the sentence too. */
function isRepeated(model, t) {
  if (!repeatedTexts.has(model)) {
    const counts = new Map();
    for (const { text } of model.tokens) counts.set(text, (counts.get(text) ?? 0) + 1);
    repeatedTexts.set(model, counts);
  }
  return repeatedTexts.get(model).get(model.tokens[t].text) > 1;
}

/** A token as canvases and sentences name it: its text, with its position where the text is there twice. */
function tokenName(model, t, length = 24) {
  return shortened(visible(model.tokens[t].text), length) + (isRepeated(model, t) ? subscript(t) : "");
}

/** The text of a vocabulary's entry. */
function entryName(model, id, length = 24) {
  const text = model.vocabulary[id];
  return text === undefined ? `entry ${id}` : shortened(visible(text), length);
}

/** A number in three digits, with a minus sign that is as wide as a plus. */
function short(value) {
  if (value === null || value === undefined || !Number.isFinite(value)) return "–";
  if (value === 0) return "0";
  const size = Math.abs(value);
  const sign = value < 0 ? "−" : "";
  if (size < 0.0001) return sign + size.toExponential(1).replace("-", "−");
  return sign + String(Number(size < 1 ? size.toFixed(size < 0.01 ? 5 : 3) : size.toPrecision(3)));
}

const signed = (value) => (value > 0 ? "+" : "") + short(value);

function percent(probability) {
  if (!Number.isFinite(probability)) return "–";
  if (probability > 0 && probability < 0.001) return "< 0.1%";
  return `${(100 * probability).toFixed(probability < 0.1 ? 1 : 0)}%`;
}

const rowKey = ({ set, head }) => `${set}.${head}`;

/** A row in words: "keys, head 2". */
function rowName(row) {
  return row.set ? `${row.set}, head ${row.head}` : `head ${row.head}`;
}

function keyName(key) {
  if (key === ALL_ROWS) return "all heads";
  const dot = key.lastIndexOf(".");
  return rowName({ set: key.slice(0, dot), head: key.slice(dot + 1) });
}

/** A head where the word stands before it: "keys 2", "2" or "all". */
function headOf(key) {
  return key === ALL_ROWS ? key : key.replace(/\.(\d+)$/, " $1").trim();
}

function ordinal(number) {
  const teen = number % 100 > 10 && number % 100 < 14;
  return number + (teen ? "th" : ["th", "st", "nd", "rd"][number % 10] ?? "th");
}

function meanOf(values) {
  const known = values.filter((value) => value !== null);
  return known.length ? known.reduce((sum, value) => sum + value, 0) / known.length : null;
}
