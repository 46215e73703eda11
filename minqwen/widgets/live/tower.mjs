// The vision tower: minqwen/model/vision.py, for one picture whose sides are multiples of
// 32 pixels. Patches come in blocks of 2 x 2, as prompt/images.py cuts them.

import { affine, gelu, geluTanh, layerNorm, plus, softmax } from "./arithmetic.mjs";
import { dot } from "../state/delta.mjs";

export class Tower {
  constructor(weights, vision) {
    const take = (name, width) => ({
      weight: weights.matrix(`model.visual.${name}.weight`, width),
      bias: weights.vector(`model.visual.${name}.bias`),
    });
    const { hidden_size: D, intermediate_size: I, patch_size: size, spatial_merge_size: m } = vision;
    this.vision = vision;
    this.patch = take("patch_embed.proj", vision.in_channels * vision.temporal_patch_size * size ** 2);
    this.places = weights.matrix("model.visual.pos_embed.weight", D);
    this.blocks = Array.from({ length: vision.depth }, (_, n) => ({
      norm1: take(`blocks.${n}.norm1`, D), norm2: take(`blocks.${n}.norm2`, D),
      qkv: take(`blocks.${n}.attn.qkv`, D), proj: take(`blocks.${n}.attn.proj`, D),
      fc1: take(`blocks.${n}.mlp.linear_fc1`, D), fc2: take(`blocks.${n}.mlp.linear_fc2`, I),
    }));
    this.merger = {
      norm: take("merger.norm", D),
      fc1: take("merger.linear_fc1", D * m * m), fc2: take("merger.linear_fc2", D * m * m),
    };
  }

  /** patches: Float32Arrays [1536] in blocks; height, width of the grid in patches.
   * Returns one vector a token, row by row. */
  see(patches, height, width) {
    const m = this.vision.spatial_merge_size;
    const places = inBlocks(height, width, m);
    const line = [stretched(height, this.side), stretched(width, this.side)];
    let x = patches.map((patch, n) =>
      plus(run(this.patch, patch), this.learned(places[n], line)));
    for (const block of this.blocks) {
      const attended = this.attend(x.map((row) => normed(block.norm1, row)), places, block);
      x = x.map((row, n) => plus(row, attended[n]));
      x = x.map((row) => {
        const wide = run(block.fc1, normed(block.norm2, row)).map(geluTanh);
        return plus(row, run(block.fc2, wide));
      });
    }
    const { norm, fc1, fc2 } = this.merger;
    return Array.from({ length: x.length / m ** 2 }, (_, n) => {
      const four = x.slice(n * m * m, (n + 1) * m * m).map((row) => [...normed(norm, row)]);
      return run(fc2, run(fc1, Float32Array.from(four.flat())).map(gelu));
    });
  }

  get side() {
    return Math.sqrt(this.places.rows);
  }

  /** vision.py: stretch, at one place. */
  learned([row, column], [down, across]) {
    const { data, width } = this.places;
    const [top, bottom, low] = down[row];
    const [left, right, near] = across[column];
    const at = (i, j, d) => data[(i * this.side + j) * width + d];
    return Float32Array.from({ length: width }, (_, d) => {
      const upper = at(top, left, d) * (1 - near) + at(top, right, d) * near;
      const lower = at(bottom, left, d) * (1 - near) + at(bottom, right, d) * near;
      return upper * (1 - low) + lower * low;
    });
  }

  /** Every patch looks at every patch. */
  attend(x, places, { qkv, proj }) {
    const { num_heads: H, hidden_size: D } = this.vision;
    const K = D / H;
    const fed = x.map((row) => run(qkv, row));
    const part = (row, which, h) => row.subarray(which * D + h * K, which * D + (h + 1) * K);
    const out = x.map(() => new Float32Array(D));
    for (let h = 0; h < H; h++) {
      const turned = [0, 1].map((which) =>
        fed.map((row, n) => rotated(part(row, which, h), places[n])));
      const [queries, keys] = turned;
      queries.forEach((query, n) => {
        const scores = keys.map((key) => dot(query, key) / Math.sqrt(K));
        softmax(scores).forEach((share, other) => {
          const value = part(fed[other], 2, h);
          for (let i = 0; i < K; i++) out[n][h * K + i] += share * value[i];
        });
      });
    }
    return out.map((row) => run(proj, row));
  }
}

const run = ({ weight, bias }, x) => affine(weight, bias, x);

const normed = ({ weight, bias }, x) => layerNorm(x, weight.data, bias);

/** (row, column) of every patch, in blocks of m x m. */
export function inBlocks(height, width, m) {
  const places = [];
  for (let top = 0; top < height; top += m) {
    for (let left = 0; left < width; left += m) {
      for (let n = 0; n < m * m; n++) places.push([top + Math.floor(n / m), left + (n % m)]);
    }
  }
  return places;
}

/** For each of `count` places along a side of `side`: two neighbours, nearness of the second. */
function stretched(count, side) {
  return Array.from({ length: count }, (_, i) => {
    const at = count > 1 ? (i * (side - 1)) / (count - 1) : 0;
    const low = Math.floor(at);
    return [low, Math.min(low + 1, side - 1), at - low];
  });
}

/** A quarter of the head turns with the row, a quarter with the column, halves alike. */
function rotated(x, place) {
  const half = x.length / 2;
  const out = new Float32Array(x.length);
  for (let i = 0; i < half; i++) {
    const quarter = half / 2;
    const angle = place[Math.floor(i / quarter)] * 10000 ** (-(i % quarter) / quarter);
    const [cos, sin] = [Math.cos(angle), Math.sin(angle)];
    out[i] = x[i] * cos - x[i + half] * sin;
    out[i + half] = x[i + half] * cos + x[i] * sin;
  }
  return out;
}
