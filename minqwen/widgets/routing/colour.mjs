// What a cell's colour means: what the reader chose, or what suits the selection. Here are
// the lit cells with their shades, and the legend that states unit and range.
import { choices, countOnly } from "./data.mjs";
import { PARTICULAR, kindOf, weightShade, weightTop } from "./reading.mjs";
import { KINDS, percent } from "./words.mjs";

/** What a reader may choose, by name; `of` says for which traces. */
export const COLOURS = {
  weight: { label: "weight", of: ({ weighed }) => weighed },
  rank: { label: "rank", of: ({ weighed }) => !weighed },
  load: { label: "share of tokens", of: () => true },
  lift: { label: "times the usual", of: () => true },
  kind: { label: "kind of token", of: ({ kinds }) => kinds },
  margin: { label: "margin", of: ({ trace, other }) => trace.routerMargin && (!other || other.routerMargin) },
  differ: { label: "difference", of: ({ other }) => other },
};

/** What the colour means now: one of COLOURS. */
export function colourOf(reading, { colour, order, selected }) {
  if (colour && COLOURS[colour].of(reading)) return colour;
  if (reading.other) return "differ";
  return order === "by specialisation" ? "kind" : fitting(reading, selected);
}

/** What says most of a selection. */
export function fitting({ weighed }, selected) {
  const kind = kindOf(selected);
  if (kind === "token") return weighed ? "weight" : "rank";
  return kind === "expert" || kind === "tokens" ? "load" : "lift";
}

/** A multiple of what is usual as a shade: from a quarter of it to `top` times. */
const liftShade = (lift, top) =>
  Math.min(1, Math.max(0, (Math.log2(lift) + 2) / (Math.log2(top) + 2)));

/** The largest multiple that has a shade of its own, at most 16. */
const topLift = ({ K, E }) => 2 ** Math.min(4, Math.max(1, Math.floor(Math.log2(E / K))));

/** A share as a shade, from none to `top`. */
const loadShade = (share, top) => 0.06 + (0.94 * share) / top;

/**
 * The lit cells of the map: a list of { layer, expert, shade 0..1, half, differs, kind }.
 * half 0 is the whole cell; with two traces the upper half (1) is the first one's and
 * the lower (2) the second's. differs: the share of the cell's choices that only its own
 * trace made, 0 where the two agree or are not compared. kind: the kind of token whose colour
 * is used, KINDS.length for none in particular, or null for the usual colours.
 */
export function cellsOf(reading, selected, colour) {
  const { trace, other, second } = reading;
  const upper = lit(reading, reading, second, selected, colour, other ? 1 : 0);
  return other ? [...upper, ...lit(reading, second, reading, selected, colour, 2)] : upper;
}

/** Of one trace, `own`; positions are of the selection in `reading`, the first. */
function lit(reading, own, against, selected, colour, half) {
  const positions = reading.selectedTokens(selected);
  const compared = colour === "differ" ? against : null;
  const means = compared ? fitting(reading, selected) : colour;
  const tone = TONES[means](reading, own, selected, positions);
  if (kindOf(selected) === "token") return ofToken(own, compared, selected.token, half, tone);
  const { L, E, trace } = own;
  const counts = own.countsOf(positions);
  const only = compared && countOnly(trace, compared.trace, positions);
  const cells = [];
  for (let layer = 0; layer < L; layer++)
    for (let expert = 0; expert < E; expert++) {
      const [cell, n] = [layer * E + expert, counts[layer * E + expert]];
      if (!n && means !== "kind") continue;
      const differs = only && n ? only[cell] / n : 0;
      const toned = tone(cell, n);
      if (toned) cells.push({ layer, expert, half, differs, kind: null, ...toned });
    }
  return cells;
}

function ofToken(own, compared, token, half, tone) {
  const { L, E, trace } = own;
  const lit = [];
  for (let layer = 0; layer < L; layer++) {
    const theirs = compared?.choices(token, layer).map((c) => c.expert);
    choices(trace, token, layer).forEach(({ expert, weight }, k) => {
      const differs = Number(Boolean(theirs) && !theirs.includes(expert));
      lit.push({ layer, expert, half, differs, kind: null, ...tone(layer * E + expert, 1, k, weight) });
    });
  }
  if (!tone.all) return lit;
  const mine = new Uint8Array(L * E);
  for (const { layer, expert } of lit) mine[layer * E + expert] = 1;
  return [...faintOf(own, half, tone).filter((c) => !mine[c.layer * E + c.expert]), ...lit];
}

const faint = new WeakMap(); // a text's counts -> all cells that it chose

/** All that a text chose, as faint cells: the same for each of its tokens. */
function faintOf(own, half, tone) {
  const counts = own.counts();
  if (!faint.has(counts)) {
    const cells = [...counts.keys()].filter((cell) => counts[cell]);
    faint.set(counts, cells.map((cell) =>
      ({ ...own.place(cell), half, differs: 0, ...tone(cell, 0) })));
  }
  return faint.get(counts);
}

// For each meaning, a function that is given (reading, own, selected, positions) and returns
// another: (cell, how many positions chose it, rank and weight of a single token) -> look.
const TONES = {
  weight({ K }, own, selected, positions) {
    const sums = kindOf(selected) === "token" ? null : sumOver(own, positions, (at) => own.trace.expertWeights[at] / 255);
    return (cell, n, k, weight) => ({ shade: weightShade(sums ? sums[cell] / n : weight, K) });
  },
  rank({ K }, own, selected, positions) {
    const shade = (k) => 1 - (0.85 * k) / Math.max(1, K - 1);
    const sums = kindOf(selected) === "token" ? null : sumOver(own, positions, (at) => at % K);
    return (cell, n, k) => ({ shade: shade(sums ? sums[cell] / n : k) });
  },
  load(reading, own, selected, positions) {
    const top = topLoad(reading, selected, positions);
    if (kindOf(selected) !== "token") return (cell, n) => ({ shade: loadShade(n / positions.length, top) });
    const all = own.counts();
    return (cell) => ({ shade: loadShade(all[cell] / reading.T, top) });
  },
  lift(reading, own, selected, positions) {
    const [all, top] = [own.counts(), topLift(reading)];
    if (!isPart(selected)) return (cell) => ({ shade: liftShade(own.timesEven(all[cell]), top) });
    return (cell, n) => ({ shade: liftShade((n / positions.length) / (all[cell] / reading.T), top) });
  },
  kind(reading, own) {
    const [{ bits, leading }, all] = [own.special(), own.counts()];
    // All that the text chose are drawn faintly, so that bands of kinds are seen around the lit.
    const tone = (cell, n) => all[cell] && {
      shade: n ? 1 : 0.22,
      kind: bits[cell] < PARTICULAR ? KINDS.length : leading[cell],
    };
    return Object.assign(tone, { all: true });
  },
  margin(reading, own, selected, positions) {
    const { L, K, E } = reading;
    const { routerMargin } = own.trace;
    const top = reading.topMargin();
    const shade = (margin) => 0.06 + 0.94 * Math.max(0, 1 - margin / top);
    if (kindOf(selected) === "token")
      return (cell) => ({ shade: shade(routerMargin[selected.token * L + Math.floor(cell / E)]) });
    const sums = sumOver(own, positions, (at) => routerMargin[Math.floor(at / K)]);
    return (cell, n) => ({ shade: shade(sums[cell] / n) });
  },
};

/** Whether a selection's tokens are fewer than all, so that the whole is something else. */
const isPart = (selected) => ["tokens", "expert"].includes(kindOf(selected));

/** The largest share of the tokens in question that chose any one expert. */
function topLoad(reading, selected, positions) {
  const alone = kindOf(selected) === "token";
  const [counts, n] = alone ? [reading.counts(), reading.T] : [reading.countsOf(positions), positions.length];
  return counts.reduce((a, b) => Math.max(a, b), 0) / n || 1;
}

/** Sums [L * E] over the choices of `positions` of value(place of the choice). */
function sumOver({ trace }, positions, value) {
  const { L, E, K, expertIds } = trace;
  const sums = new Float64Array(L * E);
  for (const t of positions) {
    let at = t * L * K;
    for (let row = 0; row < L * E; row += E)
      for (let k = 0; k < K; k++, at++) sums[row + expertIds[at]] += value(at);
  }
  return sums;
}

/** What shades mean: { title, ticks: [[place in 0..1, label]] }, or { title, kinds }. */
export function legend(reading, selected, colour) {
  const { K } = reading;
  const [one, part] = [kindOf(selected) === "token", isPart(selected)];
  const means = colour === "differ" ? fitting(reading, selected) : colour;
  switch (means) {
    case "weight": {
      const top = weightTop(K);
      const even = K > 1 ? [[weightShade(1 / K, K), (1 / K).toFixed(2)]] : [];
      const end = [1, `${top.toFixed(2)}${top < 1 ? " +" : ""}`];
      return { title: `${one ? "weight" : "mean weight"}, of 1`, ticks: [[0, "0"], ...even, end] };
    }
    case "rank":
      return { title: one ? "rank" : "mean rank", ticks: [[0.15, "last"], [1, "first"]] };
    case "load": {
      const top = topLoad(reading, selected, reading.selectedTokens(selected));
      const ticks = [0, 0.5, 1].map((x) => [loadShade(x, 1), percent(x * top)]);
      return { title: `chosen for, of ${part ? "these" : "all"} tokens`, ticks };
    }
    case "lift": {
      const top = topLift(reading);
      const tick = (x, label) => [liftShade(x, top), label];
      const usual = part ? "its share of the text" : "an even share";
      return { title: `times ${usual}`, ticks: [tick(0.25, "¼"), tick(1, "1"), tick(top, `${top} +`)] };
    }
    case "kind": {
      const { bits, leading } = reading.special();
      const found = new Set([...bits.keys()].filter((cell) => bits[cell] >= PARTICULAR).map((cell) => leading[cell]));
      const names = [...reading.kindNames.entries()].filter(([kind]) => found.has(kind));
      return { title: "reads most, more than others do:", kinds: [...names, [KINDS.length, "no kind"]] };
    }
    default: {
      const top = reading.topMargin();
      const ticks = [[0.06, `${top.toFixed(2)} +`], [0.53, (top / 2).toFixed(2)], [1, "0, close"]];
      return { title: `${one ? "" : "mean "}margin in logits`, ticks };
    }
  }
}
