// Two traces side by side: whether they can be compared, up to where, and what they are
// called. Both views and the page around them ask here, so all of them say the same.
import { align } from "./align.mjs";
import { visible } from "./look.mjs";
import { asBytes, parseTrace } from "./trace.mjs";

const SHARED = 0.5; // of the shorter text; with less in common, words are not compared

/** How two traces can be compared: { T, places, said }: how many tokens they share, where these
 * stand in each (null: at the beginning of both), and what to say about it, if anything.
 * Throws an Error of one sentence if they cannot be compared at all. */
export function pair(first, second) {
  for (const [size, name] of Object.entries({ L: "layers", E: "experts", K: "choices" }))
    if (first[size] !== second[size])
      throw new Error(`the two traces differ in ${name}: ${first[size]} and ${second[size]}.`);
  const most = Math.min(first.T, second.T);
  const [key] = ["tokenIds", "tokens"].filter((each) => known(first, each) && known(second, each));
  if (!key) {
    const why = "a trace without token ids cannot tell whether both are of the same text";
    return { T: most, places: null, said: `Tokens are compared by their places: ${why}.` };
  }
  const places = align(first[key], second[key]);
  const different = places[0].findIndex((t, i) => t !== i || places[1][i] !== i);
  const T = different < 0 ? places[0].length : different;
  const common = places[0].length;
  if (different >= 0 && common >= SHARED * most) {
    const [here, there] = [first.T - common, second.T - common].map(count);
    const said = `Compared are the ${count(common)} tokens that both texts share, word by word; ` +
      `${here} of the first and ${there} of the second have no counterpart and are left out.`;
    return { T: common, places, said };
  }
  if (!T) throw new Error("the two texts begin with different tokens, and share too few.");
  const said = `Compared are the ${count(T)} tokens with which both texts begin`;
  if (T < most) return { T, places: null, said: `${said}; from there on they differ, and are left out.` };
  return { T, places: null, said: first.T === second.T ? "" : `${said}: one of them ends there.` };
}

const count = (n) => n.toLocaleString("en");

/** A trace without texts makes up names for its tokens, which say nothing about its text. */
const known = (trace, key) => (key === "tokens" ? trace.meta.tokens !== null : trace.tokenIds);

/** A model's trait `other` beside `first`: { other, T, said, places, names }. If there is none,
 * or one that does not fit, `other` is null and `said` is the reason. */
export function beside(model, first) {
  const bytes = model.get("other");
  const alone = { other: null, T: first.T, said: "", places: null, names: [] };
  if (!bytes || !asBytes(bytes).length) return alone;
  try {
    const other = parseTrace(bytes);
    return { other, ...pair(first, other), names: namesOf(model, first, other) };
  } catch (error) {
    return { ...alone, said: `The second trace is not shown: ${error.message}` };
  }
}

/** The same for a memory, which reads every token of both: at(t) is where token t of the first
 * stands in the second, or -1; until(t) how many of the second's tokens the first t need. */
export function besideMemory(model, first) {
  const found = beside(model, first);
  const { T, places, other } = found;
  const where = new Int32Array(first.T).fill(-1);
  for (let i = 0; other && i < T; i++) where[places ? places[0][i] : i] = places ? places[1][i] : i;
  const until = (to) => where.subarray(0, to).reduce((most, at) => Math.max(most, at + 1), 0);
  return { ...found, at: (t) => where[t], until };
}

/** `model` as a view of shared tokens alone sees it: `token` and `selected` count these, while
 * the model keeps the first text's own, so that all views speak of the same word. */
export function countingShared(model, places) {
  const shared = (t) => {
    const found = places.findIndex((place) => place >= t); // or else the word after it
    return !(t >= 0) ? t : found < 0 ? places.length - 1 : found;
  };
  const moved = (name, value, to) => {
    if (name === "token") return value == null ? value : to(value);
    if (name !== "selected" || !value) return value;
    const { token, tokens } = value;
    if (token !== undefined) return { token: to(token) };
    return tokens?.length === 2 ? { tokens: [to(tokens[0]), to(tokens[1] - 1) + 1] } : value;
  };
  return {
    get: (name) => moved(name, model.get(name), shared),
    set: (name, value) => model.set(name, moved(name, value, (t) => places[t])),
    save_changes: () => model.save_changes(),
    on: (event, run) => model.on(event, run),
    off: (event, run) => model.off(event, run),
  };
}

/** What two traces are called, as parts of a sentence: by the model's trait `names`, else
 * by their models where these differ, else by their order. */
function namesOf(model, first, second) {
  const told = model.get("names") ?? [];
  const given = told[0] === told[1] ? [] : told; // a file beside itself
  const own = [first, second].map((trace) => trace?.meta.model);
  return ["the first trace", "the second trace"].map((plain, i) => {
    const name = given[i] || (own[0] !== own[1] && own[i]) || "";
    return name ? { text: visible([...name].slice(0, 60).join("")) } : plain;
  });
}

const EACH = {
  expertIds: ({ L, K }) => L * K, expertWeights: ({ L, K }) => L * K, routerMargin: ({ L }) => L,
  routerEntropy: ({ L }) => L, sharedGate: ({ L }) => L, runnerUp: ({ L }) => L, tokenIds: () => 1,
};

/** Adds to a trace, in place, what `more`, which begins at token `from`, has beyond its end.
 * False if it leaves a gap, or contradicts what both have. */
export function extend(trace, more, from) {
  const both = trace.T - from;
  if (both < 0 || both > more.T || ["L", "E", "K"].some((size) => trace[size] !== more[size])) return false;
  const parts = Object.entries(EACH).map(([key, each]) => [key, each(trace)]);
  for (const [key, n] of parts) {
    if (!trace[key] !== !more[key]) return false;
    for (let i = 0; trace[key] && i < both * n; i++)
      if (trace[key][from * n + i] !== more[key][i]) return false;
  }
  trace.tokens.splice(from, Infinity, ...more.tokens); // the last one may be whole now
  for (const [key, n] of parts) {
    if (!trace[key]) continue;
    const grown = new trace[key].constructor((from + more.T) * n);
    grown.set(trace[key].subarray(0, trace.T * n));
    grown.set(more[key].subarray(both * n, more.T * n), trace.T * n);
    trace[key] = grown;
  }
  trace.T = from + more.T;
  return true;
}

/** The trace with T of its tokens only: those at `places`, or else the first. Pictures that
 * are not complete among them are left out. */
export function onlyTokens(trace, T, places) {
  const cut = (values, each) => {
    if (!values || !places) return values && values.subarray(0, T * each);
    const made = new values.constructor(T * each);
    places.forEach((t, i) => made.set(values.subarray(t * each, (t + 1) * each), i * each));
    return made;
  };
  const at = (t) => (places ? places.indexOf(t) : t < T ? t : -1);
  const { pictures = [], prompt_length: prompt, labels } = trace.meta;
  const inside = pictures
    .map((p, i) => ({ ...p, name: `picture.${i}`, start: at(p.start), end: at(p.start + p.rows * p.columns - 1) }))
    .filter(({ start, end, rows, columns }) => start >= 0 && end === start + rows * columns - 1);
  const read = places && prompt !== null ? places.filter((t) => t < prompt).length : prompt;
  return {
    ...trace, T,
    ...Object.fromEntries(Object.entries(EACH).map(([key, each]) => [key, cut(trace[key], each(trace))])),
    tokens: places ? Array.from(places, (t) => trace.tokens[t]) : trace.tokens.slice(0, T),
    meta: {
      ...trace.meta, pictures: inside, prompt_length: read,
      labels: labels && places ? { ...labels, of: Array.from(places, (t) => labels.of[t]) } : labels,
    },
  };
}
