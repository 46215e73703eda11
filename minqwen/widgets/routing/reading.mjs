// A trace, or two, made ready to be looked at: what is lit, how brightly, and why.
//
// A selection is one of {token}, {tokens: [start, end]}, {layer}, {layer, expert} and {}
// for the whole trace. Each stands for a set of tokens, and the map always shows the
// same thing: what those tokens chose. What is costly is counted when first needed.
import {
  arrange,
  carriedOver,
  choices,
  chosenBy,
  coactivation,
  countChoices,
  countOnly,
  differences,
  overlap,
  range,
  specialisation,
  spread,
  typical,
} from "./data.mjs";
import { KINDS, kindsOf, namer } from "./words.mjs";

export const ORDERS = ["as numbered", "by load", "by specialisation"];

/** trace, other: results of parseTrace; `other` null, or of the same tokens. */
export function readRouting(trace, other) {
  const { T, L, K, E, tokens, meta } = trace;
  const pictures = meta.pictures ?? [];
  const kinds = kindsOf(tokens, pictures);
  const name = namer(tokens, pictures);
  const once = memo();
  const lately = memo(16);
  const everything = range(0, T);

  const reading = {
    trace,
    other,
    T,
    L,
    K,
    E,
    tokens,
    pictures,
    kinds,
    name,
    everything,
    counts: () => once("counts", () => countChoices(trace, everything)),
    special: () =>
      once("special", () => specialisation(trace, kinds, KINDS.length, reading.counts())),
    carried: () => once("carried", () => carriedOver(trace)),
    differ: () => once("differ", () => other && differences(trace, other)),
    together: (l) => lately(`together ${l}`, () => coactivation(trace, l, reading.counts())),
    spread: (l) => once(`spread ${l}`, () => spread(reading.counts(), l, E)),
    chosenBy: (l, e) => lately(`by ${l} ${e}`, () => chosenBy(trace, l, e)),
    order: (how) => once(`order ${how}`, () => arrange(L, E, scoreOf(reading, how))),
    typicalMargin: (l) =>
      once(`margin ${l}`, () => trace.routerMargin && typical(trace.routerMargin, l, L)),
    choices: (t, l) => choices(trace, t, l),
    choicesOfOther: (t, l) => choices(other, t, l),
    selectedTokens: (selected) => selectedTokens(reading, selected),
    cells: (selected) => cellsOf(reading, selected),
    tints: (selected, from, to) => tintsOf(reading, selected, from, to),
  };
  return reading;
}

/** Keeps what was counted; of a `most`, the latest, so that a long look fills no memory. */
function memo(most = Infinity) {
  const kept = new Map();
  return (key, make) => {
    const value = kept.has(key) ? kept.get(key) : make();
    kept.delete(key); // the one just asked for is the latest
    kept.set(key, value);
    if (kept.size > most) kept.delete(kept.keys().next().value);
    return value;
  };
}

function scoreOf(reading, how) {
  if (how === "by load") return reading.counts();
  return how === "by specialisation" ? reading.special().bits : null;
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
    return within(start, T) && within(end - 1, T) && start < end
      ? { tokens: [start, end] }
      : null;
  }
  if (layer === undefined) return {};
  if (!within(layer, L)) return null;
  if (expert === undefined) return { layer };
  return within(expert, E) ? { layer, expert } : null;
}

/** The positions a selection stands for: those of an expert are the tokens it read. */
function selectedTokens(reading, selected) {
  switch (kindOf(selected)) {
    case "token":
      return [selected.token];
    case "tokens":
      return range(...selected.tokens);
    case "expert":
      return reading.chosenBy(selected.layer, selected.expert).tokens;
    default:
      return reading.everything;
  }
}

// ---- how brightly

/** A weight's shade: 1/K, an even share, is a little over half; 3/K and more is full. */
export const weightShade = (weight, K) => Math.sqrt(Math.min(1, (weight * K) / 3));

/** A share of tokens as a shade: from a quarter of the even share K/E to `top` times it. */
function shareShade(share, K, E) {
  const top = topLift(K, E);
  const lift = Math.log2((share * E) / K);
  return Math.min(1, Math.max(0, (lift + 2) / (Math.log2(top) + 2)));
}

/** The largest multiple of the even share that is told apart, at most 16. */
const topLift = (K, E) => 2 ** Math.min(4, Math.max(1, Math.floor(Math.log2(E / K))));

/** A share of a few tokens as a shade: from none of them to all. */
const partShade = (share) => 0.06 + 0.94 * share;

/** What shades mean: { title, ticks: [[place in 0..1, label]] }. */
export function legend(reading, selected) {
  const { K, E, trace } = reading;
  if (kindOf(selected) === "token") {
    if (!trace.expertWeights)
      return {
        title: "rank",
        ticks: [
          [0.15, "last"],
          [1, "first"],
        ],
      };
    const even = weightShade(1 / K, K);
    const ticks = [
      [0, "0"],
      [even, (1 / K).toFixed(2)],
      [1, `${(3 / K).toFixed(2)} +`],
    ];
    return { title: "weight", ticks };
  }
  if (kindOf(selected) === "expert" || kindOf(selected) === "tokens")
    return {
      title: "chosen for",
      ticks: [
        [0.06, "none"],
        [0.53, "half"],
        [1, "all of them"],
      ],
    };
  const top = topLift(K, E);
  const place = (lift) => shareShade((lift * K) / E, K, E);
  const ticks = [
    [place(0.25), "¼×"],
    [place(1), "even share"],
    [1, `${top}×`],
  ];
  return { title: "chosen", ticks };
}

// ---- what is lit

/**
 * The lit cells of the map: a list of { layer, expert, shade 0..1, half, side }.
 * half 0 is the whole cell; with two traces the upper half (1) is the first one's and
 * the lower (2) the second's. side is 1 where only the first made such a choice, 2
 * where only the second, 0 where they agree.
 */
function cellsOf(reading, selected) {
  const { trace, other } = reading;
  const make = kindOf(selected) === "token" ? ofToken : ofTokens;
  if (!other) return make(reading, trace, null, selected, 0);
  const upper = make(reading, trace, other, selected, 1);
  return [...upper, ...make(reading, other, trace, selected, 2)];
}

function ofToken({ L, K }, trace, against, { token }, half) {
  const cells = [];
  for (let layer = 0; layer < L; layer++) {
    const theirs = against && choices(against, token, layer).map((c) => c.expert);
    choices(trace, token, layer).forEach(({ expert, weight }, k) => {
      const byRank = 1 - (0.85 * k) / Math.max(1, K - 1);
      const shade = weight === null ? byRank : weightShade(weight, K);
      const side = theirs && !theirs.includes(expert) ? half : 0;
      cells.push({ layer, expert, shade, half, side });
    });
  }
  return cells;
}

function ofTokens(reading, trace, against, selected, half) {
  const { K, E, L } = reading;
  const positions = reading.selectedTokens(selected);
  const whole = positions === reading.everything && trace === reading.trace;
  const counts = whole ? reading.counts() : countChoices(trace, positions);
  const only = against && countOnly(trace, against, positions);
  const part = "expert" in selected || "tokens" in selected;
  const shadeOf = (share) => (part ? partShade(share) : shareShade(share, K, E));
  const cells = [];
  for (let layer = 0; layer < L; layer++)
    for (let expert = 0; expert < E; expert++) {
      const n = counts[layer * E + expert];
      if (!n) continue;
      const side = only?.[layer * E + expert] ? half : 0;
      cells.push({ layer, expert, shade: shadeOf(n / positions.length), half, side });
    }
  return cells;
}

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
    const means = weights
      ? "chose this expert; darker: with a larger weight"
      : "chose this expert";
    return {
      values: fill((t) => Math.max(weight.get(t) ?? 0, weight.has(t) ? 0.2 : 0)),
      means,
    };
  }
  const typical = kind === "layer" && reading.typicalMargin(selected.layer);
  if (!typical) return { values: null, means: "" };
  const margin = (t) => trace.routerMargin[t * L + selected.layer];
  return {
    values: fill((t) => Math.max(0, 1 - margin(t) / typical)),
    means: "how close this layer's choice was; no tint: a clearer choice than most",
  };
}

const DIFFERING = {
  token: "how many choices differ, over all layers",
  tokens: "how many choices differ, over all layers",
  all: "how many choices differ, over all layers",
  layer: "how many choices of this layer differ",
  expert: "only one of the two traces chose this expert",
};

function differing(reading, selected) {
  const { trace, other, K, L } = reading;
  const { layer, expert } = selected;
  const has = (which, t) => choices(which, t, layer).some((c) => c.expert === expert);
  if (expert !== undefined) return (t) => (has(trace, t) === has(other, t) ? 0 : 1);
  if (layer === undefined) {
    const { perToken } = reading.differ();
    return (t) => Math.sqrt(perToken[t] / (K * L));
  }
  return (t) => {
    const theirs = choices(other, t, layer).map((c) => c.expert);
    return choices(trace, t, layer).filter((c) => !theirs.includes(c.expert)).length / K;
  };
}
