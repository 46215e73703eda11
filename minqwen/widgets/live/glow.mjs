// What lights up while the model reads and writes: its experts, a row a layer, and the
// memories of its delta layers, a square a head. A light fades as further tokens come.
// A click switches an expert off, a head's memory, or a layer's whole attention or memory;
// one write of a head can be made weaker or stronger, or deleted.

import { node, quoted, rampColour, sizeCanvas } from "../shared/look.mjs";

const FADING = 0.72; // of a light is left a token later
const CELL = 14; // pixels, where there is room
const TOP = 18;
const GAP = 28; // between experts and memories
const EDGE = 66; // for the names of layers

const options = (count, mark = "", words = "") =>
  Array.from({ length: count }, (_, n) => node("option", { value: `${mark}${n}` }, `${words}${n}`));

export class Glow {
  /** text: config.json's text_config; changed() is called when a switch is. */
  constructor(text, look, changed) {
    Object.assign(this, { look, changed, kinds: text.layer_types });
    this.E = text.num_experts;
    this.H = text.linear_num_value_heads;
    this.experts = this.kinds.map(() => new Float32Array(this.E));
    this.writes = this.kinds.map(() => new Float32Array(this.H));
    this.off = this.kinds.map(() => ({ mixer: false, experts: new Set(), heads: new Set(), writes: new Map() }));
    this.canvas = node("canvas", {
      role: "img", "aria-label": "Which experts and memories the last tokens used",
      onclick: (event) => this.click(event),
    });
    this.layer = node("select", { "aria-label": "layer" }, options(this.kinds.length));
    this.part = node("select", { "aria-label": "part" },
      node("option", { value: "mixer" }, "attention or memory"),
      options(this.E, "", "expert "), options(this.H, "m", "memory "));
    this.list = node("span", { class: "muted" });
    const flip = () => this.flip(Number(this.layer.value), this.part.value);
    this.root = node("div", { class: "glow" }, this.canvas,
      node("p", { class: "muted" }, `Left: the ${this.E} experts of each layer, lit by a token's ` +
        "weights. Right: the memory of each delta head, lit by how strongly the token writes " +
        "(beta); attention layers keep all tokens instead. Click an expert, a memory, or a " +
        "layer's name, to switch it off, or change one write (beta 0 deletes it), and ask again."),
      node("div", { class: "bar" }, node("span", {}, "Layer"), this.layer, this.part,
        node("button", { type: "button", onclick: flip }, "Switch")),
      this.writing(), this.list);
    look.onTheme(() => this.draw());
    new ResizeObserver(() => this.draw()).observe(this.root);
    this.draw();
  }

  /** Where one write is chosen: of which memory, at which token, and how strong it is to be. */
  writing() {
    const number = { type: "number", min: 0, value: 0, required: true, oninput: () => this.name() };
    this.writer = node("select", { "aria-label": "memory that writes" }, this.kinds.flatMap((kind, n) =>
      kind === "full_attention" ? [] : options(this.H, `${n}.`, `layer ${n}, memory `)));
    this.token = node("input", { ...number, "aria-label": "token of the write" });
    this.beta = node("input", { ...number, max: 1, step: "any", "aria-label": "strength of the write" });
    this.named = node("bdi", { class: "token" });
    return node("div", { class: "bar" }, "Write of", this.writer, "at token", this.token, this.named,
      "with beta", this.beta, node("button", { type: "button", onclick: () => this.change() }, "Change"));
  }

  /** What the reader looks at: head [layer, head] and token, if any, of these texts. */
  point(head, token, texts) {
    this.texts = texts;
    this.writer.value = head?.join(".") ?? this.writer.value;
    this.token.value = token ?? this.token.value;
    this.name();
  }

  name() {
    const text = this.texts?.[this.token.value];
    this.named.textContent = text === undefined ? "" : `“${quoted(text)}”`;
  }

  change() {
    if (![this.writer, this.token, this.beta].every((input) => input.value && input.reportValidity())) return;
    this.edit(...this.writer.value.split(".").map(Number), this.token.valueAsNumber, this.beta.valueAsNumber);
  }

  /** That write has strength beta from now on; told the same twice, its own again. */
  edit(layer, head, token, beta = 0) {
    if (this.kinds[layer] !== "linear_attention" || !(head < this.H)) return;
    const { writes } = this.off[layer];
    if (!writes.has(token)) writes.set(token, new Map());
    const there = writes.get(token);
    if (there.get(head) !== beta) there.set(head, beta);
    else there.delete(head);
    this.tell();
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

  /** What is switched off, in words; empty if nothing is. */
  get words() {
    const said = this.off.flatMap(({ mixer, experts, heads, writes }, n) => {
      const name = this.kinds[n] === "full_attention" ? "attention" : "memory";
      const listed = (set, what) => [...set].sort((a, b) => a - b).map((i) => `${what} ${i}`);
      const changed = [...writes].flatMap(([token, there]) => [...there].map(([head, beta]) =>
        `write of memory ${head} at token ${token} (beta ${beta})`));
      const all = [...listed(experts, "expert"), ...listed(heads, "memory"), ...changed];
      return [...(mixer ? [name] : []), ...all].map((part) => `layer ${n}'s ${part}`);
    });
    return said.join(", ");
  }

  /** Whether a write is among it, which may be there and weaker. */
  get edited() {
    return this.off.some(({ writes }) => [...writes.values()].some(({ size }) => size));
  }

  /** part: "mixer", an expert's number, or "m" and a head's; of what is not there, nothing. */
  flip(layer, part) {
    const off = this.off[layer];
    const [, memory, number] = /^(m?)(\d+)$/.exec(part) ?? [];
    const [set, end] = memory ? [off?.heads, this.H] : [off?.experts, this.E];
    if (!off || Number(number) >= end || (memory && this.kinds[layer] === "full_attention")) return;
    if (part === "mixer") off.mixer = !off.mixer;
    else if (!set.delete(Number(number))) set.add(Number(number));
    this.tell();
  }

  tell() {
    this.list.textContent = this.words && `${this.edited ? "Changed" : "Switched off"}: ${this.words}.`;
    this.draw();
    this.changed();
  }

  click({ offsetX, offsetY }) {
    const layer = Math.floor((offsetY - TOP) / CELL);
    const expert = Math.floor((offsetX - EDGE) / this.size);
    const head = Math.floor((offsetX - EDGE - this.size * this.E - GAP) / this.size);
    if (expert < this.E) this.flip(layer, expert < 0 ? "mixer" : expert);
    else if (head >= 0) this.flip(layer, `m${head}`);
  }

  draw() {
    const count = this.E + this.H;
    const room = this.root.clientWidth || Infinity;
    this.size = Math.max(4, Math.min(CELL, Math.floor((room - EDGE - GAP) / count)));
    const width = EDGE + this.size * count + GAP;
    const height = TOP + CELL * this.kinds.length;
    const pen = sizeCanvas(this.canvas, width, height);
    const { panel, muted, accent, ramp } = this.look.colours();
    pen.clearRect(0, 0, width, height);
    pen.font = "11px system-ui, sans-serif";
    pen.fillStyle = muted;
    pen.fillText("experts", EDGE, 11);
    pen.fillText("memories", EDGE + this.size * this.E + GAP, 11);
    const cell = (x, y, light, crossed) => {
      const side = [this.size - 2, CELL - 2];
      pen.fillStyle = light > 0.02 ? rampColour(ramp, light) : panel;
      pen.fillRect(x, y, ...side);
      if (!crossed) return;
      pen.strokeStyle = accent;
      pen.lineWidth = 2;
      pen.beginPath();
      pen.moveTo(x, y);
      pen.lineTo(x + side[0], y + side[1]);
      pen.moveTo(x + side[0], y);
      pen.lineTo(x, y + side[1]);
      pen.stroke();
    };
    this.kinds.forEach((kind, n) => {
      const y = TOP + n * CELL;
      const full = kind === "full_attention";
      const { mixer, experts, heads } = this.off[n];
      pen.fillStyle = mixer ? accent : muted;
      pen.fillText(`${n} ${mixer ? "(off)" : full ? "attention" : "delta"}`, 0, y + 10);
      this.experts[n].forEach((light, e) => cell(EDGE + e * this.size, y, light, experts.has(e)));
      if (full) return;
      const left = EDGE + this.size * this.E + GAP;
      this.writes[n].forEach((light, h) => cell(left + h * this.size, y, light, mixer || heads.has(h)));
    });
  }
}
