// What is shown, as a short text: it stands after the # of a page's address, and is what
// `minqwen explore --select` takes. Parts are joined by commas:
//
//   layer=6,expert=9,token=12,order=by-load        tokens=3-20 (both included)        all
//   view=memory,head=4.3,token=12,probe=5,step=write      find=box      other      embed
//   ask=Who%20are%20you%3F,without=6.9   of a page with a model: what is typed there, and
//                   the expert, memory (6.m2) or, of 6 alone, mixer that is switched off
//   write=0.1.25    there, too: what head 1 of layer 0 writes at token 25 is deleted
//
// An address may come from anyone. What is not of its form here is left out; whether a
// number is one of the trace's is for the views to check, as they do for a notebook's.

const LONGEST = 2000; // characters; a longer address is none of ours
const FIND = 200; // characters of what is searched for

const number = {
  read: (text) => (/^\d{1,9}$/.test(text) ? Number(text) : undefined),
  write: String,
};
const span = {
  read(text) {
    const [, start, last] = /^(\d{1,9})-(\d{1,9})$/.exec(text) ?? [];
    return start && Number(start) <= Number(last) ? [Number(start), Number(last) + 1] : undefined;
  },
  write: ([start, end]) => `${start}-${end - 1}`,
};
const places = (form) => ({
  read: (text) => (form.test(text) ? text.split(".").map(Number) : undefined),
  write: (numbers) => numbers.join("."),
});
const place = places(/^\d{1,4}\.\d{1,4}$/);
const part = {
  read: (text) => (/^\d{1,4}(\.m?\d{1,4})?$/.test(text) ? text.split(".") : undefined),
  write: (parts) => parts.join("."),
};
const word = {
  read: (text) => (/^[a-z][a-z-]{0,39}$/.test(text) ? text.replaceAll("-", " ") : undefined),
  write: (text) => text.replaceAll(" ", "-"),
};
const free = {
  read(text) {
    try {
      return decodeURIComponent(text).slice(0, FIND) || undefined;
    } catch {
      return undefined;
    }
  },
  write: (text) => encodeURIComponent(text.toWellFormed()),
};
const flag = { read: (text) => (text === "" ? true : undefined), write: () => "" };

const KEYS = {
  view: word, layer: number, expert: number, tokens: span, all: flag, token: number,
  order: word, colour: word, head: place, probe: number, step: word, find: free,
  other: flag, embed: flag, ask: free, without: part, write: places(/^\d{1,4}\.\d{1,4}\.\d{1,9}$/),
};

/** An address's text as traits of the views, `selected` among them. */
export function readAddress(text) {
  const found = {};
  if (text.length > LONGEST) return found;
  for (const part of text.replace(/^[#?]/, "").split(/[,&]/)) {
    const [, key, value] = /^([a-z]+)=?(.*)$/s.exec(part) ?? [];
    if (!Object.hasOwn(KEYS, key ?? "")) continue;
    const read = KEYS[key].read(value);
    if (read !== undefined) found[key] = read;
  }
  const { layer, expert, tokens, all, ...traits } = found;
  if (layer !== undefined) traits.selected = expert === undefined ? { layer } : { layer, expert };
  else if (tokens) traits.selected = { tokens };
  else if (all) traits.selected = {};
  else if (traits.token !== undefined) traits.selected = { token: traits.token };
  return traits;
}

/** The text of these traits, as `readAddress` takes it; undefined, null, "" and false are
 * left out. */
export function writeAddress({ selected, ...traits }) {
  const whole = selected && !Object.keys(selected).length;
  const all = { ...traits, ...selected, all: whole };
  return Object.keys(KEYS)
    .filter((key) => all[key] || all[key] === 0)
    .map((key) => `${key}=${KEYS[key].write(all[key])}`.replace(/=$/, ""))
    .join(",");
}
