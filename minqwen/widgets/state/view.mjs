// StateExplorer: one delta head's memory as it is written, replayed from its trace.
//
// Traits, all synced: head [layer, head], token and probe (positions), step (a name).

import { Replay } from "./delta.mjs";
import { frame, node, reducedMotion } from "../shared/look.mjs";
import {
  STEPS, attentionSquare, deltaSquare, loadHead, overview, peak, recordedHeads,
  retentionSquare, windowAt,
} from "./data.mjs";
import { CSS, build } from "./panels.mjs";
import { nearest, pointedAt, show, showText } from "./show.mjs";
import { headWords, traceName } from "./words.mjs";
import { besideMemory } from "../shared/pair.mjs";
import { saveMenu } from "../shared/save.mjs";
import { parseTrace } from "../shared/trace.mjs";

const SLICE = 10; // milliseconds of background work between two looks at the page
const TRAITS = ["head", "token", "probe", "step"];
const PACE = { steps: 900, tokens: 140, calm: 1000 }; // milliseconds a picture stays

/** Draws into `el`; returns what undoes it. A trace that is broken gets one sentence. */
export function mount(el, model) {
  const held = frame(el, CSS);
  let view = null;
  const open = () => {
    view?.close();
    view = null;
    held.root.replaceChildren();
    try {
      view = new View(held, model, parseTrace(model.get("trace")));
    } catch (error) {
      held.root.append(node("p", { role: "alert" }, error.message));
    }
  };
  for (const trait of ["trace", "other"]) model.on(`change:${trait}`, open);
  held.onTheme(() => view?.draw()); // at once: a page that is printed waits for no frame
  open();
  return () => {
    for (const trait of ["trace", "other"]) model.off(`change:${trait}`, open);
    view?.close();
    held.remove();
  };
}

class View {
  constructor(held, model, trace) {
    Object.assign(this, { held, model, trace, playing: "", kind: "writes" });
    this.heads = overview(trace);
    this.recorded = this.heads.filter(({ recorded }) => recorded);
    if (!this.recorded.length)
      throw new Error("the trace holds no head of a delta layer; record it with states=[...].");
    this.others = recordedHeads(trace, "attention");
    this.second = besideMemory(model, trace);
    const { other, said, names } = this.second;
    this.ui = build(trace.T, this.others.length > 0, other && traceName(names[1]));
    if (!other && said) held.root.append(node("p", { role: "alert" }, said));
    const figures = () => Object.entries(this.ui.panels).map(([name, { canvas }]) => [name, canvas]);
    held.root.append(...this.ui.all, saveMenu(figures, () => this.draw()));
    this.fillLists();
    this.listen();
    this.read();
    this.sizes = new ResizeObserver(() => this.redraw());
    this.sizes.observe(held.root);
  }

  close() {
    this.stop();
    this.sizes.disconnect();
    this.closed = true;
    cancelAnimationFrame(this.drawing);
    clearTimeout(this.working);
    for (const name of TRAITS) this.model.off(`change:${name}`, this.read);
  }

  fillLists() {
    const { select, other } = this.ui;
    const fill = (list, places, words) =>
      places.forEach((place, n) => list.append(node("option", { value: n }, words(place))));
    fill(select, this.recorded, headWords);
    fill(other, this.others, ({ layer, head }) => `layer ${layer}, head ${head}`);
    this.openOther(0);
  }

  openOther(n) {
    if (this.others.length) this.attention = loadHead(this.trace, "attention", this.others[n]);
  }

  // ---- what is shown: read from the model, and set in it

  /** Takes the traits over, each brought into its range. */
  read = () => {
    const last = this.trace.T - 1;
    const at = (name, first) => Math.max(0, Math.min(last, (this.model.get(name) ?? first) | 0));
    const [layer, head] = this.model.get("head") ?? [];
    const n = this.recorded.findIndex((place) => place.layer === layer && place.head === head);
    const chosen = n >= 0 ? n : this.longest();
    this.first ??= this.recorded[chosen].fullest; // where it opens; another head keeps the place
    this.token = at("token", this.first);
    this.probe = at("probe", this.first / 3);
    this.step = STEPS.includes(this.model.get("step")) ? this.model.get("step") : STEPS.at(-1);
    this.open(chosen);
    this.redraw();
  };

  /** The recorded head that forgets least: the one with most to see. */
  longest() {
    const longer = (best, { halfLife }, n) => (halfLife > this.recorded[best].halfLife ? n : best);
    return this.recorded.reduce(longer, 0);
  }

  open(n) {
    const window = windowAt(this.token, this.trace.T);
    if (n !== this.opened) {
      this.opened = n;
      this.head = loadHead(this.trace, "delta", this.recorded[n]);
      this.replay = new Replay(this.head);
      this.rival = this.openRival(this.recorded[n]);
      this.limits = { value: peak(this.head.v), memory: 0 };
      this.window = null;
    }
    if (window.join() !== this.window?.join()) {
      this.window = window;
      showText(this);
      this.squares = {};
    }
    const { squares } = this;
    squares.kept ??= retentionSquare(this.replay, window);
    if (squares.delta?.kind !== this.kind) {
      squares.delta = deltaSquare(this.replay, window, this.kind);
      squares.delta.kind = this.kind;
    }
    if (this.attention) squares.attention ??= attentionSquare(this.attention, window);
    this.held.root.dataset.ready = "false";
    clearTimeout(this.working);
    this.working = setTimeout(this.work, 0);
  }

  /** The same head of the second trace, if that holds it. */
  openRival(place) {
    const { other } = this.second;
    if (!other?.has(`delta.${place.layer}.${place.head}.k`)) return null;
    const head = loadHead(other, "delta", place);
    return head.K === this.head.K && head.V === this.head.V ? new Replay(head) : null;
  }

  /** Replays and fills the maps a slice at a time, so that the page stays alive. */
  work = () => {
    if (this.closed) return;
    const [, to] = this.window;
    const replays = [[this.replay, to], [this.rival, this.second.until(to)]];
    const behind = replays.find(([replay, until]) => replay?.done < until);
    if (behind) behind[0].advance(behind[1], SLICE);
    else Object.values(this.squares).find((square) => !square.done)?.advance(SLICE);
    const done = !behind && Object.values(this.squares).every(({ done }) => done);
    if (done || performance.now() - (this.drawn ?? 0) > 200) this.redraw();
    if (!done) this.working = setTimeout(this.work, 0);
    else this.held.root.dataset.ready = "true";
  };

  set(values) {
    for (const [name, value] of Object.entries(values)) this.model.set(name, value);
    this.model.save_changes();
  }

  move(by, name = "token") {
    const to = Math.max(0, Math.min(this.trace.T - 1, this[name] + by));
    this.set({ [name]: to, ...(name === "token" && { step: STEPS.at(-1) }) });
  }

  moveStep(by) {
    const n = STEPS.indexOf(this.step) + by;
    const token = this.token + Math.floor(n / STEPS.length);
    if (token < 0 || token >= this.trace.T) return false;
    this.set({ token, step: STEPS[(n + STEPS.length) % STEPS.length] });
    return true;
  }

  play(what) {
    const stopping = this.playing === what;
    this.stop();
    if (stopping) return;
    this.playing = what;
    const pace = reducedMotion() ? PACE.calm : PACE[what];
    this.timer = setInterval(() => {
      const atEnd = what === "tokens" && this.token === this.trace.T - 1;
      if (atEnd || (what === "steps" && !this.moveStep(1))) this.stop();
      else if (what === "tokens") this.move(1);
    }, pace);
    this.redraw();
  }

  stop() {
    clearInterval(this.timer);
    this.playing = "";
    if (this.ui) this.redraw();
  }

  /** Draws at the next frame, once however much has changed. */
  redraw() {
    cancelAnimationFrame(this.drawing);
    this.drawing = requestAnimationFrame(() => this.draw());
  }

  draw() {
    if (this.closed || !this.held.root.clientWidth) return; // in a hidden tab
    this.places = show(this);
    this.drawn = performance.now();
  }

  // ---- hands

  listen() {
    const { ui } = this;
    for (const name of TRAITS) this.model.on(`change:${name}`, this.read);
    const on = (element, event, run) => element.addEventListener(event, run);
    on(ui.select, "change", () => this.openHead(this.recorded[ui.select.value]));
    on(ui.other, "change", () => {
      this.openOther(ui.other.value);
      delete this.squares.attention;
      this.read();
    });
    on(ui.token.input, "input", () => this.move(ui.token.input.value - this.token));
    on(ui.probe.input, "input", () => this.set({ probe: +ui.probe.input.value }));
    ui.steps.forEach((button, n) => on(button, "click", () => this.set({ step: STEPS[n] })));
    on(ui.playSteps, "click", () => this.play("steps"));
    on(ui.playTokens, "click", () => this.play("tokens"));
    ui.kinds.forEach((input) => on(input, "change", () => {
      this.kind = input.value;
      this.read();
    }));
    on(ui.text, "click", (event) => {
      const t = event.target.dataset?.token;
      if (t !== undefined) this.set(event.shiftKey ? { probe: +t } : { token: +t });
    });
    on(this.held.root, "keydown", (event) => this.key(event));
    for (const name of ["kept", "delta", "attention"]) {
      if (ui.panels[name]) on(ui.panels[name].canvas, "click", (event) => this.pick(name, event));
    }
    on(ui.panels.heads.canvas, "click", (event) => this.pickHead(event));
    for (const [name, { canvas, tip }] of Object.entries(ui.panels)) {
      on(canvas, "pointerleave", tip.hide);
      on(canvas, "pointermove", ({ offsetX: x, offsetY: y }) => {
        const words = pointedAt(this, name, x, y);
        if (words) tip.show(x, y, words);
        else tip.hide();
      });
    }
  }

  key(event) {
    if (event.target.closest("input, select")) return; // they have keys of their own
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    if (event.key === " " && event.target.closest("button")) return; // presses it
    const run = {
      ArrowLeft: () => this.move(-1), ArrowRight: () => this.move(1),
      ArrowUp: () => this.move(-1, "probe"), ArrowDown: () => this.move(1, "probe"),
      Home: () => this.move(-Infinity), End: () => this.move(Infinity),
      ",": () => this.moveStep(-1), ".": () => this.moveStep(1), " ": () => this.play("steps"),
    }[event.key];
    if (!run) return;
    event.preventDefault();
    run();
  }

  /** A click on a map: across is now, down is the token that is asked for. */
  pick(name, event) {
    const { heat, cell, from, side } = this.places[name];
    const token = from + Math.floor((event.offsetX - heat.x) / cell);
    const probe = from + Math.floor((event.offsetY - heat.y) / cell);
    const within = (n) => n >= from && n < from + side;
    this.set({ ...(within(token) && { token }), ...(within(probe) && { probe }) });
  }

  pickHead(event) {
    const recorded = (n) => this.heads[n].recorded;
    const n = nearest(this.places.heads.dots, event.offsetX, event.offsetY, recorded);
    if (n >= 0) this.openHead(this.heads[n]);
  }

  openHead({ layer, head }) {
    this.set({ head: [layer, head] });
  }
}
