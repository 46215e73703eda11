// The bars beside the map: one number for each layer, of the selected tokens.
import { countChoices, differences, spread } from "./data.mjs";
import { kindOf } from "./reading.mjs";
import { percent } from "./words.mjs";

/**
 * A list of { key, title, values [L], top, says(layer) }: `top` is a full bar's value.
 * Margins and gates are means over the selected tokens; a single token's own otherwise.
 */
export function sideColumns(reading, selected) {
  const { trace, L, E, everything } = reading;
  const one = kindOf(selected) === "token";
  const positions = reading.selectedTokens(selected);
  const columns = [];
  const add = (key, title, values, top, says) =>
    columns.push({ key, title, values, top, says: (l) => says(values[l]) });

  if (reading.other) {
    const values = differingShare(reading, positions);
    add("differ", "differ", values, Math.max(...values, 0.3), percent);
  }
  if (!one) {
    const counts = positions === everything ? reading.counts() : countChoices(trace, positions);
    const most = Math.log2(Math.min(E, Math.max(2, positions.length * reading.K)));
    const values = perLayer(L, (l) => spread(counts, l, E).bits);
    add("bits", "entropy", values, most, (v) => `${v.toFixed(2)} bits`);
  }
  if (trace.routerMargin) {
    const values = meanOver(trace.routerMargin, positions, L);
    const typical = perLayer(L, (l) => reading.typicalMargin(l) ?? 0);
    const top = 3 * (typical.reduce((a, b) => a + b, 0) / L) || 1;
    add("margin", "margin", values, top, (v) => v.toFixed(v < 0.1 ? 3 : 2));
  }
  if (trace.sharedGate) {
    const values = meanOver(trace.sharedGate, positions, L);
    add("shared", "shared", values, 1, (v) => v.toFixed(2));
  }
  return columns;
}

const perLayer = (L, value) => Float32Array.from({ length: L }, (_, l) => value(l));

function meanOver(values, positions, L) {
  const sums = new Float64Array(L);
  for (const t of positions) for (let l = 0; l < L; l++) sums[l] += values[t * L + l];
  return Float32Array.from(sums, (s) => s / Math.max(1, positions.length));
}

function differingShare(reading, positions) {
  const { trace, other, L, K, T } = reading;
  if (positions === reading.everything)
    return Float32Array.from(reading.differ().perLayer, (n) => n / (T * K));
  const part = (whole) => {
    const ids = new Uint16Array(positions.length * L * K);
    positions.forEach((t, i) => {
      ids.set(whole.expertIds.subarray(t * L * K, (t + 1) * L * K), i * L * K);
    });
    return { T: positions.length, L, K, expertIds: ids };
  };
  const { perLayer: counts } = differences(part(trace), part(other));
  return Float32Array.from(counts, (n) => n / Math.max(1, positions.length * K));
}
