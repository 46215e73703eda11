// The map of what each expert does to the conversation's text, as causes.mjs counts it.

import { node } from "../shared/look.mjs";

const [LEAST, DECADES] = [1e-3, 3]; // bits: from there to 1 by their logarithm
const NAMED = 5; // of the strongest, which the keyboard reaches
export const EFFECTS_CSS = `
.causes, .map { display: flex; flex-wrap: wrap; align-items: center; gap: 6px 16px; margin-top: 8px; }
.map { flex-basis: 100%; }
.map p { flex: 1 1 20em; }
.effects { display: grid; gap: 2px; justify-content: start; font-size: 11px; line-height: 14px; }
.effects > * { width: 12px; min-width: 0; height: 12px; min-height: 0; padding: 0; border-radius: 0; border: 0; background: var(--panel); }
.effects > span { width: 64px; background: none; color: var(--muted); }
.effects > button { border: 1px solid var(--edge); }
.effects > .masked { border: 0; background: color-mix(in srgb, var(--ink) var(--far), color-mix(in srgb, var(--first) var(--near), var(--panel))); }
`;

export class Effects {
  /** text: config.json's text_config; open({layer, expert}) shows an expert. */
  constructor({ num_experts: E, num_hidden_layers: L }, worker, open) {
    Object.assign(this, { E, L, worker, open });
    this.start = node("button", { type: "button", onclick: () => this.press() });
    this.status = node("span", { class: "muted", role: "status" });
    this.map = node("div", { class: "map" });
    this.root = node("div", { class: "causes", hidden: true }, this.start, this.status, this.map);
  }

  /** A text of T tokens can be mapped, at this many milliseconds a token. */
  offer(T, each) {
    const seconds = Math.ceil((T * each * this.E * (this.L + 1)) / 2000); // a layer's mask leaves those below it
    this.T = T;
    this.start.textContent = this.label = `What does each expert do? (about ${seconds} s)`;
    this.root.hidden = false;
  }

  /** There is another text now, or none. */
  clear() {
    this.begun = null;
    this.root.hidden = true;
    for (const part of [this.status, this.map]) part.replaceChildren();
  }

  press() {
    if (this.begun) return this.worker.postMessage({ kind: "stop" });
    this.begun = performance.now();
    this.found = [];
    this.start.textContent = "Stop masking";
    this.status.textContent = "reading the text";
    this.worker.postMessage({ kind: "map" });
  }

  // What the worker tells; of a text that is not shown any more, nothing.

  uses({ chosen }) {
    if (!this.begun) return;
    this.cells = chosen.map((row, layer) => row.map((count, expert) =>
      node(count ? "button" : "i", count && {
        type: "button", tabindex: -1, title: `layer ${layer}, expert ${expert}: not masked yet`,
        onclick: () => this.open({ layer, expert }),
      })));
    const rows = this.cells.map((row, layer) => [node("span", {}, `layer ${layer}`), row]);
    const grid = node("div", { class: "effects", role: "group", "aria-label": "What each expert does to the next token" }, rows);
    grid.style.gridTemplateColumns = `repeat(${this.E + 1}, auto)`;
    this.map.replaceChildren(grid, node("p", { class: "muted" }, "Each expert masked in turn, the busiest first: " +
      "by how many bits (KL) the next token's distribution moves, the mean over the " +
      `${this.T} tokens of this conversation, nothing switched off. Faint: 0.001 or less; strong: 1 or more; ` +
      "framed: not masked yet; plain: not chosen in this text. Click one to open it."));
  }

  cause({ layer, expert, kl, count, done, of }) {
    if (!this.begun) return;
    const [cell, shade] = [this.cells[layer][expert], Math.log10(Math.max(LEAST, kl) / LEAST) / DECADES]; // rounding can leave less than 0
    const share = (from) => `${100 * Math.max(0, Math.min(1, 2 * (shade - from)))}%`;
    cell.style.setProperty("--near", share(-0.1));
    cell.style.setProperty("--far", share(0.5));
    cell.className = "masked";
    cell.title = `layer ${layer}, expert ${expert}: ${kl < LEAST ? "less than 0.001" : kl.toPrecision(2)} bits; chosen for ${count} of ${this.T} tokens`;
    this.found.push({ name: `${layer}.${expert} (${kl.toFixed(3)})`, kl, cell });
    const left = ((performance.now() - this.begun) * (of - done)) / done / 1000;
    this.status.textContent = `${Math.floor((100 * done) / of)} %, about ${Math.ceil(left)} s left`;
  }

  mapped({ whole }) {
    if (!this.begun) return;
    const [top, seconds] = [this.found.sort((a, b) => b.kl - a.kl).slice(0, NAMED), (performance.now() - this.begun) / 1000];
    for (const { cell } of top) cell.tabIndex = 0;
    this.begun = null;
    this.start.textContent = this.label;
    this.status.textContent = `${whole ? "All" : "Stopped:"} ${this.found.length} experts masked in ` +
      `${seconds.toFixed(0)} s. Strongest, layer.expert: ${top.map(({ name }) => name).join(", ")}`;
  }
}
