// The conversation with the model in the page: what is written, what lights up meanwhile,
// and, when an answer is done, its trace.

import { bar, table } from "../routing/parts.mjs";
import { node, quoted, visible } from "../shared/look.mjs";
import { EFFECTS_CSS, Effects } from "./effects.mjs";
import { Glow } from "./glow.mjs";
import { Pad } from "./pad.mjs";

export const LIVE_CSS = `
.live { display: grid; gap: 10px 24px; grid-template-columns: minmax(0, 1fr) auto; margin: 10px 0 16px; }
@container (max-width: 800px) { .live { grid-template-columns: minmax(0, 1fr); } }
.log { display: grid; gap: 6px; max-height: 260px; overflow: auto; }
.said { display: grid; grid-template-columns: 5em minmax(0, 1fr); white-space: pre-wrap; }
.said canvas { width: 64px; border: 1px solid var(--line); }
.greeting { max-width: 46em; }
.thought { color: var(--muted); font-style: italic; }
.live textarea { width: 100%; min-height: 3.6em; font: inherit; color: var(--ink);
  background: var(--panel); border: 1px solid var(--edge); border-radius: 4px; padding: 6px; }
.live form { display: grid; gap: 6px; margin-top: 8px; }
.samples button { border-style: dotted; }
.pad { border: 1px solid var(--edge); touch-action: none; cursor: crosshair; image-rendering: pixelated; }
.pad-box { display: grid; gap: 6px; justify-content: start; }
.moved td, .moved th { padding: 0 10px 0 0; }
.moved .level { display: inline-block; width: 80px; height: 9px;
  background: linear-gradient(to right, var(--first) var(--level), var(--line) 0); }
.glow input { width: 4.5em; font: inherit; color: var(--ink); background: var(--panel);
  border: 1px solid var(--edge); border-radius: 4px; padding: 2px 4px; }
.glow { max-width: 34em; min-width: 0; }
${EFFECTS_CSS}`;
const GREETING =
  "A whole model is in this page and runs in your browser; nothing is sent anywhere. It has " +
  "every part of Qwen3.5-397B-A17B, and is so small that it knows nothing of the world: it " +
  "keeps notes, adds numbers, reads small pictures, and repeats.";
const SAMPLES = [
  ["A note, overwritten", "The key is in the drawer. Now the key is in the garage. Where is the key?"],
  ["Eight notes", "Tom has 3 pears. Mary has 8 pears. Sam has 4 pears. Helen has 9 pears. Now Tom has 6 pears. " +
    "Lars has 2 pears. Mia has 5 pears. Oscar has 7 pears. How many pears does Tom have?"],
  ["A sum, thinking", "What is 348 + 275?", { thinking: true }],
  ["A drawn digit", "Which digit is this?", { pad: true }],
  ["What it is", "Who are you?"],
];

/** How the next token's distribution moved, as of `moved` in answer.mjs. */
function movedTable({ text, bits, rows }) {
  const after = text ? ["after “…", node("bdi", { class: "token" }, visible([...text].slice(-40).join(""))), "”"] : "first of the answer";
  const share = (value) => [bar(value), ` ${(100 * value).toFixed(1)} %`];
  return node("div", { class: "moved" },
    node("p", { class: "muted" }, "How likely the next token is, ", after, `: moved by ${bits.toFixed(2)} bits (KL).`),
    table(["next token", "before", "now"], rows.map(([token, ...shares]) =>
      [node("bdi", { class: "token" }, `“${quoted(token)}”`), ...shares.map(share)])));
}

export class Live {
  /** worker: the model's; look: a frame; done(bytes, other) takes each answer's trace, and
   * that of the same question asked again. given: {ask, without, write} of an address; open({layer, expert})
   * shows an expert of the last answer. */
  constructor(worker, look, done, given, open) {
    Object.assign(this, { worker, look, done, given, open, messages: [], pictures: [] });
    this.log = node("div", { class: "log", role: "log", "aria-label": "Conversation", tabindex: 0 });
    this.clear();
    this.words = node("textarea", { "aria-label": "What to say to the model", placeholder: "Say something" });
    this.think = node("input", { type: "checkbox" });
    this.drawn = node("select", { "aria-label": "How tokens are chosen" },
      node("option", { value: 0 }, "likeliest token"),
      node("option", { value: 0.7 }, "drawn, temperature 0.7"),
      node("option", { value: 1 }, "drawn, temperature 1"));
    this.pad = new Pad();
    this.pad.root.hidden = true;
    this.picture = node("button", { type: "button", "aria-pressed": "false",
      onclick: () => this.showPad(this.pad.root.hidden) }, "Draw a picture");
    this.go = node("button", { type: "submit", disabled: true }, "Answer");
    this.stop = node("button", { type: "button", disabled: true,
      onclick: () => worker.postMessage({ kind: "stop" }) }, "Stop");
    this.status = node("span", { class: "muted", role: "status" }, "The model is being unpacked.");
    this.again = node("button", { type: "button", disabled: true, onclick: () => this.askAgain() },
      "Ask again");
    const anew = node("button", { type: "button", onclick: () => this.clear() }, "New chat");
    const samples = SAMPLES.map(([name, text, options]) =>
      node("button", { type: "button", onclick: () => this.sample(text, options) }, name));
    const form = node("form", {}, this.words, this.pad.root,
      node("div", { class: "bar" }, this.go, this.again, this.stop, anew, this.picture,
        node("label", {}, this.think, " think first"), this.drawn, this.status),
      node("div", { class: "bar samples" }, node("span", { class: "muted" }, "Try:"), samples));
    form.addEventListener("submit", (event) => {
      event.preventDefault();
      this.ask();
    });
    this.words.addEventListener("keydown", (event) => {
      if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
      event.preventDefault();
      form.requestSubmit();
    });
    this.root = node("section", { class: "live", "aria-label": "The model" },
      node("div", {}, this.log, form));
    worker.onmessage = ({ data }) => this[data.kind](data);
    worker.onerror = (event) => this.failed({ words: event.message ?? "its thread ended" });
  }

  sample(text, { thinking = false, pad = false } = {}) {
    this.words.value = text;
    this.think.checked = thinking;
    this.showPad(pad);
    this.words.focus();
  }

  showPad(shown) {
    this.pad.root.hidden = !shown;
    this.picture.setAttribute("aria-pressed", shown);
  }

  clear() {
    this.worker.postMessage({ kind: "stop" });
    Object.assign(this, { messages: [], pictures: [] });
    this.pending = this.before = null;
    this.effects?.clear();
    this.log.replaceChildren(node("p", { class: "muted greeting" }, GREETING));
  }

  ask() {
    const text = this.words.value.trim();
    if (!text || this.go.disabled) return;
    const shown = !this.pad.root.hidden && !this.pad.empty;
    const message = { role: "user", text, pictures: shown ? 1 : 0 };
    const asked = [...this.messages, message];
    const pictures = [...this.pictures, ...(shown ? [this.pad.pixels()] : [])];
    this.say("you", shown && this.pad.copy(), visible(text));
    const sampling = { temperature: Number(this.drawn.value), topK: 20, topP: 0.95 };
    this.pending = { messages: asked, pictures, thinking: this.think.checked, sampling };
    this.before = null;
    this.begin();
    this.words.value = "";
    this.showPad(false);
    this.pad.clear();
  }

  /** The last question once more, with the switches as they are now. */
  askAgain() {
    this.before = this.last;
    this.begin();
  }

  begin() {
    const { off, words } = this.glow;
    this.thought = node("span", { class: "thought" });
    this.answer = node("span");
    const who = !words ? "model" : this.glow.edited ? "model changed" : "model without";
    this.say(who, words && node("p", { class: "muted" }, words),
      this.thought, this.answer);
    this.begun = performance.now();
    this.count = this.seen = 0;
    this.busy(true);
    this.effects.clear();
    this.worker.postMessage({ kind: "ask", ...this.pending, off, again: Boolean(this.before) });
  }

  say(who, ...parts) {
    this.log.append(node("div", { class: "said" },
      node("span", { class: "muted" }, who), node("span", {}, parts)));
    this.log.scrollTop = this.log.scrollHeight;
  }

  busy(on) {
    this.go.disabled = on;
    this.again.disabled = on || !this.pending;
    this.stop.disabled = !on;
  }

  // What the worker tells.

  ready({ text }) {
    this.glow = new Glow(text, this.look, () => {
      this.status.textContent = this.pending ? "Ask again to see what changes." : "";
    });
    this.effects = new Effects(text, this.worker, this.open);
    for (const kind of ["uses", "cause", "mapped"]) this[kind] = (told) => this.effects[kind](told);
    this.root.firstChild.append(this.effects.root);
    this.root.append(this.glow.root);
    const { ask = "", without: [layer, part = "mixer"] = [], write = [] } = this.given;
    this.words.value ||= ask;
    this.glow.flip(layer, part);
    this.glow.edit(...write);
    this.status.textContent = "";
    this.busy(false);
    performance.mark("ready");
  }

  read({ done, of, lights }) {
    this.glow.light(lights);
    if (!this.count) this.status.textContent = `reading: ${done} of ${of} tokens`;
    this.seen = done;
  }

  token({ text, thinking }) {
    if (!this.count++) performance.mark("first token");
    (thinking ? this.thought : this.answer).append(visible(text));
    this.log.scrollTop = this.log.scrollHeight;
  }

  finished({ text, reason, bytes, moved }) {
    const { messages, pictures } = this.pending;
    this.messages = [...messages, { role: "assistant", text }];
    this.pictures = pictures;
    const each = (performance.now() - this.begun) / Math.max(1, this.seen);
    const how = { length: "cut off after the most tokens it may write", stopped: "stopped" }[reason];
    const count = `${this.seen - this.count} tokens read, ${this.count} written, ${each.toFixed(0)} ms each`;
    this.status.textContent = how ? `${count}; ${how}` : count;
    if (moved) this.log.append(movedTable(moved));
    this.log.scrollTop = this.log.scrollHeight;
    this.busy(false);
    this.effects.offer(this.seen, each);
    this.last = bytes;
    this.done(this.before ?? bytes, this.before && bytes);
  }

  failed({ words }) {
    this.status.textContent = visible(`That failed: ${words}`);
    this.busy(false);
  }
}
