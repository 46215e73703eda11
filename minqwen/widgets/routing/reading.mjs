// A trace, or two, made ready to be looked at: what is selected, counted, and tinted.
//
// A selection is one of {token}, {tokens: [start, end]}, {layer}, {layer, expert} and {}
// for the whole trace. Each stands for a set of tokens, and the map always shows the
// same thing: what those tokens chose. What is costly is counted when first needed.
import {
  arrange, carriedOver, choices, chosenBy, coactivation, countChoices, differences, overlap,
  range, specialisation, spread, strongest, typical,
} from "./data.mjs";
import { extend } from "../shared/pair.mjs";
import { visible } from "../shared/look.mjs";
import { KINDS, kindsOf, namer } from "./words.mjs";

export const ORDERS = ["as numbered", "by load", "by specialisation"];
export const PARTICULAR = 0.05; // bits: below, an expert reads what all read
export const CLOSE = 0.1; // logits: below, the next expert would weigh over 90 % as much

/** trace, other: results of parseTrace; `other` null, or of the same tokens; `names`: what
 * the two are called, `said`: what there is to say of how they fit, as pair.mjs gives them. */
export function readRouting(trace, other, names = [], said = "", labels = trace.meta.labels) {
  const { L, K, E, tokens, meta } = trace;
  const pictures = meta.pictures ?? [];
  // Nothing is claimed about an unknown text: its tokens are called by numbers.
  const known = () => {
    if (labels) return Uint8Array.from(labels.of.slice(0, trace.T));
    return meta.tokens ? kindsOf(tokens, pictures) : null;
  };
  const name = namer(tokens, pictures);
  const once = memo();
  const lately = memo(16);

  const reading = {
    trace, other, names, said, L, K, E, tokens, pictures, kinds: known(), name,
    get T() {
      return trace.T; // which grows while a model writes
    },
    get everything() {
      return once("everything", () => range(0, trace.T));
    },
    /** Adds what `more` has beyond the end; false where it is not the same text's. */
    grow(more, from) {
      if (other || !extend(trace, more, from)) return false;
      reading.kinds = known();
      for (const kept of [once, lately]) kept.clear();
      return true;
    },
    labels, kindNames: labels?.names.map(visible) ?? KINDS, // labels take the place of kinds
    second: other && readRouting(other, null, [], "", labels), // what is counted of the other by itself
    // One map cannot mix ranks and weights, so both traces need weights.
    weighed: Boolean(trace.expertWeights && (!other || other.expertWeights)),
    orders: labels || meta.tokens ? ORDERS : ORDERS.slice(0, 2),
    counts: () => once("counts", () => countChoices(trace, reading.everything)),
    countsOf: (positions) => (positions.length === trace.T ? reading.counts() : countChoices(trace, positions)),
    place: (cell) => ({ layer: Math.floor(cell / E), expert: cell % E }),
    timesEven: (n) => ((n / trace.T) * E) / K, // a count of tokens beside what an even choice gives
    special: () =>
      once("special", () =>
        reading.kinds && specialisation(trace, reading.kinds, KINDS.length, reading.counts())),
    carried: () => once("carried", () => carriedOver(trace)),
    differ: () => once("differ", () => other && differences(trace, other)),
    together: (l) => lately(`together ${l}`, () => coactivation(trace, l)),
    pairs: (l, most, only) => strongest(reading.together(l), reading.counts(), l, trace.T, most, only),
    spread: (l) => once(`spread ${l}`, () => spread(reading.counts(), l, E)),
    chosenBy: (l, e) => lately(`by ${l} ${e}`, () => chosenBy(trace, l, e)),
    order: (how) => once(`order ${how}`, () => arrange(L, E, scoreOf(reading, how))),
    typicalMargin: (l) =>
      once(`margin ${l}`, () => trace.routerMargin && typical(trace.routerMargin, l, L)),
    topMargin: () => 3 * mean([...range(0, L)].map(reading.typicalMargin)) || 1, // larger ones look alike
    choices: (t, l) => choices(trace, t, l),
    differIn: (positions) => differIn(reading, positions),
    times: (selected, l, e, by = reading) => timesChosen(reading, selected, by.chosenBy(l, e).tokens),
    selectedTokens: (selected) => selectedTokens(reading, selected),
    tints: (selected, from, to) => tintsOf(reading, selected, from, to),
  };
  return reading;
}

export const mean = (values) => values.reduce((a, b) => a + b, 0) / values.length;

/** Keeps what was counted: all of it, or the latest `most`, so that memory does not fill up. */
function memo(most = Infinity) {
  const kept = new Map();
  const get = (key, make) => {
    const value = kept.has(key) ? kept.get(key) : make();
    kept.delete(key); // the one just asked for is the latest
    kept.set(key, value);
    if (kept.size > most) kept.delete(kept.keys().next().value);
    return value;
  };
  get.clear = () => kept.clear();
  return get;
}

function scoreOf(reading, how) {
  if (how === "by load") return reading.counts();
  if (how !== "by specialisation") return null;
  const { bits, leading } = reading.special(); // kind by kind, and those of none last
  return bits.map((x, cell) => (x < PARTICULAR ? 0 : 100 * (KINDS.length - leading[cell])) + x);
}

/** "token", "tokens", "expert", "layer" or "all". */
export function kindOf(selected) {
  if ("token" in selected) return "token";
  if ("tokens" in selected) return "tokens";
  if ("expert" in selected) return "expert";
  return "layer" in selected ? "layer" : "all";
}

/** The selection with only its own keys, or null where it points outside the trace. */
export function checkSelection(selected, { T, L, E }) {
  const within = (n, end) => Number.isInteger(n) && n >= 0 && n < end;
  const { token, tokens, layer, expert } = selected ?? {};
  if (token !== undefined) return within(token, T) ? { token } : null;
  if (tokens !== undefined) {
    const [start, end] = Array.isArray(tokens) ? tokens : [];
    return within(start, T) && within(end - 1, T) && start < end ? { tokens: [start, end] } : null;
  }
  if (layer === undefined) return {};
  if (!within(layer, L)) return null;
  if (expert === undefined) return { layer };
  return within(expert, E) ? { layer, expert } : null;
}

/** The positions a selection stands for: those of an expert are the tokens it read. */
function selectedTokens(reading, selected) {
  switch (kindOf(selected)) {
    case "token": return [selected.token];
    case "tokens": return range(...selected.tokens);
    case "expert": return reading.chosenBy(selected.layer, selected.expert).tokens;
    default: return reading.everything;
  }
}

/** Which of an expert's tokens are among the selected. */
function timesChosen(reading, selected, tokens) {
  if (!("tokens" in selected || "expert" in selected)) return tokens;
  const mine = new Set(reading.selectedTokens(selected));
  return tokens.filter((t) => mine.has(t));
}

/** What the two traces do not share of these tokens' choices: { total, touched, share }. */
function differIn({ L, K, differ }, positions) {
  const { perToken } = differ();
  let [total, touched] = [0, 0];
  for (const t of positions) {
    total += perToken[t];
    touched += perToken[t] > 0;
  }
  return { total, touched, share: total / Math.max(1, positions.length * L * K) };
}

/** A weight's shade: by the square root, so that small ones are seen; full at 3/K or 1. */
export const weightShade = (weight, K) => Math.sqrt(Math.min(1, weight / weightTop(K)));
export const weightTop = (K) => Math.min(1, 3 / K);

// ---- how the text is coloured

/**
 * Tints of tokens [from, to): { values 0..1 or null, means }, `means` in words. With a
 * second trace the tint is always where the two differ.
 */
function tintsOf(reading, selected, from, to) {
  const { trace, other, K, E, L } = reading;
  const kind = kindOf(selected);
  const fill = (value) => Float32Array.from({ length: to - from }, (_, i) => value(from + i));
  if (other) return { values: fill(differing(reading, selected)), means: DIFFERING[kind] };
  if (kind === "token") {
    const shares = overlap(trace, selected.token, from, to);
    const chance = K / E;
    const values = shares.map((s) => Math.max(0, (s - chance) / (1 - chance)));
    return { values, means: "how many experts a token shares with the selected one" };
  }
  if (kind === "expert") {
    const weight = new Map();
    const { tokens, weights } = reading.chosenBy(selected.layer, selected.expert);
    tokens.forEach((t, i) => weight.set(t, weights ? weightShade(weights[i], K) : 1));
    const means = `chose this expert${weights ? "; darker: with a larger weight" : ""}`;
    return { values: fill((t) => (weight.has(t) ? Math.max(weight.get(t), 0.2) : 0)), means };
  }
  const typical = kind === "layer" && reading.typicalMargin(selected.layer);
  if (!typical) return { values: null, means: "" };
  const margin = (t) => trace.routerMargin[t * L + selected.layer];
  return {
    values: fill((t) => Math.max(0, 1 - margin(t) / typical)),
    means: `how close this layer's choice was; no tint: a margin above ${typical.toFixed(2)}, ` +
      "as half of its tokens have",
  };
}

const OVER_ALL = "how many choices differ, over all layers; half the tint is a quarter of them";
const DIFFERING = {
  token: OVER_ALL, tokens: OVER_ALL, all: OVER_ALL,
  layer: "how many choices of this layer differ",
  expert: "only one of the two traces chose this expert",
};

function differing(reading, selected) {
  const { K, L } = reading;
  const { layer, expert } = selected;
  if (expert !== undefined) {
    const [mine, theirs] = [reading, reading.second].map((by) => new Set(by.chosenBy(layer, expert).tokens));
    return (t) => Number(mine.has(t) !== theirs.has(t));
  }
  if (layer === undefined) {
    const { perToken } = reading.differ();
    return (t) => Math.sqrt(perToken[t] / (K * L));
  }
  const { perRow } = reading.differ();
  return (t) => perRow[t * L + layer] / K;
}
