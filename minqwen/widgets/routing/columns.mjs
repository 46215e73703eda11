// The bars beside the map: one number for each layer, of the selected tokens.
import { spread } from "./data.mjs";
import { kindOf } from "./reading.mjs";
import { percent } from "./words.mjs";

/**
 * A list of { key, title, values [L], top, label(value), says(layer) }: `top` is a full
 * bar's value, `label` a value in print, `says` a layer's with its unit.
 * Margins and gates are means over the selected tokens; a single token's own otherwise.
 */
export function sideColumns(reading, selected) {
  const { trace, L, E } = reading;
  const one = kindOf(selected) === "token";
  const positions = reading.selectedTokens(selected);
  const columns = [];
  const add = (key, title, values, top, label, unit = "") =>
    columns.push({ key, title, values, top, label, says: (l) => label(values[l]) + unit });
  const digits = (n) => (v) => v.toFixed(n);

  if (reading.other) {
    const { perRow } = reading.differ();
    const values = meanOver(perRow, positions, L).map((n) => n / reading.K);
    add("differ", "differ", values, Math.max(...values, 0.3), percent);
  }
  if (!one) {
    const counts = reading.countsOf(positions);
    const most = Math.log2(Math.min(E, Math.max(2, positions.length * reading.K)));
    const values = Float32Array.from({ length: L }, (_, l) => spread(counts, l, E).bits);
    add("bits", "entropy", values, most, digits(2), " bits");
  }
  if (trace.routerEntropy)
    add("router", "undecided", meanOver(trace.routerEntropy, positions, L), Math.log2(E), digits(2), " bits");
  if (trace.routerMargin) {
    const values = meanOver(trace.routerMargin, positions, L);
    add("margin", "margin", values, reading.topMargin(), (v) => v.toFixed(v < 0.1 ? 3 : 2));
  }
  if (trace.sharedGate)
    add("shared", "shared", meanOver(trace.sharedGate, positions, L), 1, digits(2));
  return columns;
}

/** What the map shows, as rows of numbers below their titles. */
export function numbersOf(reading, selected) {
  const one = kindOf(selected) === "token";
  const positions = reading.selectedTokens(selected);
  const rows = [["trace", "layer", "expert", ...(one ? ["rank", "weight"] : ["tokens", "of"])]];
  [reading, reading.second].filter(Boolean).forEach((own, i) => {
    const counts = own.countsOf(positions);
    for (let layer = 0; layer < reading.L; layer++)
      if (one)
        own.choices(selected.token, layer).forEach(({ expert, weight }, k) =>
          rows.push([i + 1, layer, expert, k + 1, weight?.toFixed(3) ?? ""]));
      else
        counts.subarray(layer * own.E, (layer + 1) * own.E).forEach((n, expert) =>
          n && rows.push([i + 1, layer, expert, n, positions.length]));
  });
  return rows;
}

function meanOver(values, positions, L) {
  const sums = new Float64Array(L);
  for (const t of positions) for (let l = 0; l < L; l++) sums[l] += values[t * L + l];
  return Float32Array.from(sums, (s) => s / Math.max(1, positions.length));
}
