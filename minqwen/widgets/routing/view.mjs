// The routing explorer: which experts a model chose, for every token in every layer.
//
//   trace -> reading.mjs (what is lit) -> map.mjs, text.mjs, timeline.mjs, panel.mjs
//   select.mjs holds what is selected; each change goes through `update` below.
import { frame, node, pointerText, rampColour, visible } from "../shared/look.mjs";
import { beside, firstTokens } from "../shared/pair.mjs";
import { sideColumns } from "./columns.mjs";
import { ROUTING_CSS } from "./css.mjs";
import { differShades, shades } from "./draw.mjs";
import { keysHelp, listenToKeys } from "./keys.mjs";
import { createMap } from "./map.mjs";
import { createPanel } from "./panel.mjs";
import { kindOf, legend, readRouting } from "./reading.mjs";
import { caption, pointedAt, sentence, status } from "./say.mjs";
import { createStore } from "./select.mjs";
import { createText } from "./text.mjs";
import { createTimeline } from "./timeline.mjs";
import { asBytes, parseTrace } from "../shared/trace.mjs";

// Each step while scrubbing draws the map, the cursor and the text line. Tints and panel
// follow at most this often (in milliseconds), what needs all tokens once it has stopped.
const SOON = 120;
const REST = 300;

/** Draws the explorer of model's traits `trace` and `other` (bytes) into `el`. */
export function mount(el, model, options = {}) {
  const look = frame(el, ROUTING_CSS);
  let undo = () => {};
  const start = () => {
    undo();
    undo = () => {};
    look.root.replaceChildren();
    let reading = null;
    try {
      reading = readBoth(model);
    } catch (error) {
      const said = `This trace cannot be shown: ${error.message}`;
      return look.root.append(node("p", { role: "alert" }, said));
    }
    undo = build(look, model, reading);
  };
  start();
  for (const trait of ["trace", "other"]) model.on(`change:${trait}`, start);
  return () => {
    for (const trait of ["trace", "other"]) model.off(`change:${trait}`, start);
    undo();
    look.remove();
  };
}

function readBoth(model) {
  const bytes = model.get("trace");
  if (!bytes || !asBytes(bytes).length) throw new Error("there is no trace yet.");
  const trace = parseTrace(bytes);
  if (!trace.K) throw new Error("its model has no experts, so nothing was routed.");
  const { other, T, said, names } = beside(model, trace);
  return readRouting(firstTokens(trace, T), other && firstTokens(other, T), names, said);
}

function build(look, model, reading) {
  const { root } = look;
  const store = createStore(model, reading, (before) => update(before));
  const says = node("p", { class: "says" });
  // Read out when the reader moves, not sixty times a second while it plays.
  says.setAttribute("role", "status");
  const map = createMap({ reading, store, look, hint });
  const tip = pointerText(map.canvas);
  const text = createText({ reading, store, look });
  const timeline = createTimeline({ reading, store, look, playing });
  const panel = createPanel({ reading, store, look });
  const top = node("p", { class: "caption" });
  const tinted = node("p", { class: "muted" });
  const scale = node("div", { class: "legend" });
  const tools = toolbar(reading, store, map);
  const main = node(
    "div", { class: "main" },
    text.list, text.pages, tinted, timeline.element, top, tools.element, map.canvas, tip.element,
    scale, says,
  );
  const misfit = !reading.other && reading.said;
  root.append(
    node(
      "div", { class: "bar head" }, node("h2", {}, title(reading)),
      node("span", { class: "muted" }, "Select a token, a cell, or a layer's row."),
    ),
    misfit ? node("p", { role: "alert" }, misfit) : "",
    node("div", { class: "body" }, main, panel.element),
    keysHelp(),
  );
  listenToKeys(root, { reading, store, map, text, timeline });

  let columns = [];
  let hinted = null;
  let [soon, resting, followed] = [null, null, 0];

  /** Draws what follows from the state; `before` is the state it had, if any. */
  function update(before) {
    const { state } = store;
    const selected = JSON.stringify(before?.selected) !== JSON.stringify(state.selected);
    if (selected) {
      columns = sideColumns(reading, state.selected);
      top.replaceChildren(...sentence(caption(reading, state.selected)).flat());
      map.show(reading.cells(state.selected), columns);
      if (!before || kindOf(before.selected) !== store.kind()) drawScale();
    } else {
      map.reveal();
      map.draw();
    }
    timeline.update();
    text.update();
    tools.update();
    say(status(reading, state, columns));
    if (before?.token !== state.token) text.reveal();
    const wait = followed + SOON - performance.now();
    if (wait <= 0 && soon === null) follow();
    else soon ??= setTimeout(follow, wait);
    clearTimeout(resting);
    resting = setTimeout(settle, REST);
  }

  function follow() {
    [soon, followed] = [null, performance.now()];
    text.tint();
    panel.update();
  }

  function settle() {
    const { values, means } = reading.tints(store.state.selected, 0, reading.T);
    timeline.show(values);
    tinted.textContent = means && `Tint of the text: ${means}.`;
    panel.settle();
  }

  const say = (parts) => says.replaceChildren(...sentence(parts).flat());

  /** What the map has at (x, y), said there; counted again only when it is another cell. */
  function hint(place, x, y) {
    if (!place) return tip.hide();
    const key = JSON.stringify([place, store.state.selected]);
    if (hinted?.key !== key) hinted = { key, parts: sentence(pointedAt(reading, store.state, place)).flat() };
    tip.show(x, y, ...hinted.parts);
  }

  function playing(now) {
    says.setAttribute("aria-live", now ? "off" : "polite");
  }

  function drawScale() {
    scale.replaceChildren(...scaleParts(reading, store.state.selected, look.colours()));
  }

  function repaint() {
    map.draw();
    drawScale();
    text.repaint();
    timeline.draw();
    panel.update();
    panel.settle();
  }

  const sizes = new ResizeObserver(() => {
    map.resize(Math.floor(main.clientWidth));
    timeline.resize(Math.floor(main.clientWidth));
    text.reveal();
  });
  update(null);
  sizes.observe(main);
  look.onTheme(repaint);
  return () => {
    sizes.disconnect();
    clearTimeout(soon);
    clearTimeout(resting);
    timeline.stop();
    store.remove();
  };
}

function title({ trace, other }) {
  const name = trace.meta.model || "a model";
  return visible(other ? `Experts of ${name}, two traces` : `Experts of ${name}`);
}

/** Order, zoom, and a way to any layer and expert by number. */
function toolbar(reading, store, map) {
  const { L, E } = reading;
  const order = node(
    "select",
    { "aria-label": "Order of experts", onchange: () => store.order(order.value) },
    reading.orders.map((name) => node("option", { value: name }, name)),
  );
  const number = (label, most, set) =>
    node("input", { type: "number", min: 0, max: most - 1, "aria-label": label, onchange: set });
  const layer = number("Layer", L, () => store.layer(Number(layer.value)));
  const expert = number("Expert", E, () => {
    if (expert.value === "") store.layer(store.state.layer);
    else store.expert(store.state.layer, Number(expert.value));
  });
  const button = (text, label, run) =>
    node("button", { "aria-label": label, onclick: run }, text);
  const here = button("Token", "Select the token", () => store.token(store.state.token));
  const all = button("Whole text", "Select the whole text", () => store.all());
  const element = node(
    "div", { class: "bar numbers" },
    here, node("label", {}, "Layer", layer), node("label", {}, "Expert", expert), all,
    node("label", {}, "Experts", order),
    button("−", "Zoom out", () => map.zoomAt(0.5)),
    button("+", "Zoom in", () => map.zoomAt(2)),
    button("Fit", "Show all experts", () => map.fit()),
  );
  return {
    element,
    update() {
      const { state } = store;
      order.value = state.order;
      layer.value = state.layer;
      expert.value = state.expert ?? "";
      const on = { layer: store.kind() === "layer", expert: store.kind() === "expert" };
      layer.parentElement.classList.toggle("on", on.layer || on.expert);
      expert.parentElement.classList.toggle("on", on.expert);
      here.setAttribute("aria-pressed", store.kind() === "token");
      all.setAttribute("aria-pressed", store.kind() === "all");
    },
  };
}

/** The legend: what shades mean, the sides of a comparison, and the layers' mark. */
function scaleParts(reading, selected, theme) {
  const { title, ticks } = legend(reading, selected);
  const parts = [ramp([title], ticks, shades(theme, Boolean(reading.other)))];
  const swatch = (name) => node("span", { class: `swatch ${name}` });
  if (reading.other && kindOf(selected) === "token")
    ["first", "second"].forEach((side, i) =>
      parts.push(node("span", {}, swatch(side), node("span", {}, sentence(["chosen in ", reading.names[i], " only"])))));
  else if (reading.other) {
    const ticks = [[0, "none"], [0.5, "half"], [1, "all"]];
    for (const half of [1, 2])
      parts.push(ramp(["of them in ", reading.names[half - 1], " only"], ticks, differShades(theme, half, 0.5)));
  }
  if (reading.trace.layerTypes.includes("full_attention"))
    parts.push(node("span", {}, swatch("full"), "layer with full attention"));
  return parts;
}

/** A scale: its title, a sentence's parts, and [place in 0..1, label] along its colours. */
function ramp(title, ticks, colours) {
  const bar = node("span", { class: "scale" }, ticks.map(([place, label]) => {
    const tick = node("span", {}, label);
    tick.style.left = `${100 * place}%`;
    return tick;
  }));
  const steps = [0, 0.25, 0.5, 0.75, 1].map((x) => rampColour(colours, x));
  bar.style.background = `linear-gradient(90deg, ${steps.join(", ")})`;
  return node("span", {}, node("span", {}, sentence(title)), bar);
}
