// What lights up while the model reads and writes: its experts, a row a layer, and the
// memories of its delta layers, a square a head. A light fades as further tokens come.

import { node, rampColour, sizeCanvas } from "../shared/look.mjs";

const FADING = 0.72; // of a light is left a token later
const CELL = 14; // pixels, where there is room
const GAP = 28; // between experts and memories
const EDGE = 66; // for the names of layers

export class Glow {
  /** text: config.json's text_config. */
  constructor(text, look) {
    Object.assign(this, { look, kinds: text.layer_types });
    this.E = text.num_experts;
    this.H = text.linear_num_value_heads;
    this.experts = this.kinds.map(() => new Float32Array(this.E));
    this.writes = this.kinds.map(() => new Float32Array(this.H));
    this.canvas = node("canvas", { role: "img", "aria-label": "Which experts and memories the last tokens used" });
    this.caption = node("p", { class: "muted" }, `Left: the ${this.E} experts of each layer, lit by a ` +
      "token's weights. Right: the memory of each delta head, lit by how strongly the token writes " +
      "(beta). Attention layers keep all tokens, so they have no such memory.");
    this.root = node("div", { class: "glow" }, this.canvas, this.caption);
    look.onTheme(() => this.draw());
    new ResizeObserver(() => this.draw()).observe(this.root);
    this.draw();
  }

  /** lights: of each layer {ids, weights, beta} of a token. */
  light(lights) {
    lights.forEach(({ ids, weights, beta }, n) => {
      for (const lit of [this.experts[n], this.writes[n]])
        for (let i = 0; i < lit.length; i++) lit[i] *= FADING;
      ids.forEach((id, k) => {
        this.experts[n][id] = Math.max(this.experts[n][id], weights[k]);
      });
      beta?.forEach((strength, h) => {
        this.writes[n][h] = Math.max(this.writes[n][h], strength);
      });
    });
    this.asked ??= requestAnimationFrame(() => {
      this.asked = null;
      this.draw();
    });
  }

  draw() {
    const count = this.E + this.H;
    const room = this.root.clientWidth || Infinity;
    const size = Math.max(4, Math.min(CELL, Math.floor((room - EDGE - GAP) / count)));
    const width = EDGE + size * count + GAP;
    const height = 18 + CELL * this.kinds.length;
    const pen = sizeCanvas(this.canvas, width, height);
    const { panel, muted, ramp } = this.look.colours();
    pen.clearRect(0, 0, width, height);
    pen.font = "11px system-ui, sans-serif";
    pen.fillStyle = muted;
    pen.fillText("experts", EDGE, 11);
    pen.fillText("memories", EDGE + size * this.E + GAP, 11);
    const cell = (x, y, light) => {
      pen.fillStyle = light > 0.02 ? rampColour(ramp, light) : panel;
      pen.fillRect(x, y, size - 2, CELL - 2);
    };
    this.kinds.forEach((kind, n) => {
      const y = 18 + n * CELL;
      const full = kind === "full_attention";
      pen.fillStyle = muted;
      pen.fillText(`${n} ${full ? "attention" : "delta"}`, 0, y + 10);
      this.experts[n].forEach((light, e) => cell(EDGE + e * size, y, light));
      if (!full) this.writes[n].forEach((light, h) =>
        cell(EDGE + size * this.E + GAP + h * size, y, light));
    });
  }
}
