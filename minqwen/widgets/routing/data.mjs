// What can be counted in a trace's choices. Everything here is pure: arrays in, arrays
// out, no page. T tokens, L layers, E experts, K choices; cell = layer * E + expert.

/** Numbers of choices [L * E] made by `tokens` (a list or typed array of positions). */
export function countChoices(trace, tokens) {
  const { L, E, K, expertIds } = trace;
  const counts = new Uint32Array(L * E);
  for (const t of tokens) {
    let at = t * L * K;
    for (let row = 0; row < L * E; row += E)
      for (let k = 0; k < K; k++) counts[row + expertIds[at++]]++;
  }
  return counts;
}

/** Positions 0 ... n-1, or from `start` up to `end`. */
export function range(start, end) {
  return Uint32Array.from({ length: Math.max(0, end - start) }, (_, i) => start + i);
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

/**
 * Experts of one layer that are chosen together. Returns { together [E * E], pairs }:
 * the pairs that exceed chance by most, each { a, b, times, lift }.
 */
export function coactivation(trace, layer, counts) {
  const { T, L, E, K, expertIds } = trace;
  const together = new Uint32Array(E * E);
  for (let t = 0; t < T; t++) {
    const at = (t * L + layer) * K;
    for (let i = 0; i < K; i++)
      for (let j = 0; j < K; j++) together[expertIds[at + i] * E + expertIds[at + j]]++;
  }
  const pairs = [];
  for (let a = 0; a < E; a++)
    for (let b = a + 1; b < E; b++) {
      const times = together[a * E + b];
      if (!times) continue;
      const chance = (counts[layer * E + a] * counts[layer * E + b]) / T;
      pairs.push({ a, b, times, lift: times / chance, excess: times - chance });
    }
  pairs.sort((p, q) => q.excess - p.excess);
  return { together, pairs };
}

/**
 * Where two traces of the same tokens choose differently. Returns perToken [T], perLayer
 * [L] and perRow [T * L]: numbers of experts the first chose and the second did not.
 */
export function differences(first, second) {
  const { T, L, K } = first;
  const perToken = new Uint32Array(T);
  const perLayer = new Uint32Array(L);
  const perRow = new Uint8Array(T * L);
  for (let t = 0; t < T; t++)
    for (let l = 0; l < L; l++) {
      const n = K - inBoth(first, second, t, l);
      perToken[t] += n;
      perLayer[l] += n;
      perRow[t * L + l] = n;
    }
  const total = perToken.reduce((a, b) => a + b, 0);
  return { perToken, perLayer, perRow, total, share: total / (T * L * K) };
}

function inBoth(first, second, token, layer) {
  const { L, K } = first;
  const at = (token * L + layer) * K;
  let n = 0;
  for (let i = at; i < at + K; i++)
    for (let j = at; j < at + K; j++) n += first.expertIds[i] === second.expertIds[j];
  return n;
}

/** Counts [L * E] of choices that `first` made and `second` did not. */
export function countOnly(first, second, tokens) {
  const { L, E, K, expertIds } = first;
  const only = new Uint32Array(L * E);
  for (const t of tokens)
    for (let l = 0; l < L; l++) {
      const at = (t * L + l) * K;
      for (let i = at; i < at + K; i++) {
        let met = false;
        for (let j = at; j < at + K; j++) met ||= second.expertIds[j] === expertIds[i];
        if (!met) only[l * E + expertIds[i]]++;
      }
    }
  return only;
}

/** The middle value of column `layer` of [T, L], from an even sample of about 400. */
export function typical(values, layer, L) {
  const T = values.length / L;
  const step = Math.max(1, Math.floor(T / 400));
  const sample = Float32Array.from(
    { length: Math.ceil(T / step) },
    (_, i) => values[i * step * L + layer],
  );
  return sample.sort()[sample.length >> 1];
}
