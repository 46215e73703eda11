// The arithmetic of MemoryBoard: two memories of n x n numbers, and how they came about.
//
// A pair is {key, value}, n numbers each. A write is {pair, key, value, beta, keep}: what
// was written, under which pair's number, how strongly, and what of the memory was kept.
// Plain float64 numbers: a reader's pencil has no float32 either.

export const SIZES = [2, 3, 4, 5, 6, 7, 8];
export const MOST_PAIRS = 16;

/** Pair i of a board of n: keys of length one by 3-4-5, values of small numbers. */
export function preset(i, n) {
  const key = Array(n).fill(0);
  const value = Array(n).fill(0);
  if (i === 0) key[0] = 1;
  else [key[(i - 1) % n], key[i % n]] = [0.6, 0.8];
  if (i === 0) [value[0], value[1]] = [2, 1];
  else [value[i % n], value[(i * i) % n]] = [5, i === 1 ? 5 : i % 4];
  return { key, value };
}

export const zeros = (n) => Array.from({ length: n }, () => Array(n).fill(0));

/** S^T x: the rows of S, each times its number of x, added up. */
export const read = (S, x) => S[0].map((_, j) => x.reduce((sum, xi, i) => sum + xi * S[i][j], 0));

export const minus = (a, b) => a.map((x, i) => x - b[i]);
export const times = (c, a) => a.map((x) => c * x);
export const size = (a) => Math.hypot(...a);

/** One write into a memory, "Hebbian" or "delta": {kept, known, error, after}. */
function writeInto(S, { key, value, beta, keep }, kind) {
  const kept = S.map((row) => times(keep, row));
  const known = read(kept, key);
  const error = times(beta, kind === "delta" ? minus(value, known) : value);
  const after = kept.map((row, i) => row.map((x, j) => x + key[i] * error[j]));
  return { kept, known, error, after };
}

/** Both memories after all writes, each with its last step: {memory, last}. */
export function replay(writes, n, kind) {
  let [memory, last] = [zeros(n), null];
  for (const write of writes) {
    last = writeInto(memory, write, kind);
    memory = last.after;
  }
  return { memory, last };
}

/** "0.6, 0.8" or "(0.6 0.8)" as n numbers; null if it is something else. */
export function parseVector(text, n) {
  const parts = text.replace(/[()[\];,]/g, " ").replaceAll("−", "-").trim().split(/\s+/);
  const numbers = parts.map(Number);
  const good = parts.length === n && numbers.every((x) => Number.isFinite(x) && Math.abs(x) <= 1e6);
  return good ? numbers : null;
}

/** A number as one would write it down: four digits, and 0 for what rounding left. */
export function plain(x) {
  if (Math.abs(x) < 1e-9) return "0";
  return String(+x.toPrecision(4)).replace("-", "−");
}

export const vector = (x) => `(${x.map((x) => plain(x)).join(", ")})`;

/** "0.6 × (2, 1) + 0.8 × (0, 0)": S^T x written out; zeros of x are left out. */
export function products(S, x) {
  const terms = x.flatMap((xi, i) => (xi ? [`${plain(xi)} × ${vector(S[i])}`] : []));
  return terms.join(" + ") || "0 × all rows";
}
