// Qwen3.5 with experts, a token at a time: minqwen/model/qwen.py in the browser.

import { plus, rmsNorm, times } from "./arithmetic.mjs";
import { Attention, DeltaNet, MoE } from "./layers.mjs";
import { Tower } from "./tower.mjs";

const LANGUAGE = "model.language_model";

/** A model out of config.json's content and what weights.mjs reads. */
export class Model {
  constructor(config, weights) {
    const text = config.text_config;
    this.config = config;
    this.text = text;
    this.eps = text.rms_norm_eps;
    const gain = (name) => weights.vector(`${LANGUAGE}.${name}.weight`);
    this.embedding = weights.matrix(`${LANGUAGE}.embed_tokens.weight`, text.hidden_size);
    this.layers = text.layer_types.map((kind, n) => {
      const name = `${LANGUAGE}.layers.${n}`;
      const mixer = kind === "full_attention"
        ? new Attention(weights, `${name}.self_attn`, text)
        : new DeltaNet(weights, `${name}.linear_attn`, text);
      const norms = ["input_layernorm", "post_attention_layernorm"].map((norm) =>
        gain(`layers.${n}.${norm}`));
      return { kind, mixer, norms, moe: new MoE(weights, `${name}.mlp`, text) };
    });
    this.norm = gain("norm");
    this.head = config.tie_word_embeddings
      ? this.embedding : weights.matrix("lm_head.weight", text.hidden_size);
    this.tower = config.vision_config ? new Tower(weights, config.vision_config) : null;
  }

  /** What all layers remember before the first token. */
  memory() {
    return this.layers.map(({ mixer }) => mixer.memory());
  }

  embed(id) {
    const D = this.text.hidden_size;
    return this.embedding.data.slice(id * D, (id + 1) * D);
  }

  /**
   * One token: x [D], its embedding or what the tower saw there, at position [time, row,
   * column]; `memory` changes. heard(layer) gives the functions that layer's taps call;
   * off: of each layer {mixer: says nothing?, experts: a Set of those not to be chosen,
   * heads: a Set of those of its memory that say nothing, writes as of `DeltaNet.step`};
   * from: the layer that x comes into, if not the first.
   * Returns the state behind the logits.
   */
  step(x, position, memory, heard, off = [], from = 0) {
    for (let n = from; n < this.layers.length; n++) {
      const { mixer, norms, moe } = this.layers[n];
      const taps = heard(n);
      taps.enters?.(x);
      const cut = off[n] ?? {};
      const h = rmsNorm(x, norms[0], this.eps);
      const mixed = mixer.step(h, memory[n], taps, position, cut);
      if (!cut.mixer) x = plus(x, mixed);
      x = plus(x, moe.step(rmsNorm(x, norms[1], this.eps), taps, cut.experts));
    }
    return rmsNorm(x, this.norm, this.eps);
  }

  logits(state) {
    return times(this.head, state);
  }
}

/**
 * What is read token by token: [{id, position, picture, patch}], and where what follows
 * stands. ids: the prompt's; grids: [rows, columns] in tokens of its pictures in turn.
 * After rope.py: positions.
 */
export function placed(ids, grids, imagePad) {
  const tokens = [];
  let [at, picture] = [0, 0];
  for (let t = 0; t < ids.length; t++) {
    if (ids[t] !== imagePad) {
      tokens.push({ id: ids[t], position: [at, at, at] });
      at += 1;
      continue;
    }
    const [rows, columns] = grids[picture];
    for (let patch = 0; patch < rows * columns; patch++) {
      const [row, column] = [Math.floor(patch / columns), patch % columns];
      const position = [at, at + row, at + column];
      tokens.push({ id: ids[t], position, picture, patch });
    }
    t += rows * columns - 1;
    at += Math.max(rows, columns);
    picture += 1;
  }
  return { tokens, next: at };
}
