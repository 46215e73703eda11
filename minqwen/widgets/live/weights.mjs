// A checkpoint's tensors as matrices of float32. Those in our int8 are widened: a row is
// its scales, BF16, one for each 128 columns, then a byte for each number, 128 being 0.

import { readSafetensors } from "../shared/safetensors.mjs";

const SIDE = 128; // columns of a group

/** bytes: a Uint8Array. Returns matrix(name, width) and vector(name), which throw. */
export function readWeights(bytes) {
  const { tensors } = readSafetensors(bytes);
  const take = (name) => {
    if (!tensors.has(name)) throw new Error(`the weights hold no ${name}.`);
    return tensors.get(name);
  };
  return {
    has: (name) => tensors.has(name),
    vector: (name) => take(name).data,
    /** [..., width] as rows of `width`: {data, rows, width}. */
    matrix(name, width) {
      const { dtype, data } = take(name);
      const numbers = dtype === "U8" ? widened(data, width) : data;
      return { data: numbers, rows: numbers.length / width, width };
    },
  };
}

/** One of several matrices that lie one below the other, `rows` rows each. */
export function nth({ data, width }, i, rows) {
  return { data: data.subarray(i * rows * width, (i + 1) * rows * width), rows, width };
}

function widened(stored, width) {
  const groups = Math.ceil(width / SIDE);
  const bytes = 2 * groups + 2 * Math.ceil(width / 2);
  const rows = stored.length / bytes;
  const out = new Float32Array(rows * width);
  const bits = new Uint32Array(1);
  const number = new Float32Array(bits.buffer);
  for (let row = 0, n = 0; row < rows; row++) {
    const at = row * bytes;
    for (let i = 0; i < width; i++, n++) {
      const place = at + 2 * Math.floor(i / SIDE);
      if (i % SIDE === 0) bits[0] = (stored[place] | (stored[place + 1] << 8)) << 16;
      out[n] = number[0] * (stored[at + 2 * groups + i] - SIDE);
    }
  }
  return out;
}
