// The gated delta rule, replayed from what one head was fed. minqwen/model/delta.py in torch:
//
//   S <- exp(g) S           forget
//   e  = beta (v - S^T k)   what the memory gets wrong about k
//   S <- S + k e^T          correct it
//   o  = S^T q              read, after the write
//
// A head is {T, K, V, q, k, v, g, beta, start}: Float32Arrays of [T, K], [T, K], [T, V],
// [T] and [T], row after row; start [K, V] is the memory before token 0, or undefined for
// an empty one. S is a Float32Array of K * V, S[i * V + j], as the model's is; sums over
// it run in float64, since a sum of 128 float32 products loses a digit.

const KEY_EVERY = 64; // tokens between kept states: a seek replays fewer

/** S^T x, what the memory answers to a key or a query: V numbers. */
export function recall(S, x, V) {
  const out = new Float64Array(V);
  for (let i = 0, n = 0; i < x.length; i++) {
    const xi = x[i];
    for (let j = 0; j < V; j++, n++) out[j] += xi * S[n];
  }
  return out;
}

/** S <- kept S, in place. */
function fade(S, kept) {
  for (let n = 0; n < S.length; n++) S[n] *= kept;
}

/** S <- S + k e^T, in place. */
export function write(S, k, e) {
  for (let i = 0, n = 0; i < k.length; i++) {
    const ki = k[i];
    for (let j = 0; j < e.length; j++, n++) S[n] += ki * e[j];
  }
}

/** Row t of a [T, width] array, without copying. */
export const row = (x, t, width) => x.subarray(t * width, (t + 1) * width);

export function dot(a, b) {
  let sum = 0;
  for (let i = 0; i < a.length; i++) sum += a[i] * b[i];
  return sum;
}

/** The dot product of x with row t of `rows`; no view is made, as it is done so often. */
function dotRow(x, rows, t) {
  let sum = 0;
  for (let i = 0, n = t * x.length; i < x.length; i++, n++) sum += x[i] * rows[n];
  return sum;
}

export const norm = (a) => Math.sqrt(dot(a, a));

/**
 * All states of one head, each reachable in milliseconds.
 *
 * A first pass (`advance`) keeps every error e_t and every 64th state. With the errors
 * known, going from a kept state to any other needs no reading: S <- exp(g) S + k e^T.
 */
export class Replay {
  constructor(head, every = KEY_EVERY) {
    const { T, K, V, start } = head;
    Object.assign(this, { head, every, done: 0 });
    this.errors = new Float32Array(T * V); // e_t, beta included: what was written
    this.recalled = new Float32Array(T * V); // S^T k_t after forgetting, before writing
    this.errorNorms = new Float32Array(T);
    this.norms = new Float32Array(T); // of the state after token t
    this.peak = 0; // the largest number in any state so far
    this.last = new Float32Array(start ?? K * V); // the state after `done` tokens
    this.frames = [this.last.slice()]; // the state before token n * every
    this.sought = { next: 0, S: this.last.slice() }; // where the last seek ended
  }

  /** Replay on to the state after `until` tokens, or for `budget` milliseconds. */
  advance(until = this.head.T, budget = Infinity) {
    const stop = performance.now() + budget;
    while (this.done < until) {
      this.#next(this.done++);
      if (this.done % this.every === 0) this.frames.push(this.last.slice());
      if (this.done % 8 === 0 && performance.now() > stop) break;
    }
    return this.done >= until;
  }

  #next(t) {
    const { K, V, k, v, g, beta } = this.head;
    const [S, key] = [this.last, row(k, t, K)];
    fade(S, Math.exp(g[t]));
    const known = recall(S, key, V);
    const e = row(this.errors, t, V);
    for (let j = 0; j < V; j++) e[j] = beta[t] * (v[t * V + j] - known[j]);
    this.errorNorms[t] = norm(e);
    this.recalled.set(known, t * V);
    write(S, key, e);
    let square = 0;
    for (let n = 0; n < S.length; n++) {
      square += S[n] * S[n];
      if (Math.abs(S[n]) > this.peak) this.peak = Math.abs(S[n]);
    }
    this.norms[t] = Math.sqrt(square);
  }

  /** A copy of the state after token t; t = -1 is the memory at the start. */
  seek(t) {
    const { K, V, k, g } = this.head;
    if (t >= this.done) this.advance(t + 1);
    const frame = Math.floor((t + 1) / this.every);
    let [next, S] = [frame * this.every, this.frames[frame]];
    if (this.sought.next > next && this.sought.next <= t + 1) ({ next, S } = this.sought);
    S = S.slice();
    for (; next <= t; next++) {
      fade(S, Math.exp(g[next]));
      write(S, row(k, next, K), row(this.errors, next, V));
    }
    this.sought = { next, S: S.slice() };
    return S;
  }

  /** Token t taken apart: every quantity of the four lines. */
  step(t) {
    const { K, V, q, k, v, g, beta } = this.head;
    if (t >= this.done) this.advance(t + 1);
    const before = this.seek(t - 1);
    const kept = Math.exp(g[t]);
    const faded = before.slice();
    fade(faded, kept);
    const [key, query, value] = [row(k, t, K), row(q, t, K), row(v, t, V)];
    const [known, error] = [row(this.recalled, t, V), row(this.errors, t, V)];
    const after = faded.slice();
    write(after, key, error);
    const output = recall(after, query, V);
    return { before, faded, after, kept, beta: beta[t], key, query, value, known, error, output };
  }
}

/**
 * What token j's key returns at tokens j .. until - 1, against its value v_j:
 * {cosine, share}, where share is the length along v_j, 1 for "all of it".
 *
 * The state is not needed. If r = S^T k_j before a token, then after it
 * r <- exp(g) r + (k_j . k) e, because the write was k e^T.
 */
export function retention(replay, j, until) {
  const { K, V, k, v, g } = replay.head;
  if (replay.done < until) replay.advance(until);
  const [key, value] = [row(k, j, K), row(v, j, V)];
  const [size, length] = [dot(value, value), Math.max(0, until - j)];
  const cosine = new Float32Array(length);
  const share = new Float32Array(length);
  const r = Float64Array.from(row(replay.recalled, j, V));
  for (let t = j; t < until; t++) {
    const kept = t === j ? 1 : Math.exp(g[t]); // `recalled` has faded already
    const overlap = dotRow(key, k, t);
    let [along, square] = [0, 0];
    for (let c = 0, n = t * V; c < V; c++, n++) {
      r[c] = kept * r[c] + overlap * replay.errors[n];
      along += r[c] * value[c];
      square += r[c] * r[c];
    }
    share[t - j] = size ? along / size : 0;
    cosine[t - j] = size && square ? along / Math.sqrt(size * square) : 0;
  }
  return { cosine, share };
}

/**
 * a_tj for j = from .. t: with an empty start, the output is exactly the sum of a_tj e_j
 * over all j (the chunked form of arXiv 2406.06484 with one chunk).
 */
export function writeWeights(head, t, from = 0) {
  const { K, q, k, g } = head;
  const query = row(q, t, K);
  const weights = new Float64Array(t - from + 1);
  let ago = 0; // log decay between j and t
  for (let j = t; j >= from; j--) {
    weights[j - from] = Math.exp(ago) * dotRow(query, k, j);
    ago += g[j];
  }
  return weights;
}

/**
 * w_tj for j = from .. t: the output is exactly the sum of w_tj v_j, too. As attention
 * has it: weights on the values, though these may be negative.
 *
 * The query walks back through the steps S <- A S + beta k v^T, where
 * A = exp(g) (1 - beta k k^T), and is told at each what of that value reaches it.
 */
export function valueWeights(head, t, from = 0) {
  const { K, q, k, g, beta } = head;
  const u = Float64Array.from(row(q, t, K));
  const weights = new Float64Array(t - from + 1);
  for (let j = t; j >= from; j--) {
    const weight = beta[j] * dotRow(u, k, j);
    const kept = Math.exp(g[j]);
    weights[j - from] = weight;
    for (let i = 0, n = j * K; i < K; i++, n++) u[i] = kept * (u[i] - weight * k[n]);
  }
  return weights;
}

/** Attention's weights of token t: softmax(q k^T / sqrt(K)) of {q, k, K}, over 0 .. t. */
export function softmaxWeights({ q, k, K }, t) {
  const query = row(q, t, K);
  const scores = new Float64Array(t + 1);
  for (let j = 0; j <= t; j++) scores[j] = dotRow(query, k, j) / Math.sqrt(K);
  const top = scores.reduce((a, b) => Math.max(a, b), -Infinity);
  let sum = 0;
  for (let j = 0; j <= t; j++) sum += scores[j] = Math.exp(scores[j] - top);
  return scores.map((x) => x / sum);
}

/** Tokens after which forgetting alone has halved a memory, from the mean of g. */
export function halfLife(g) {
  let sum = 0;
  for (const x of g) sum += x;
  return sum < 0 ? (-Math.LN2 * g.length) / sum : Infinity;
}
