// Text to ids and back by a tokenizer.json: byte-level BPE, as prompt/tokenizer.py has
// the library do it.

const utf8 = new TextEncoder();

/** json: the content of tokenizer.json. */
export class Tokenizer {
  constructor(json) {
    const { vocab, merges } = json.model;
    this.vocab = new Map(Object.entries(vocab));
    this.ranks = new Map(merges.map((pair, rank) => [pairOf(pair), rank]));
    this.added = new Map(json.added_tokens.map((token) => [token.content, token.id]));
    this.special = new Set(json.added_tokens.filter((t) => t.special).map((t) => t.id));
    const marks = [...this.added.keys()].sort((a, b) => b.length - a.length);
    this.marks = new RegExp(`(${marks.map(escaped).join("|")})`);
    const [{ pattern }] = json.pre_tokenizer.pretokenizers;
    this.words = new RegExp(inThisLanguage(pattern.Regex), "gu");
    this.letters = lettersOfBytes();
    const bytes = new Map(this.letters.map((letter, byte) => [letter, byte]));
    this.bytes = [];
    for (const [text, id] of this.vocab) {
      this.bytes[id] = Uint8Array.from(text, (letter) => bytes.get(letter));
    }
    for (const [text, id] of this.added) {
      this.bytes[id] = this.special.has(id) ? new Uint8Array() : utf8.encode(text);
    }
    this.known = new Map(); // word -> ids
  }

  encode(text) {
    const parts = text.split(this.marks);
    return parts.flatMap((part, i) => (i % 2 ? [this.added.get(part)] : this.plain(part)));
  }

  id(mark) {
    return this.added.get(mark);
  }

  plain(text) {
    return (text.normalize("NFC").match(this.words) ?? []).flatMap((word) => {
      if (!this.known.has(word)) this.known.set(word, this.merged(word));
      return this.known.get(word);
    });
  }

  /** The pair that was learned first is joined first. */
  merged(word) {
    const parts = Array.from(utf8.encode(word), (byte) => this.letters[byte]);
    for (;;) {
      let [best, at] = [Infinity, -1];
      for (let i = 0; i + 1 < parts.length; i++) {
        const rank = this.ranks.get(pairOf([parts[i], parts[i + 1]])) ?? Infinity;
        if (rank < best) [best, at] = [rank, i];
      }
      if (at < 0) return parts.map((part) => this.vocab.get(part));
      parts.splice(at, 2, parts[at] + parts[at + 1]);
    }
  }

  /** next(id) gives the text that a further token makes certain; special ones have none. */
  reader() {
    const decoder = new TextDecoder("utf-8", { ignoreBOM: true });
    return (id) => decoder.decode(this.bytes[id] ?? new Uint8Array(), { stream: true });
  }

  /** The texts of tokens, special ones under their names: joined they are the whole. */
  texts(ids) {
    const next = this.reader();
    const names = new Map([...this.added].map(([text, id]) => [id, text]));
    return ids.map((id) => (this.special.has(id) ? names.get(id) : next(id)));
  }
}

const pairOf = (pair) => (typeof pair === "string" ? pair : pair.join(" "));

const escaped = (text) => text.replace(/[.*+?^${}()|[\]\\]/g, "\\$&");

/** The pattern's `(?i:...)` and `\s` in JavaScript's words. */
function inThisLanguage(pattern) {
  const cases = (letter) => `[${letter}${letter.toUpperCase()}${letter === "s" ? "ſ" : ""}]`;
  return pattern
    .replace(/\(\?i:([^)]*)\)/, (_, body) => `(?:${body.replace(/[a-z]/g, cases)})`)
    .replaceAll("\\s", "\\p{White_Space}")
    .replaceAll("\\S", "\\P{White_Space}");
}

/** GPT-2's letters for the 256 bytes: printable ones stand for themselves. */
function lettersOfBytes() {
  let others = 0;
  return Array.from({ length: 256 }, (_, byte) => {
    const shown = (byte > 32 && byte < 127) || (byte > 160 && byte !== 173);
    return String.fromCodePoint(shown ? byte : 256 + others++);
  });
}
