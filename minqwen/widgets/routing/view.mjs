// The routing explorer: which experts a model chose, for every token in every layer.
//
//   trace -> reading.mjs (what is lit) -> map.mjs, text.mjs, timeline.mjs, panel.mjs
//   select.mjs holds what is selected; each change goes through `update` below.
import { button, frame, node, pointerText, visible } from "../shared/look.mjs";
import { beside, countingShared, onlyTokens } from "../shared/pair.mjs";
import { saveMenu } from "../shared/save.mjs";
import { cellsOf, colourOf } from "./colour.mjs";
import { numbersOf, sideColumns } from "./columns.mjs";
import { ROUTING_CSS } from "./css.mjs";
import { countOnly } from "./data.mjs";
import { createFind } from "./find.mjs";
import { finding, isShown } from "./finding.mjs";
import { keysHelp, listenToKeys } from "./keys.mjs";
import { createMap } from "./map.mjs";
import { createPanel } from "./panel.mjs";
import { createLegend } from "./legend.mjs";
import { readRouting } from "./reading.mjs";
import { caption, pointedAt, sentence, status } from "./say.mjs";
import { createStore } from "./select.mjs";
import { createText } from "./text.mjs";
import { createTimeline } from "./timeline.mjs";
import { asBytes, parseTrace } from "../shared/trace.mjs";

// While scrubbing, each step draws the map, the cursor and the text line.
const SOON = 120; // milliseconds between two updates of tints and panel
const REST = 300; // without a change, until what needs all tokens is updated
const PAUSE = 50; // between two pieces of what is counted ahead

/** Draws the explorer of model's traits `trace` and `other` (bytes) into `el`; with
 * options.page, below a title that says what it is. */
export function mount(el, model, options = {}) {
  const look = frame(el, ROUTING_CSS);
  let view = null;
  const start = () => {
    view?.undo();
    view = null;
    look.root.replaceChildren();
    let read = null;
    try {
      read = readBoth(model);
    } catch (error) {
      const said = `This trace cannot be shown: ${error.message}`;
      return look.root.append(node("p", { role: "alert" }, said));
    }
    view = build(look, read, options);
  };
  // A trace that only grew keeps the view as it is.
  const renew = () => view?.grow(model.get("trace"), 0) || start();
  const heard = (message, [bytes] = []) => message?.kind === "grow" && view?.grow(bytes, message.from);
  const events = { "change:trace": renew, "change:other": start, "msg:custom": heard };
  start();
  for (const [event, run] of Object.entries(events)) model.on(event, run);
  return () => {
    for (const [event, run] of Object.entries(events)) model.off(event, run);
    view?.undo();
    look.remove();
  };
}

function readBoth(model) {
  const bytes = model.get("trace");
  if (!bytes || !asBytes(bytes).length) throw new Error("there is no trace yet.");
  const trace = parseTrace(bytes);
  if (!trace.K) throw new Error("its model has no experts, so nothing was routed.");
  const { other, T, said, places, names } = beside(model, trace);
  const [mine, theirs] = [trace, other].map((each, i) => each && onlyTokens(each, T, places?.[i]));
  return {
    reading: readRouting(mine, theirs, names, said),
    model: places ? countingShared(model, places[0]) : model,
  };
}

function build(look, { reading, model }, { page = false }) {
  const { root } = look;
  const store = createStore(model, reading, (before) => update(before));
  const says = node("p", { class: "says" });
  // Read out when the reader moves, not sixty times a second while it plays.
  says.setAttribute("role", "status");
  const map = createMap({ reading, store, look, hint });
  const tip = pointerText(map.canvas);
  const text = createText({ reading, store, look });
  const timeline = createTimeline({
    reading, store, look, playing: (now) => says.setAttribute("aria-live", now ? "off" : "polite"),
  });
  const panel = createPanel({ reading, store, look });
  const top = node("p", { class: "caption" });
  const invite = node("span", { class: "muted" }, " Click a token, a cell, or a layer's number.");
  const tinted = node("p", { class: "muted" });
  const legend = createLegend({ reading, store, look });
  const tools = toolbar(reading, store, map);
  const find = createFind({ reading, store, model, mark });
  const main = node("div", { class: "main" },
    legend.element, top, map.canvas, tip.element, says,
    node("div", { class: "bar" }, tools.element, find.element, saveMenu(
      () => [["experts", map.canvas], ["text", timeline.canvas]], () => (map.draw(), timeline.draw()),
      () => numbersOf(reading, store.state.selected))));
  const words = node("div", { class: "words" }, text.list, text.pages, tinted, timeline.element);
  const found = node("p", { class: "finding" });
  const show = node("button", { class: "primary", onclick: () => showFinding() });
  const misfit = !reading.other && reading.said;
  root.append(
    node("div", { class: "bar head" }, node("h2", { class: page && "unseen" }, title(reading)), found),
    misfit ? node("p", { role: "alert" }, misfit) : "",
    node("div", { class: "body" }, words, main, panel.element),
    keysHelp(),
  );
  listenToKeys(root, { reading, store, map, text, timeline, find });

  let columns = [];
  let hinted = null;
  let [soon, resting, followed, first, warming] = [null, null, 0, null, null];

  /** Draws what follows from the state; `before` is the state it had, if any. */
  function update(before, grown = false) {
    const { state } = store;
    const colour = colourOf(reading, state);
    const drawn = ({ selected, order }, colour) => JSON.stringify([selected, order, colour]);
    if (grown || !before || drawn(before, colourOf(reading, before)) !== drawn(state, colour)) {
      columns = sideColumns(reading, state.selected);
      top.replaceChildren(...sentence(caption(reading, state.selected, colour)), invite);
      map.show(cellsOf(reading, state.selected, colour), columns, colour === "differ");
      legend.update();
    } else {
      map.reveal();
      map.draw();
    }
    if (first) showFound();
    timeline.update();
    text.update();
    tools.update();
    find.update();
    says.replaceChildren(...sentence(status(reading, state, columns)));
    if (before?.token !== state.token) text.reveal();
    const wait = followed + SOON - performance.now();
    if (wait <= 0 && soon === null) follow();
    else soon ??= setTimeout(follow, wait);
    clearTimeout(resting);
    resting = setTimeout(settle, REST);
  }

  /** Adds what `bytes`, a trace from token `from` on, brings; false if it does not fit. */
  function grow(bytes, from) {
    const end = reading.T - 1;
    try {
      if (!reading.grow(parseTrace(bytes), from)) return false;
    } catch {
      return false; // the view that is built anew says why
    }
    hinted = first = null;
    found.replaceChildren();
    text.grow();
    find.search();
    update(store.state, true);
    // A reader at the end stays at the end.
    if (store.kind() === "token" && store.state.token === end) store.token(reading.T - 1);
    return true;
  }

  function follow() {
    [soon, followed] = [null, performance.now()];
    text.tint();
    panel.update();
  }

  function settle() {
    const { values, means } = reading.tints(store.state.selected, 0, reading.T);
    timeline.show(values);
    const said = colourOf(reading, store.state) === "kind" ? "kinds of tokens, as in the map" : means;
    tinted.textContent = said && `Tint of the text: ${said}.`;
    panel.settle();
    if (first === null) {
      first = finding(reading) ?? false;
      showFound();
    }
  }

  /** The finding, with a button that shows it or leads back. */
  function showFound() {
    found.hidden = !first;
    if (!first) return;
    if (!found.childElementCount) found.append(node("b", {}, "Found here: "), ...first.parts, " ", show);
    show.textContent = isShown(first, store.state.selected) ? "Back to the token" : "Show it";
  }

  function showFinding() {
    if (isShown(first, store.state.selected)) store.token(store.state.token);
    else store.select(first.selected);
  }

  /** Marks what a search found, wherever it is drawn. */
  function mark(tokens, cells) {
    text.mark(tokens);
    timeline.mark(tokens);
    map.mark(cells);
  }

  /** Says at (x, y) what the map has there; counted anew only for another cell. */
  function hint(place, x, y) {
    if (!place) return tip.hide();
    const key = JSON.stringify([place, store.state.selected]);
    if (hinted?.key !== key) hinted = { key, parts: sentence(pointedAt(reading, store.state, place, columns)) };
    tip.show(x, y, ...hinted.parts);
  }

  function repaint() {
    map.draw();
    legend.update();
    text.repaint();
    timeline.draw();
    panel.update();
    panel.settle();
  }

  const sizes = new ResizeObserver(() => {
    map.resize(Math.floor(main.clientWidth));
    timeline.resize(Math.floor(words.clientWidth));
    text.reveal();
  });
  /** Counts what the whole text will need, piece by piece, before it is asked for. */
  function ahead() {
    const piece = pieces.shift();
    if (piece) warming = setTimeout(() => ahead(piece()), PAUSE);
  }
  const { trace, other, everything } = reading;
  const pieces = [reading.counts, reading.special, reading.carried];
  if (other)
    pieces.push(reading.second.counts, reading.differ, () => countOnly(trace, other, everything),
      () => countOnly(other, trace, everything));

  update(null);
  ahead();
  for (const part of [main, words]) sizes.observe(part);
  look.onTheme(repaint);
  const undo = () => {
    sizes.disconnect();
    for (const timer of [soon, resting, warming]) clearTimeout(timer);
    timeline.stop();
    find.remove();
    store.remove();
  };
  return { grow, undo };
}

function title({ trace, other }) {
  const name = trace.meta.model || "a model";
  return visible(other ? `Experts of ${name}, two traces` : `Experts of ${name}`);
}

/** What is selected, a way to any layer and expert by number, and zoom. */
function toolbar(reading, store, map) {
  const { L, E } = reading;
  const number = (label, most, set) =>
    node("input", { type: "number", min: 0, max: most - 1, "aria-label": label, onchange: set });
  const layer = number("Layer", L, () => store.layer(Number(layer.value)));
  const expert = number("Expert", E, () => {
    if (expert.value === "") store.layer(store.state.layer);
    else store.expert(store.state.layer, Number(expert.value));
  });
  const here = button("Token", "Select the token", () => store.token(store.state.token));
  const all = button("Whole text", "Select the whole text", () => store.all());
  const element = node("div", { class: "bar numbers" },
    here, all, node("label", {}, "Layer", layer), node("label", {}, "Expert", expert),
    button("−", "Zoom out", () => map.zoomAt(0.5)),
    button("+", "Zoom in", () => map.zoomAt(2)),
    button("Fit", "Show all experts", () => map.fit()));
  return {
    element,
    update() {
      const { state } = store;
      layer.value = state.layer;
      expert.value = state.expert ?? "";
      const kind = store.kind();
      layer.parentElement.classList.toggle("on", kind === "layer" || kind === "expert");
      expert.parentElement.classList.toggle("on", kind === "expert");
      here.setAttribute("aria-pressed", kind === "token");
      all.setAttribute("aria-pressed", kind === "all");
    },
  };
}

