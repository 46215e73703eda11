// The layers of minqwen/model/, a token at a time: x [D] and what a layer remembers of
// the tokens before it. What a layer says on the way goes to `heard`, as at a tap.

import {
  gatedRmsNorm, l2norm, largestOf, rmsNorm, sigmoid, silu, softmax, softplus, times,
} from "./arithmetic.mjs";
import { dot, recall, write } from "../state/delta.mjs";
import { nth } from "./weights.mjs";

const split = (x, size) =>
  Array.from({ length: x.length / size }, (_, i) => x.subarray(i * size, (i + 1) * size));

const join = (parts) => {
  const out = new Float32Array(parts.reduce((length, part) => length + part.length, 0));
  let at = 0;
  for (const part of parts) {
    out.set(part, at);
    at += part.length;
  }
  return out;
};

/** deltanet.py: GatedDeltaNet. */
export class DeltaNet {
  constructor(weights, name, text) {
    const take = (part, width) => weights.matrix(`${name}.${part}.weight`, width);
    Object.assign(this, {
      D: text.hidden_size, eps: text.rms_norm_eps,
      H: text.linear_num_value_heads, Hk: text.linear_num_key_heads,
      K: text.linear_key_head_dim, V: text.linear_value_head_dim,
      W: text.linear_conv_kernel_dim,
    });
    for (const part of ["qkv", "z", "a", "b"]) this[part] = take(`in_proj_${part}`, this.D);
    this.conv = take("conv1d", this.W); // a row of W for each channel
    this.out = take("out_proj", this.H * this.V);
    this.gain = weights.vector(`${name}.norm.weight`);
    this.bias = weights.vector(`${name}.dt_bias`);
    this.rate = weights.vector(`${name}.A_log`).map((x) => -Math.exp(x));
  }

  memory() {
    const state = () => new Float32Array(this.K * this.V);
    return { t: 0, window: [], states: Array.from({ length: this.H }, state) };
  }

  /** x [D] -> [D]; `memory` changes. `heads` write, and are not heard; writes: of a token
   * a Map from heads to the beta with which they write there. */
  step(x, memory, heard, position, { heads, writes } = {}) {
    const mixed = this.mix(times(this.qkv, x), memory);
    const keys = this.Hk * this.K;
    const q = split(mixed.subarray(0, keys), this.K).map((each) => l2norm(each, this.K ** -0.5));
    const k = split(mixed.subarray(keys, 2 * keys), this.K).map((each) => l2norm(each));
    const v = split(mixed.subarray(2 * keys), this.V);
    const beta = times(this.b, x).map(sigmoid);
    const g = times(this.a, x).map((a, h) => this.rate[h] * softplus(a + this.bias[h]));
    writes?.get(memory.t)?.forEach((strength, h) => (beta[h] = strength));
    memory.t += 1;
    heard.rule({ q, k, v, g, beta });
    const z = split(times(this.z, x), this.V);
    const share = this.H / this.Hk; // value heads that read one key head
    const read = memory.states.map((S, h) => {
      const [query, key] = [q, k].map((all) => all[Math.floor(h / share)]);
      const kept = Math.exp(g[h]);
      for (let n = 0; n < S.length; n++) S[n] *= kept;
      const known = recall(S, key, this.V);
      write(S, key, v[h].map((value, i) => beta[h] * (value - known[i])));
      const o = Float32Array.from(recall(S, query, this.V));
      if (heads?.has(h)) o.fill(0);
      return gatedRmsNorm(o, z[h], this.gain, this.eps);
    });
    return times(this.out, join(read));
  }

  /** deltanet.py: causal_conv, of one token after those in the window. */
  mix(x, memory) {
    const inputs = [...memory.window, x];
    const { data } = this.conv;
    const out = x.map((_, c) => {
      let sum = 0;
      for (let j = 0; j < inputs.length; j++)
        sum += inputs[j][c] * data[(c + 1) * this.W - inputs.length + j];
      return silu(sum);
    });
    memory.window = inputs.slice(1 - this.W);
    return out;
  }
}

/** attention.py: GatedAttention. */
export class Attention {
  constructor(weights, name, text) {
    const take = (part, width) => weights.matrix(`${name}.${part}.weight`, width);
    Object.assign(this, {
      H: text.num_attention_heads, Hkv: text.num_key_value_heads,
      K: text.head_dim, eps: text.rms_norm_eps, rope: text.rope_parameters,
    });
    for (const part of ["q", "k", "v"]) this[part] = take(`${part}_proj`, text.hidden_size);
    this.out = take("o_proj", this.H * this.K);
    this.qGain = weights.vector(`${name}.q_norm.weight`);
    this.kGain = weights.vector(`${name}.k_norm.weight`);
  }

  memory() {
    return Array.from({ length: this.Hkv }, () => ({ keys: [], values: [] }));
  }

  /** x [D] at position [time, row, column] -> [D]; `memory` grows by the token. */
  step(x, memory, heard, position) {
    const turn = (each, gain) => this.rotate(rmsNorm(each, gain, this.eps), position);
    const values = split(times(this.v, x), this.K);
    split(times(this.k, x), this.K).forEach((key, h) => {
      memory[h].keys.push(turn(key, this.kGain));
      memory[h].values.push(values[h]);
    });
    // a head's query and gate lie side by side, not all queries first
    const read = split(times(this.q, x), 2 * this.K).map((both, h) => {
      const gate = both.subarray(this.K);
      const query = turn(both.subarray(0, this.K), this.qGain);
      const seen = memory[Math.floor((h * this.Hkv) / this.H)];
      return attend(query, seen).map((value, i) => value * sigmoid(gate[i]));
    });
    return times(this.out, join(read));
  }

  /** rope.py: rotate by the angles of one position. */
  rotate(x, position) {
    const { rope_theta: theta, partial_rotary_factor: part, mrope_section: sections } = this.rope;
    const pairs = (this.K * part) / 2;
    const out = x.slice();
    for (let i = 0; i < pairs; i++) {
      const axis = i % 3 && i < 3 * sections[i % 3] ? i % 3 : 0;
      const angle = position[axis] * theta ** (-i / pairs);
      const [cos, sin] = [Math.cos(angle), Math.sin(angle)];
      out[i] = x[i] * cos - x[i + pairs] * sin;
      out[i + pairs] = x[i + pairs] * cos + x[i] * sin;
    }
    return out;
  }
}

function attend(query, { keys, values }) {
  const size = Math.sqrt(query.length);
  const scores = keys.map((key) => dot(query, key) / size);
  const out = new Float64Array(query.length);
  softmax(scores).forEach((share, t) => {
    for (let i = 0; i < out.length; i++) out[i] += share * values[t][i];
  });
  return Float32Array.from(out);
}

/** moe.py: SwiGLU with gate and up one below the other. */
function swiglu(x, gateUp, down) {
  const both = times(gateUp, x);
  const width = both.length / 2;
  return times(down, both.subarray(0, width).map((gate, i) => silu(gate) * both[width + i]));
}

/** moe.py: SparseMoE. */
export class MoE {
  constructor(weights, name, text) {
    const { hidden_size: D, moe_intermediate_size: I, num_experts: E } = text;
    this.topK = text.num_experts_per_tok;
    this.gate = weights.matrix(`${name}.gate.weight`, D);
    const gateUp = weights.matrix(`${name}.experts.gate_up_proj`, D);
    const down = weights.matrix(`${name}.experts.down_proj`, I);
    this.experts = Array.from({ length: E }, (_, e) => [nth(gateUp, e, 2 * I), nth(down, e, D)]);
    const shared = (part, width) =>
      weights.matrix(`${name}.shared_expert.${part}_proj.weight`, width);
    const [gate, up] = [shared("gate", D), shared("up", D)];
    const both = { data: join([gate.data, up.data]), rows: 2 * gate.rows, width: D };
    this.shared = [both, shared("down", text.shared_expert_intermediate_size)];
    this.opening = weights.matrix(`${name}.shared_expert_gate.weight`, D);
  }

  /** x [D] -> [D]; the next best take the place of the experts in `off`. */
  step(x, heard, off = new Set()) {
    const logits = times(this.gate, x).map((logit, id) => (off.has(id) ? -Infinity : logit));
    const order = largestOf(logits, this.topK + 1); // one more: the runner-up
    const ids = order.slice(0, this.topK);
    const weights = softmax(ids.map((id) => logits[id])); // all in all
    const [opening] = times(this.opening, x).map(sigmoid);
    heard.router({ ids, weights, logits, runnerUp: order[this.topK], opening });
    const out = swiglu(x, ...this.shared).map((value) => opening * value);
    ids.forEach((id, n) => {
      const said = swiglu(x, ...this.experts[id]);
      for (let i = 0; i < out.length; i++) out[i] += weights[n] * said[i];
    });
    return out;
  }
}
