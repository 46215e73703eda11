// Two traces beside each other: whether they can be, as far as where, and what they are
// called. Both views and the page around them ask here, so all say the same.
import { visible } from "./look.mjs";
import { asBytes, parseTrace } from "./trace.mjs";

/** Number of tokens that two traces can be compared in, and what to say of it, if anything:
 * { T, said }. Throws an Error of one sentence where they cannot be compared at all. */
export function pair(first, second) {
  for (const [size, name] of Object.entries({ L: "layers", E: "experts", K: "choices" }))
    if (first[size] !== second[size])
      throw new Error(`the two traces differ in ${name}: ${first[size]} and ${second[size]}.`);
  const most = Math.min(first.T, second.T);
  const [key] = ["tokenIds", "tokens"].filter((each) => known(first, each) && known(second, each));
  let T = 0;
  while (key && T < most && first[key][T] === second[key][T]) T++;
  if (key && !T) throw new Error("the two traces begin with different tokens.");
  if (!key) {
    const why = "a trace without token ids cannot tell whether both are of the same text";
    return { T: most, said: `Tokens are compared by their places: ${why}.` };
  }
  const said = `Compared are the ${T.toLocaleString("en")} tokens with which both texts begin`;
  if (T < most) return { T, said: `${said}; from there on they differ, and are left out.` };
  return { T, said: first.T === second.T ? "" : `${said}: one of them ends there.` };
}

/** Names that a trace without texts gives its tokens itself say nothing of its text. */
const known = (trace, key) => (key === "tokens" ? trace.meta.tokens !== null : trace.tokenIds);

/** A model's trait `other` beside `first`: { other, T, said, names }. Where it holds none, or
 * one that does not fit, `other` is null, and `said` is why. */
export function beside(model, first) {
  const bytes = model.get("other");
  const alone = { other: null, T: first.T, said: "", names: [] };
  if (!bytes || !asBytes(bytes).length) return alone;
  try {
    const other = parseTrace(bytes);
    return { other, ...pair(first, other), names: namesOf(model, first, other) };
  } catch (error) {
    return { ...alone, said: `The second trace is not shown: ${error.message}` };
  }
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

/** Adds to a trace, in place, what `more` has beyond its end; `more` begins at token `from`.
 * False where it does not go on from there, or says other things of what both have. */
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

/** The same trace, ended after T tokens, for the views of what was chosen. */
export function firstTokens(trace, T) {
  const { L, K } = trace;
  const cut = (values, each) => values && values.subarray(0, T * each);
  const { pictures = [] } = trace.meta;
  const inside = pictures
    .map((p, i) => ({ ...p, name: `picture.${i}` }))
    .filter((p) => p.start + p.rows * p.columns <= T);
  const own = Object.fromEntries(
    ["routerMargin", "routerEntropy", "sharedGate", "runnerUp"].map((key) => [key, cut(trace[key], L)]));
  return {
    ...trace, ...own, T, tokens: trace.tokens.slice(0, T),
    meta: { ...trace.meta, pictures: inside },
    expertIds: cut(trace.expertIds, L * K), expertWeights: cut(trace.expertWeights, L * K),
  };
}
