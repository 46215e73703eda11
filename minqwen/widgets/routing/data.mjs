// What can be counted in a trace's choices. Everything here is pure: arrays in, arrays
// out, no page. T tokens, L layers, E experts, K choices; cell = layer * E + expert.

/** How often each cell was chosen [L * E] by `tokens`, rising positions; `flags` [T * L * K],
 * 0 or 1, says which choices count, if not all. A span costs no more than its two ends, since
 * the counts up to each are nearly known. */
export function countChoices(trace, tokens, flags = null) {
  const counts = new Uint32Array(trace.L * trace.E);
  const n = tokens.length;
  if (n < 64 || tokens[n - 1] - tokens[0] !== n - 1) return addChoices(trace, tokens, flags, counts);
  const before = countBefore(trace, tokens[0], flags);
  const all = countBefore(trace, tokens[n - 1] + 1, flags);
  for (let cell = 0; cell < counts.length; cell++) counts[cell] = all[cell] - before[cell];
  return counts;
}

function addChoices({ L, E, K, expertIds }, tokens, flags, counts, by = 1) {
  for (const t of tokens) {
    let at = t * L * K;
    for (let row = 0; row < L * E; row += E)
      for (let k = 0; k < K; k++, at++) counts[row + expertIds[at]] += flags ? by * flags[at] : by;
  }
  return counts;
}

const CHECKPOINTS = 48; // in a text; for 60 layers of 512 experts they take 6 MB
const sums = new WeakMap(); // flags or a trace's expertIds -> the counts before each checkpoint

/** Counts of all tokens before `end`, from the nearest checkpoint on or back. */
function countBefore(trace, end, flags) {
  const { T, L, E } = trace;
  const step = Math.max(1, Math.ceil(T / CHECKPOINTS));
  const key = flags ?? trace.expertIds; // another array when a trace has grown
  if (!sums.has(key)) {
    const all = [new Uint32Array(L * E)];
    for (let t = 0; t < T; t += step)
      all.push(addChoices(trace, range(t, Math.min(T, t + step)), flags, all.at(-1).slice()));
    sums.set(key, all);
  }
  const nearest = Math.min(Math.round(end / step), sums.get(key).length - 1);
  const from = Math.min(T, nearest * step);
  const counts = sums.get(key)[nearest].slice();
  if (from <= end) return addChoices(trace, range(from, end), flags, counts);
  return addChoices(trace, range(end, from), flags, counts, -1);
}

/** Positions from `start` up to, not including, `end`. */
export function range(start, end) {
  return Uint32Array.from({ length: Math.max(0, end - start) }, (_, i) => start + i);
}

/** Positions of the `most` largest values, largest first; among equals the earlier one. */
export function largest(values, most) {
  const best = [];
  for (let i = 0; i < values.length; i++) {
    if (best.length === most && !(values[i] > values[best[most - 1]])) continue;
    let at = best.length;
    while (at && values[i] > values[best[at - 1]]) at--;
    best.splice(at, 0, i);
    best.length = Math.min(most, best.length);
  }
  return best;
}

/** A token's choices in one layer, best first: [{expert, weight}], weight or null. */
export function choices(trace, token, layer) {
  const { L, K, expertIds, expertWeights } = trace;
  const at = (token * L + layer) * K;
  return Array.from({ length: K }, (_, k) => ({
    expert: expertIds[at + k],
    weight: expertWeights ? expertWeights[at + k] / 255 : null,
  }));
}

/** Who chose an expert: { tokens, ranks (from 0), weights (or null) }, in text order. */
export function chosenBy(trace, layer, expert) {
  const { T, L, K, expertIds, expertWeights } = trace;
  const [tokens, ranks, weights] = [[], [], []];
  for (let t = 0; t < T; t++) {
    const at = (t * L + layer) * K;
    for (let k = 0; k < K; k++) {
      if (expertIds[at + k] !== expert) continue;
      tokens.push(t);
      ranks.push(k);
      if (expertWeights) weights.push(expertWeights[at + k] / 255);
    }
  }
  return { tokens, ranks, weights: expertWeights ? weights : null };
}

/** How evenly one layer's counts are spread over its experts. */
export function spread(counts, layer, E) {
  const row = counts.subarray(layer * E, (layer + 1) * E);
  const total = row.reduce((a, b) => a + b, 0);
  let [bits, used, busiest] = [0, 0, 0];
  row.forEach((n, e) => {
    if (n) bits -= (n / total) * Math.log2(n / total);
    if (n) used++;
    if (n > row[busiest]) busiest = e;
  });
  // 2^bits: as many experts, used evenly, would have this entropy.
  return { bits, effective: 2 ** bits, used, busiest, peak: (row[busiest] / total) * E };
}

/** Share of its L * K choices that each token of [from, to) has in common with `token`. */
export function overlap(trace, token, from, to) {
  const { L, E, K, expertIds } = trace;
  const mine = new Uint8Array(L * E);
  const start = token * L * K;
  for (let i = 0; i < L * K; i++) mine[Math.floor(i / K) * E + expertIds[start + i]] = 1;
  const shares = new Float32Array(to - from);
  let at = from * L * K;
  for (let t = 0; t < shares.length; t++) {
    let common = 0;
    for (let row = 0; row < L * E; row += E)
      for (let k = 0; k < K; k++) common += mine[row + expertIds[at++]];
    shares[t] = common / (L * K);
  }
  return shares;
}

/** Mean share of a token's experts that the token before it had chosen as well. */
export function carriedOver(trace) {
  const { T, L, E, K, expertIds } = trace;
  const last = new Int32Array(L * E).fill(-2); // the last token that chose this cell
  let common = 0;
  for (let t = 0, at = 0; t < T; t++)
    for (let row = 0; row < L * E; row += E)
      for (let k = 0; k < K; k++) {
        const cell = row + expertIds[at++];
        if (last[cell] === t - 1) common++;
        last[cell] = t;
      }
  return T > 1 ? common / ((T - 1) * L * K) : 0;
}

/**
 * How far an expert's tokens differ in kind from all tokens, in bits, [L * E]: the
 * divergence of its mix of kinds from the trace's mix. Eight tokens of the common mix
 * are added to each expert, or one chosen once would look like a perfect specialist.
 */
export function specialisation(trace, kinds, kindCount, counts) {
  const { T, L, E, K, expertIds } = trace;
  const overall = new Float64Array(kindCount);
  const byKind = new Uint32Array(L * E * kindCount);
  for (let t = 0, at = 0; t < T; t++) {
    overall[kinds[t]] += 1 / T;
    for (let row = 0; row < L * E; row += E)
      for (let k = 0; k < K; k++) byKind[(row + expertIds[at++]) * kindCount + kinds[t]]++;
  }
  const bits = new Float32Array(L * E);
  const leading = new Uint8Array(L * E); // the kind that raises it most
  for (let cell = 0; cell < L * E; cell++) {
    let most = -Infinity;
    for (let kind = 0; kind < kindCount; kind++) {
      if (!overall[kind]) continue;
      const seen = byKind[cell * kindCount + kind] + 8 * overall[kind];
      const share = seen / (counts[cell] + 8);
      const part = share * Math.log2(share / overall[kind]);
      bits[cell] += part;
      if (part > most) [most, leading[cell]] = [part, kind];
    }
  }
  return { bits, leading, byKind, overall };
}

/** Where each expert stands: { columnOf, expertAt } [L * E]; by `score`, largest first. */
export function arrange(L, E, score) {
  const columnOf = new Uint16Array(L * E);
  const expertAt = new Uint16Array(L * E);
  for (let row = 0; row < L * E; row += E) {
    const experts = Array.from({ length: E }, (_, e) => e);
    if (score) experts.sort((a, b) => score[row + b] - score[row + a] || a - b);
    experts.forEach((e, column) => {
      columnOf[row + e] = column;
      expertAt[row + column] = e;
    });
  }
  return { columnOf, expertAt };
}

/** How often experts of one layer were chosen together, [E * E]. */
export function coactivation(trace, layer) {
  const { T, L, E, K, expertIds } = trace;
  const together = new Uint32Array(E * E);
  for (let t = 0; t < T; t++) {
    const at = (t * L + layer) * K;
    for (let i = 0; i < K; i++)
      for (let j = 0; j < K; j++) together[expertIds[at + i] * E + expertIds[at + j]]++;
  }
  return together;
}

/**
 * The `most` pairs of experts that exceed chance by most, each { a, b, times, lift, excess }.
 * `together` is the layer's coactivation, `counts` those of all layers; `only`, if given, is
 * in each pair.
 */
export function strongest(together, counts, layer, T, most, only = null) {
  const E = Math.sqrt(together.length);
  const load = counts.subarray(layer * E, (layer + 1) * E);
  const best = [];
  for (let a = 0; a < E; a++)
    for (let b = a + 1; b < E; b++) {
      if (only !== null && a !== only && b !== only) continue;
      const times = together[a * E + b];
      const chance = (load[a] * load[b]) / T;
      const excess = times - chance;
      if (!times || (best.length === most && excess <= best.at(-1).excess)) continue;
      best.push({ a, b, times, lift: times / chance, excess });
      best.sort((p, q) => q.excess - p.excess).splice(most);
    }
  return best;
}

const alone = new WeakMap(); // first -> second -> Uint8Array [T * L * K]

/** For each of first's choices, 1 if second did not make it there, else 0. */
function onlyFirst(first, second) {
  const { T, L, E, K } = first;
  if (!alone.has(first)) alone.set(first, new WeakMap());
  const kept = alone.get(first);
  if (kept.has(second)) return kept.get(second);
  const [mine, theirs] = [first.expertIds, second.expertIds];
  const flags = new Uint8Array(T * L * K);
  const seen = new Int32Array(E).fill(-1); // the last row in which second chose each
  for (let row = 0, at = 0; row < T * L; row++, at += K) {
    for (let j = at; j < at + K; j++) seen[theirs[j]] = row;
    for (let i = at; i < at + K; i++) flags[i] = seen[mine[i]] === row ? 0 : 1;
  }
  kept.set(second, flags);
  return flags;
}

/**
 * Where two traces of the same tokens choose differently. Returns perToken [T], perLayer
 * [L] and perRow [T * L]: numbers of experts the first chose and the second did not.
 */
export function differences(first, second) {
  const { T, L, K } = first;
  const flags = onlyFirst(first, second);
  const perToken = new Uint32Array(T);
  const perLayer = new Uint32Array(L);
  const perRow = new Uint8Array(T * L);
  for (let row = 0, at = 0; row < T * L; row++) {
    let n = 0;
    for (let k = 0; k < K; k++) n += flags[at++];
    perToken[Math.floor(row / L)] += n;
    perLayer[row % L] += n;
    perRow[row] = n;
  }
  const total = perToken.reduce((a, b) => a + b, 0);
  return { perToken, perLayer, perRow, total, share: total / (T * L * K) };
}

/** Counts [L * E] of choices that `first` made and `second` did not. */
export const countOnly = (first, second, tokens) =>
  countChoices(first, tokens, onlyFirst(first, second));

/** The median of column `layer` of [T, L], from an even sample of about 400. */
export function typical(values, layer, L) {
  const T = values.length / L;
  const step = Math.max(1, Math.floor(T / 400));
  const length = Math.ceil(T / step);
  const sample = Float32Array.from({ length }, (_, i) => values[i * step * L + layer]);
  return sample.sort()[sample.length >> 1];
}
