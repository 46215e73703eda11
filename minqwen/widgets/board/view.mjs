// MemoryBoard: pairs written into two small memories, each step in numbers for a pencil.
//
// Traits, all synced: size (2 to 8), pairs, writes (both as in data.mjs), asked (the
// number of the pair asked last, or -1 after a write).

import {
  MOST_PAIRS, SIZES, parseVector, plain, preset, read, replay, vector,
} from "./data.mjs";
import { askLines, readWords, sentence, writeLines } from "./words.mjs";
import { frame, node, rgb } from "../shared/look.mjs";

const CSS = `
h2 { margin-bottom: 6px; }
.bar { gap: 6px 14px; margin: 6px 0; }
.bar label { display: flex; gap: 6px; align-items: center; }
.pairs { list-style: none; display: grid; gap: 6px; }
.pairs li {
  display: flex; flex-wrap: wrap; gap: 4px 10px; align-items: center; padding: 5px 8px;
  background: var(--panel); border-radius: 4px;
}
.pairs label { display: flex; gap: 5px; align-items: center; }
.pairs input {
  font: inherit; color: var(--ink); background: var(--paper); border: 1px solid var(--edge);
  border-radius: 3px; padding: 1px 5px; width: calc(var(--n) * 2.9em + 1em);
  max-width: 100%; min-height: 24px; font-variant-numeric: tabular-nums;
}
.pairs input[aria-invalid="true"] { border: 2px solid var(--accent); }
.reads { flex: 1 1 240px; font-variant-numeric: tabular-nums; }
.memories { display: grid; gap: 12px 28px; margin-top: 12px; }
figure { margin: 0; min-width: 0; }
table {
  margin: 4px 0 6px; font-variant-numeric: tabular-nums; table-layout: fixed;
  width: min(100%, var(--n) * 62px + 50px);
}
td { border: 1px solid var(--line); text-align: center; padding: 0; height: 30px; }
.wide td { font-size: 11px; }
th.side { width: 50px; padding: 0 6px 0 0; color: var(--muted); font-weight: 400; }
tr.sum td { border: 0; color: var(--accent); font-weight: 600; }
.work { font-variant-numeric: tabular-nums; }
.say { margin-top: 10px; min-height: 2.9em; }
@container (min-width: 620px) { .memories { grid-template-columns: 1fr 1fr; } }
`;

const KINDS = {
  Hebbian: { title: "Hebbian memory", rule: "S ← S + k vᵀ" },
  delta: { title: "Delta memory", rule: "S ← S + k eᵀ, e = v − Sᵀk" },
};
const TRAITS = ["size", "pairs", "writes", "asked"];

/** Draws into `el`; returns what undoes it. Needs no trace. */
export function mount(el, model) {
  const held = frame(el, CSS);
  const board = new Board(held, model);
  for (const name of TRAITS) model.on(`change:${name}`, board.show);
  held.onTheme(board.show);
  board.show();
  return () => {
    for (const name of TRAITS) model.off(`change:${name}`, board.show);
    held.remove();
  };
}

class Board {
  constructor(held, model) {
    Object.assign(this, { held, model, shape: "" });
    this.beta = this.slider("beta (how strong)", 0.1);
    this.keep = this.slider("exp(g) (what is kept)", 0.05);
    this.sizes = node(
      "select", { onchange: () => this.resize(+this.sizes.value) },
      SIZES.map((n) => node("option", { value: n }, `${n} × ${n}`)),
    );
    const button = (words, run) => node("button", { onclick: run }, words);
    const keep = (count) => this.set({ writes: this.writes.slice(0, count), asked: -1 });
    this.undo = button("Undo", () => keep(-1));
    this.clear = button("Clear", () => keep(0));
    this.more = button("Add a pair", () => this.add());
    this.list = node("ol", { class: "pairs", "aria-label": "Pairs" });
    this.say = node("p", { class: "say", role: "status", "aria-live": "polite" });
    this.memories = node("div", { class: "memories" });
    held.root.append(
      node("h2", {}, "A memory to do by hand"),
      node(
        "div", { class: "bar" }, node("label", {}, "size", this.sizes),
        this.undo, this.clear, this.more,
      ),
      this.list,
      node("div", { class: "bar" }, "The next write:", this.beta.label, this.keep.label),
      this.say, this.memories,
    );
  }

  slider(words, step) {
    const value = node("span", {}, "1");
    const input = node("input", {
      type: "range", min: 0, max: 1, step, value: 1,
      oninput: () => (value.textContent = plain(+input.value)),
    });
    return { input, label: node("label", {}, words, input, value) };
  }

  set(values) {
    for (const [name, value] of Object.entries(values)) this.model.set(name, value);
    this.model.save_changes();
  }

  resize(n) {
    const pairs = Array.from({ length: Math.min(n, 4) }, (_, i) => preset(i, n));
    this.set({ writes: [], asked: -1, pairs, size: n });
  }

  add() {
    this.set({ pairs: [...this.pairs, preset(this.pairs.length, this.n)] });
    this.list.lastChild.querySelector("input").focus();
  }

  write(pair) {
    const { key, value } = this.pairs[pair];
    const made = { pair, key, value, beta: +this.beta.input.value, keep: +this.keep.input.value };
    this.set({ writes: [...this.writes, made], asked: -1 });
  }

  /** A vector was typed over: taken if it is n numbers, else said. */
  edit(input, pair, part) {
    const numbers = parseVector(input.value, this.n);
    input.setAttribute("aria-invalid", !numbers);
    if (!numbers) {
      const example = vector(preset(pair, this.n)[part]);
      this.say.textContent =
        `${part} ${pair + 1} needs ${this.n} numbers, for example ${example}.`;
      return;
    }
    this.set({ pairs: this.pairs.map((p, i) => (i === pair ? { ...p, [part]: numbers } : p)) });
  }

  show = () => {
    this.n = this.model.get("size");
    const fitting = (name) => this.model.get(name).filter(({ key }) => key.length === this.n);
    this.pairs = fitting("pairs"); // size, pairs and writes change one after the other
    this.writes = fitting("writes");
    this.asked = this.model.get("asked");
    this.results = Object.keys(KINDS).map((kind) => [kind, replay(this.writes, this.n, kind)]);
    this.sizes.value = this.n;
    this.undo.disabled = this.clear.disabled = !this.writes.length;
    this.more.disabled = this.pairs.length >= MOST_PAIRS;
    this.held.root.style.setProperty("--n", this.n);
    this.held.root.classList.toggle("wide", this.n > 5);
    this.showPairs();
    const figures = this.results.map(([kind, result]) => this.figure(kind, result));
    this.memories.replaceChildren(...figures);
    this.say.textContent = sentence(this);
  };

  /** The rows stay while one types; only what is read from the memories changes. */
  showPairs() {
    const shape = `${this.n} ${this.pairs.length}`;
    if (shape !== this.shape) this.list.replaceChildren(...this.pairs.map((_, i) => this.row(i)));
    this.shape = shape;
    this.pairs.forEach((pair, i) => {
      const item = this.list.children[i];
      for (const input of item.querySelectorAll("input")) {
        if (input.getRootNode().activeElement === input) continue;
        input.value = pair[input.name].map((x) => plain(x)).join(", ");
      }
      const words = this.results.map(([kind, { memory }]) => readWords(kind, memory, pair));
      const lines = words.map((line) => node("div", {}, line));
      item.querySelector(".reads").replaceChildren(...lines);
    });
  }

  row(i) {
    const field = (part, name) => {
      const input = node("input", {
        name: part, inputmode: "decimal", autocomplete: "off", spellcheck: "false",
        onchange: () => this.edit(input, i, part),
      });
      return node("label", {}, `${name}${i + 1}`, input);
    };
    const button = (words, run) =>
      node("button", { onclick: run, "aria-label": `${words} k${i + 1}` }, words);
    return node(
      "li", {}, field("key", "k"), field("value", "v"),
      button("Write", () => this.write(i)), button("Ask", () => this.set({ asked: i })),
      node("div", { class: "reads" }),
    );
  }

  /** A memory as a table; beside it the key in use, below it what that key reads. */
  figure(kind, { memory, last }) {
    const key = this.pairs[this.asked]?.key ?? this.writes.at(-1)?.key;
    const top = Math.max(1e-9, ...memory.flat().map(Math.abs));
    const colours = this.held.colours();
    const inCell = (x) => plain(this.n > 5 ? +x.toFixed(2) : x);
    const cell = (x) => {
      const made = node("td", {}, inCell(x));
      made.style.backgroundColor = faint(x / top, colours);
      return made;
    };
    const side = (words) => node("th", { class: "side", scope: "row" }, words);
    const rows = memory.map((row, i) =>
      node("tr", {}, key && side(`${plain(key[i])} ×`), row.map(cell)),
    );
    const found = key && read(memory, key).map((x) => node("td", {}, inCell(x)));
    const sum = key && node("tr", { class: "sum" }, side("reads"), found);
    const { title, rule } = KINDS[kind];
    return node(
      "figure", {}, node("h3", {}, title), node("p", { class: "muted" }, rule),
      node("table", { "aria-label": title }, node("tbody", {}, rows, sum)),
      this.working(kind, memory, last).map((line) => node("p", { class: "work" }, line)),
    );
  }

  /** The last thing done, written out. */
  working(kind, memory, last) {
    const asked = this.pairs[this.asked];
    if (asked) return askLines(memory, asked);
    return last ? writeLines(kind, last, this.writes.at(-1)) : ["Nothing is written yet."];
  }
}

/** A number's colour behind its text: never so strong that the text is hard to read. */
function faint(x, { paper, first, second }) {
  const [low, high] = [rgb(paper), rgb(x < 0 ? second : first)];
  const part = 0.4 * Math.min(1, Math.abs(x));
  return `rgb(${low.map((a, i) => Math.round(a + part * (high[i] - a))).join(", ")})`;
}
