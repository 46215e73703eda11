// What a run said at its taps, as a trace file's bytes: the form of shared/trace.mjs, with
// every delta head, so that all that the explorers show of a recorded trace is there.

import { safetensors } from "../shared/safetensors.mjs";

const PIXELS = 16; // of a stored picture, for each token and side

export class Recorder {
  constructor(model) {
    this.model = model;
    this.tokens = []; // {id, text, layers: [what each layer said], norms}
    this.layers = [];
  }

  /** The taps of one layer, for `Model.step`. */
  heard(n) {
    const said = (this.layers[n] = {});
    return {
      router: (routed) => (said.router = routed),
      rule: (fed) => (said.rule = fed),
    };
  }

  /** A token has gone through all layers; `memory` is what they remember now. */
  keep(id, memory) {
    const norms = memory.map(({ states }) => states?.map(length));
    this.tokens.push({ id, layers: this.layers, norms });
    this.layers = [];
    return this.tokens.at(-1);
  }

  /** meta: model, tokens (their texts), prompt_length, opens; pictures: pixels and where. */
  bytes(meta, pictures = []) {
    const { text } = this.model;
    const [T, L, K] = [this.tokens.length, text.num_hidden_layers, text.num_experts_per_tok];
    const routed = (pick) => this.tokens.flatMap(({ layers }) => layers.flatMap(({ router }) => pick(router)));
    const tensors = {
      expert_ids: [[T, L, K], Uint16Array.from(routed(({ ids }) => ids))],
      expert_weights: [[T, L, K], Float32Array.from(routed(({ weights }) => [...weights]))],
      router_margin: [[T, L], Float32Array.from(routed(({ ids, logits, runnerUp }) =>
        logits[ids.at(-1)] - logits[runnerUp]))],
      router_entropy: [[T, L], Float32Array.from(routed(({ logits }) => entropy(logits)))],
      runner_up: [[T, L], Uint16Array.from(routed(({ runnerUp }) => runnerUp))],
      shared_gate: [[T, L], Float32Array.from(routed(({ opening }) => opening))],
      token_ids: [[T], Uint32Array.from(this.tokens, ({ id }) => id)],
    };
    const delta = [...text.layer_types.keys()].filter((n) => text.layer_types[n] !== "full_attention");
    const H = text.linear_num_value_heads;
    const each = (pick) => Float32Array.from(this.tokens.flatMap((token) => delta.flatMap((n) => pick(token, n))));
    tensors.state_norm = [[T, delta.length, H], each(({ norms }, n) => norms[n])];
    tensors.state_decay = [[T, delta.length, H], each(({ layers }, n) => [...layers[n].rule.g])];
    tensors.state_beta = [[T, delta.length, H], each(({ layers }, n) => [...layers[n].rule.beta])];
    for (const n of delta) for (let h = 0; h < H; h++) Object.assign(tensors, this.head(n, h));
    pictures.forEach(({ pixels, rows, columns }, i) => {
      tensors[`picture.${i}`] = [[PIXELS * rows, PIXELS * columns, 3], halved(pixels)];
    });
    const said = {
      version: 2, source: "minqwen", length: T, layer_types: text.layer_types,
      num_experts: text.num_experts, ...meta,
      pictures: pictures.map(({ start, rows, columns }) => ({ kind: "image", start, rows, columns })),
    };
    return safetensors(tensors, { minqwen_trace: JSON.stringify(said) });
  }

  /** All that one delta head was fed. */
  head(n, h) {
    const { linear_num_value_heads: H, linear_num_key_heads: Hk } = this.model.text;
    const own = Math.floor((h * Hk) / H);
    const fed = this.tokens.map(({ layers }) => layers[n].rule);
    const rows = (part, i) => {
      const width = fed[0][part][i].length;
      const all = new Float32Array(fed.length * width);
      fed.forEach((rule, t) => all.set(rule[part][i], t * width));
      return [[fed.length, width], all];
    };
    const parts = { q: rows("q", own), k: rows("k", own), v: rows("v", h) };
    for (const part of ["beta", "g"]) {
      parts[part] = [[fed.length], Float32Array.from(fed, (rule) => rule[part][h])];
    }
    return Object.fromEntries(
      Object.entries(parts).map(([part, tensor]) => [`delta.${n}.${h}.${part}`, tensor]));
  }
}

/** Bits of the softmax of these logits. */
function entropy(logits) {
  const top = Math.max(...logits);
  let [sum, mean] = [0, 0];
  for (const logit of logits) {
    const part = Math.exp(logit - top);
    sum += part;
    if (part) mean += part * (logit - top); // none of an expert that is switched off
  }
  return (Math.log(sum) - mean / sum) / Math.LN2;
}

function length(S) {
  let square = 0;
  for (const value of S) square += value * value;
  return Math.sqrt(square);
}

/** RGBA bytes of 32 pixels a token's side to RGB of 16, each the mean of four. */
function halved({ width, height, data }) {
  const out = new Uint8Array((width / 2) * (height / 2) * 3);
  let n = 0;
  for (let y = 0; y < height; y += 2) {
    for (let x = 0; x < width; x += 2) {
      for (let c = 0; c < 3; c++) {
        const at = (row, column) => data[4 * ((y + row) * width + x + column) + c];
        out[n++] = Math.round((at(0, 0) + at(0, 1) + at(1, 0) + at(1, 1)) / 4);
      }
    }
  }
  return out;
}
