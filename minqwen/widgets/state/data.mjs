// What StateExplorer draws, computed from a trace's recorded heads. No DOM in here.

import {
  Replay, dot, halfLife, norm, retention, softmaxWeights, valueWeights, writeWeights,
} from "./delta.mjs";

const WINDOW = 160; // tokens on a map's side: at 2 pixels each it fits a column
export const STEPS = ["forget", "ask", "compare", "write", "answer"];

/** The recorded heads of a kind, "delta" or "attention": [{layer, head}] in order. */
export function recordedHeads(trace, kind) {
  const found = trace.names.map((name) => /^(\w+)\.(\d+)\.(\d+)\.k$/.exec(name));
  return found
    .filter((match) => match?.[1] === kind)
    .map(([, , layer, head]) => ({ layer: +layer, head: +head }))
    .sort((a, b) => a.layer - b.layer || a.head - b.head);
}

/** All a trace holds of one head, with T, K and (a delta head) V. */
export function loadHead(trace, kind, { layer, head }) {
  const loaded = { layer, head, T: trace.T };
  for (const part of ["q", "k", "v", "g", "beta", "start"]) {
    const name = `${kind}.${layer}.${head}.${part}`;
    if (trace.has(name)) loaded[part] = trace.tensor(name).data;
  }
  loaded.K = loaded.k.length / loaded.T;
  if (loaded.v) loaded.V = loaded.v.length / loaded.T;
  return loaded;
}

/**
 * Norm of the state (mean over the tokens), the token after which it is fullest, and
 * half-life of every head that the trace tells it of: [{layer, head, norm, fullest,
 * halfLife, recorded}].
 */
export function overview(trace) {
  const recorded = recordedHeads(trace, "delta");
  if (!trace.has("state_norm") || !trace.has("state_decay"))
    return recorded.map((place) => ({ ...place, ...summary(trace, place), recorded: true }));
  const norms = trace.tensor("state_norm");
  const [T, layers, heads] = norms.shape;
  const decays = trace.tensor("state_decay").data;
  const numbers = trace.layerTypes.flatMap((kind, n) => (kind === "linear_attention" ? [n] : []));
  const held = new Set(recorded.map(({ layer, head }) => `${layer}.${head}`));
  return Array.from({ length: layers * heads }, (_, place) => {
    const [layer, head] = [numbers[Math.floor(place / heads)], place % heads];
    const column = (x) => Float64Array.from({ length: T }, (_, t) => x[t * layers * heads + place]);
    const recorded = held.has(`${layer}.${head}`);
    return { layer, head, ...filling(column(norms.data)), halfLife: halfLife(column(decays)), recorded };
  });
}

function summary(trace, place) {
  const head = loadHead(trace, "delta", place);
  const replay = new Replay(head, Infinity);
  replay.advance();
  return { ...filling(replay.norms), halfLife: halfLife(head.g) };
}

/** Of the state's norms after each token: their mean, and where the largest is first. */
function filling(norms) {
  const sum = norms.reduce((a, b) => a + b, 0);
  return { norm: sum / norms.length, fullest: norms.indexOf(peak(norms)) };
}

/** The window [from, to) of a map that shows token t; it moves by half its width. */
export function windowAt(t, T, width = WINDOW) {
  const half = Math.floor(width / 2);
  const from = Math.max(0, Math.min(T - width, (Math.floor(t / half) - 1) * half));
  return [from, Math.min(T, from + width)];
}

/**
 * A square of numbers over the window's tokens, at[j - from][t - from], filled a line
 * at a time so that a long trace never blocks the page. NaN where t < j: not yet there.
 */
export class Square {
  constructor([from, to], line, along) {
    Object.assign(this, { from, to, line, along, next: from });
    this.side = to - from;
    this.values = new Float32Array(this.side * this.side).fill(NaN);
  }

  get done() {
    return this.next >= this.to;
  }

  /** Fill lines for `budget` milliseconds; true if any was. */
  advance(budget = Infinity) {
    const stop = performance.now() + budget;
    const before = this.next;
    while (!this.done && (this.next === before || performance.now() < stop)) {
      const n = this.next++;
      const [line, start] = this.line(n);
      for (let i = Math.max(0, this.from - start); i < line.length; i++) {
        const other = start + i - this.from;
        if (other >= this.side) break;
        const [j, t] = this.along === "t" ? [n - this.from, other] : [other, n - this.from];
        this.values[j * this.side + t] = line[i];
      }
    }
    return this.next > before;
  }

  at(j, t) {
    return this.values[(j - this.from) * this.side + (t - this.from)];
  }
}

/** How much of its value each token's key returns, at every later token. */
export const retentionSquare = (replay, window) =>
  new Square(window, (j) => [retention(replay, j, window[1]).share, j], "t");

/** The delta head's weights as shares of the answer, over values or over writes. */
export const deltaSquare = (replay, window, kind) =>
  new Square(window, (t) => [deltaShares(replay, t, kind), 0], "j");

export const attentionSquare = (head, window) =>
  new Square(window, (t) => [softmaxWeights(head, t), 0], "j");

/**
 * Weights of token t's output, signed, sizes adding up to 1.
 * "values": w_tj, comparable with attention's. "writes": a_tj times the length of e_j.
 */
export function deltaShares(replay, t, kind) {
  const { head, errorNorms } = replay;
  if (kind === "values") return shares(valueWeights(head, t));
  if (replay.done <= t) replay.advance(t + 1);
  const weights = writeWeights(head, t);
  return shares(weights.map((a, j) => a * errorNorms[j]));
}

function shares(weights) {
  const total = weights.reduce((sum, w) => sum + Math.abs(w), 0);
  return total ? weights.map((w) => w / total) : weights;
}

/** Tokens before the window matter too: index and weight of the largest, by size. */
export function largest(weights) {
  let best = 0;
  for (let j = 1; j < weights.length; j++) {
    if (Math.abs(weights[j]) > Math.abs(weights[best])) best = j;
  }
  return [best, weights[best]];
}

/**
 * The matrix a step is about, [K, V], and what it means:
 * what fades, each row times the key's number, the write, each row times the query's.
 */
export function stepMatrix(parts, step, K, V) {
  const out = new Float32Array(K * V);
  const { before, faded, after, key, query, error } = parts;
  const entry = {
    forget: (n) => faded[n] - before[n],
    ask: (n, i) => key[i] * faded[n],
    compare: (n, i, j) => key[i] * error[j],
    write: (n, i, j) => key[i] * error[j],
    answer: (n, i) => query[i] * after[n],
  }[step];
  for (let i = 0, n = 0; i < K; i++) {
    for (let j = 0; j < V; j++, n++) out[n] = entry(n, i, j);
  }
  return out;
}

/** The memory as it stands during a step: before the write, or after it. */
export const memoryDuring = (parts, step) =>
  step === "write" || step === "answer" ? parts.after : parts.faded;

/** cos of two vectors, 0 if either is 0. */
export function cosine(a, b) {
  const size = norm(a) * norm(b);
  return size ? dot(a, b) / size : 0;
}

/** Largest size of a number. */
export function peak(x) {
  let top = 0;
  for (const value of x) top = Math.max(top, Math.abs(value));
  return top;
}
