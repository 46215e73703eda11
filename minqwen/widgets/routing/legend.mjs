// The row above the map: choices of what colour means and of how experts are ordered, and the
// legend of the shades, with unit and range.
import { node, rampColour } from "../shared/look.mjs";
import { COLOURS, colourOf, legend } from "./colour.mjs";
import { differShades, shades } from "./draw.mjs";
import { kindOf } from "./reading.mjs";
import { sentence } from "./say.mjs";

/** Returns { element, update() }. */
export function createLegend({ reading, store, look }) {
  const names = Object.keys(COLOURS).filter((name) => COLOURS[name].of(reading));
  const list = (label, options, choose) =>
    node("select", { "aria-label": label, onchange: ({ target }) => choose(target.value) },
      options.map(([value, text]) => node("option", { value }, text)));
  const colour = list("What colour means", names.map((name) => [name, COLOURS[name].label]), store.colour);
  const order = list("Order of experts", reading.orders.map((name) => [name, name]), store.order);
  const scale = node("div", { class: "legend" });
  return {
    element: node("div", { class: "bar key" },
      node("label", {}, "Colour", colour), scale, node("label", {}, "Experts", order)),
    update() {
      const now = colourOf(reading, store.state);
      [colour.value, order.value] = [now, store.state.order];
      scale.classList.toggle("wide", ["kind", "differ"].includes(now));
      scale.replaceChildren(...scaleParts(reading, store.state.selected, now, look.colours()));
    },
  };
}

/** What shades mean, the sides of a comparison, and the layers' mark. */
function scaleParts(reading, selected, colour, theme) {
  const { title, ticks, kinds } = legend(reading, selected, colour);
  const swatch = (name) => node("span", { class: `swatch ${name}` });
  const parts = kinds
    ? [node("span", {}, title), ...kinds.map(([kind, text]) => node("span", {}, painted(theme, kind), text))]
    : [ramp([title], ticks, shades(theme, colour === "differ"))];
  if (colour === "differ" && kindOf(selected) === "token")
    ["first", "second"].forEach((side, i) =>
      parts.push(node("span", {}, swatch(side), node("span", {}, sentence(["chosen in ", reading.names[i], " only"])))));
  else if (colour === "differ") {
    const ticks = [[0, "none"], [0.5, "half"], [1, "all"]];
    for (const half of [1, 2])
      parts.push(ramp(["of them in ", reading.names[half - 1], " only"], ticks, differShades(theme, half, 0.5)));
  }
  if (reading.trace.layerTypes.includes("full_attention"))
    parts.push(node("span", {}, swatch("full"), "full attention"));
  return parts;
}

function painted(theme, kind) {
  const made = node("span", { class: "swatch" });
  made.style.background = theme.kinds[kind];
  return made;
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
