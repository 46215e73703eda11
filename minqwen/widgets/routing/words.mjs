// Tokens as a reader sees them: their kinds, and what those of an expert share.
import { quoted } from "../shared/look.mjs";

export const KINDS = [
  "picture patch", "special marker", "space or line end", "number", "word",
  "later part of a word", "punctuation", "part of a character",
];
const [PICTURE, MARKER, SPACE, NUMBER, WORD, REST, SIGN, BYTES] = KINDS.keys();
export const CONTENT = [NUMBER, WORD, REST]; // kinds that say something by themselves

/** Each token's kind, an index into KINDS: Uint8Array [T]. */
export function kindsOf(tokens, pictures) {
  const kinds = Uint8Array.from(tokens, (text, t) => kindOf(text, tokens[t - 1] ?? ""));
  for (const { start, rows, columns } of pictures)
    kinds.fill(PICTURE, start, start + rows * columns);
  return kinds;
}

function kindOf(text, before) {
  if (text === "" || text.includes("\ufffd")) return BYTES;
  if (isMarker(text)) return MARKER;
  if (/^\s+$/.test(text)) return SPACE;
  if (/^\s*\p{N}+$/u.test(text)) return NUMBER;
  if (!/^\s*[\p{L}\p{M}_]/u.test(text)) return SIGN;
  const begins = /^\s/.test(text) || !/[\p{L}\p{M}\p{N}_]$/u.test(before);
  return begins || isMarker(before) ? WORD : REST;
}

/** <|im_start|>, <think>, </tool_call>: written by a template, not by a person. */
export const isMarker = (text) => /^<(\|[^<>]+\||\/?[a-z_]{3,})>$/.test(text);

/** The most frequent texts of `chosen`: [{text, times, of}], `of` in the whole trace. */
export function commonTexts(tokens, chosen, skip, most = 6) {
  const count = (positions) => {
    const seen = new Map();
    for (const t of positions)
      if (!skip(t)) seen.set(tokens[t], (seen.get(tokens[t]) ?? 0) + 1);
    return seen;
  };
  const all = count(tokens.keys());
  return [...count(chosen)]
    .map(([text, times]) => ({ text, times, of: all.get(text) }))
    .sort((a, b) => b.times - a.times || a.of - b.of)
    .slice(0, most);
}

/** The mix of kinds among `chosen` beside the whole: [{kind, share, overall}]. */
export function mixOfKinds({ kinds, kindNames }, chosen) {
  const share = (positions, n) => {
    const mix = new Float64Array(KINDS.length);
    for (const t of positions) mix[kinds[t]] += 1 / n;
    return mix;
  };
  const here = share(chosen, chosen.length);
  const overall = share(kinds.keys(), kinds.length);
  return kindNames.map((kind, i) => ({ kind, share: here[i], overall: overall[i] }))
    .filter((row) => row.overall > 0)
    .sort((a, b) => b.share - a.share);
}

/** The text around a token: { before, token, after }, about `reach` characters a side. */
export function context(tokens, t, name, reach = 24) {
  let [before, after] = ["", ""];
  for (let i = t - 1; i >= 0 && before.length < reach; i--) before = name(i) + before;
  for (let i = t + 1; i < tokens.length && after.length < reach; i++) after += name(i);
  // Cut between whole characters, not inside a pair of surrogates.
  return {
    before: [...before].slice(-reach).join(""),
    token: name(t),
    after: [...after].slice(0, reach).join(""),
  };
}

/** What to call each token in a sentence: its text, or its place in a picture. */
export function namer(tokens, pictures) {
  const patches = new Map();
  pictures.forEach(({ kind, start, rows, columns }, i) => {
    for (let p = 0; p < rows * columns; p++) {
      const place = `row ${Math.floor(p / columns) + 1}, column ${(p % columns) + 1}`;
      const which = pictures.length > 1 ? `${kind} ${i + 1}` : kind;
      patches.set(start + p, { short: "▦", long: `patch of ${which}, ${place}` });
    }
  });
  return {
    short: (t) => patches.get(t)?.short ?? (quoted(tokens[t]) || "∅"),
    // A sentence's part: {text} is quoted and isolated from the sentence's direction.
    part: (t) => patches.get(t)?.long ?? { text: quoted(tokens[t]) || "∅" },
    isPatch: (t) => patches.has(t),
  };
}

/** What to say for a token that has nothing to read out, else null. */
export function spokenSpace(text) {
  if (text === "") return "part of a character";
  if (/\S/.test(text)) return null;
  return [["line end", /\n/g], ["tab", /\t/g], ["space", /[^\n\t]/g]]
    .map(([what, which]) => [what, (text.match(which) ?? []).length])
    .filter(([, n]) => n)
    .map(([what, n]) => (n === 1 ? what : `${n} ${what}s`)).join(", ");
}

/** A share as a per cent with as many digits as it deserves. */
export function percent(x) {
  const digits = x >= 0.0995 || x === 0 ? 0 : x >= 0.00995 ? 1 : 2;
  return `${(100 * x).toFixed(digits)} %`;
}

const GROUPED = new Intl.NumberFormat("en", { maximumFractionDigits: 0 });

/** 64000 -> "64,000". */
export const whole = (n) => GROUPED.format(n);
