// What the layers are made of: products and norms on typed arrays. Vectors are
// Float32Arrays, as the model's are; sums over them run in float64.

/** weight {data, rows, width} times x [width]: rows numbers. */
export function times({ data, rows, width }, x) {
  const out = new Float32Array(rows);
  for (let r = 0, n = 0; r < rows; r++) {
    let sum = 0;
    for (let i = 0; i < width; i++, n++) sum += data[n] * x[i];
    out[r] = sum;
  }
  return out;
}

/** The same, and a bias [rows] added. */
export const affine = (weight, bias, x) => plus(times(weight, x), bias);

export const plus = (a, b) => a.map((value, i) => value + b[i]);

export const sigmoid = (x) => 1 / (1 + Math.exp(-x));

export const silu = (x) => x * sigmoid(x);

// log(1 + e^x); torch goes over to x at 20, too.
export const softplus = (x) => (x > 20 ? x : Math.log1p(Math.exp(x)));

/** One over the root mean square. */
function scaleOf(x, eps) {
  let square = 0;
  for (const value of x) square += value * value;
  return 1 / Math.sqrt(square / x.length + eps);
}

/** norm.py: rms_norm, whose gain is 1 + w. */
export function rmsNorm(x, w, eps) {
  const scale = scaleOf(x, eps);
  return x.map((value, i) => value * scale * (1 + w[i]));
}

/** norm.py: gated_rms_norm, whose gain is w, times silu(z). */
export function gatedRmsNorm(x, z, w, eps) {
  const scale = scaleOf(x, eps);
  return x.map((value, i) => value * scale * w[i] * silu(z[i]));
}

/** norm.py: l2norm, times `by`. */
export function l2norm(x, by = 1) {
  let square = 1e-6; // added to the sum, not to the mean
  for (const value of x) square += value * value;
  const scale = by / Math.sqrt(square);
  return x.map((value) => value * scale);
}

export function layerNorm(x, weight, bias) {
  const mean = x.reduce((sum, value) => sum + value, 0) / x.length;
  const scale = scaleOf(x.map((value) => value - mean), 1e-6);
  return x.map((value, i) => (value - mean) * scale * weight[i] + bias[i]);
}

/** Probabilities, as a Float64Array. */
export function softmax(scores) {
  let most = -Infinity;
  for (const score of scores) most = Math.max(most, score);
  const shares = Float64Array.from(scores, (score) => Math.exp(score - most));
  const sum = shares.reduce((total, share) => total + share, 0);
  return shares.map((share) => share / sum);
}

/** Indices of the `count` largest, best first; of equals the first. */
export function largestOf(x, count) {
  const order = [...x.keys()].sort((a, b) => x[b] - x[a] || a - b);
  return order.slice(0, count);
}

const TANH = Math.sqrt(2 / Math.PI);

export const geluTanh = (x) => 0.5 * x * (1 + Math.tanh(TANH * (x + 0.044715 * x ** 3)));

/** x times the normal distribution's integral, whose erf is a series or a fraction. */
export const gelu = (x) => 0.5 * x * (1 + erf(x / Math.SQRT2));

function erf(x) {
  const size = Math.abs(x);
  if (size > 6) return Math.sign(x);
  if (size < 2.5) {
    let [sum, term] = [x, x];
    for (let n = 1; Math.abs(term) > 1e-17; n++) {
      term *= (-x * x) / n;
      sum += term / (2 * n + 1);
    }
    return (2 / Math.sqrt(Math.PI)) * sum;
  }
  let fraction = 0;
  for (let n = 60; n > 0; n--) fraction = n / 2 / (size + fraction);
  const rest = Math.exp(-x * x) / (Math.sqrt(Math.PI) * (size + fraction));
  return Math.sign(x) * (1 - rest);
}
