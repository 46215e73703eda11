// StateExplorer's page: its controls and canvases, built once, empty.

import { node, pointerText } from "../shared/look.mjs";
import { PICTURE_CSS } from "../shared/picture.mjs";
import { STEPS } from "./data.mjs";
import { FORMULAS } from "./words.mjs";

export const CSS = `${PICTURE_CSS}
.top { display: grid; gap: 8px; }
.sliders { display: grid; grid-template-columns: 1fr; gap: 4px 16px; }
.sliders label, .heads label { display: flex; gap: 8px; align-items: center; }
.sliders input { flex: 1; min-width: 90px; }
.sliders span { flex: none; min-width: 6em; font-variant-numeric: tabular-nums; }
.heads { gap: 6px 24px; margin-bottom: 8px; }
.heads label { white-space: nowrap; min-width: 0; }
.heads select { min-width: 0; max-width: 26em; }
.text {
  max-height: 7.2em; overflow-y: auto; border: 1px solid var(--line); border-radius: 4px;
  padding: 4px 6px; font-size: 12px; line-height: 1.55; white-space: pre-wrap;
}
.text .token { cursor: pointer; border-radius: 2px; }
.text .now { outline: 2px solid var(--accent); }
.text .probe { text-decoration: underline 2px; text-underline-offset: 3px; }
.panels { display: grid; grid-template-columns: 1fr; gap: 14px 18px; margin-top: 10px; }
figure {
  margin: 0; min-width: 0; position: relative;
  /* Neighbours' canvases start at one height, whatever their captions take. */
  display: grid; grid-row: span 2; grid-template-rows: subgrid; row-gap: 4px;
}
canvas { cursor: crosshair; }
.memory canvas, .step canvas { cursor: default; }
.say { min-height: 5.8em; }
.kinds { margin: 2px 0 0; gap: 2px 12px; }
@container (min-width: 560px) {
  .panels { grid-template-columns: 1fr 1fr; }
  .sliders { grid-template-columns: 1fr 1fr; }
  .say { min-height: 4.4em; }
}
@container (min-width: 1020px) {
  .panels { grid-template-columns: 1fr 1fr 1fr; }
  .top { grid-template-columns: 1fr 1fr; }
  .top > .bar, .sliders { grid-column: 1 / -1; }
  .text { max-height: 8.4em; } .say { min-height: 8.4em; }
}
`;

const KINDS = { writes: " errors written, a e", values: " values, w v" };
const HELP =
  "Blue is above zero, orange below, by the square root of the size. " +
  "Keys: left and right move through tokens, comma and full stop through a token's " +
  "steps, up and down move the probe, space plays, Home and End go to the ends.";

/** A titled canvas; words say what is in it to those who do not see it. */
function panel(name, title, about, ...more) {
  const canvas = node("canvas", { role: "img", "aria-label": `${title}. ${about}` });
  const tip = pointerText(canvas);
  const said = [node("h3", {}, title), node("p", { class: "muted" }, about), more];
  const figure = node("figure", { class: name }, node("figcaption", {}, said), canvas, tip.element);
  return { figure, canvas, tip };
}

function slider(name, words) {
  const value = node("span");
  const input = node("input", { type: "range", min: 0, step: 1, "aria-label": words });
  return { input, value, label: node("label", {}, name, input, value) };
}

/** All elements, in {root's children, and each by name}. rival: a second trace's name. */
export function build(T, attention, rival) {
  const select = node("select", { "aria-label": "Head" });
  const steps = STEPS.map((step, n) =>
    node("button", { title: FORMULAS[step] }, `${n + 1} ${step[0].toUpperCase()}${step.slice(1)}`));
  const [playSteps, playTokens] = [node("button"), node("button")];
  const token = slider("now", "Token, now");
  const probe = slider("probe", "Token whose key is asked, the probe");
  for (const { input } of [token, probe]) input.max = T - 1;
  const around = { role: "group", "aria-label": "The tokens around now", tabindex: 0 };
  const text = node("div", { class: "text", ...around });
  const say = node("div", { class: "say", "aria-live": "polite", role: "status" });
  const kinds = Object.keys(KINDS).map((value) => node("input", { type: "radio", name: "kind", value }));
  const panels = {
    memory: panel("memory", "The memory S", "Rows belong to the key, columns to the value."),
    step: panel("step", "This step", ""),
    heads: panel("heads", "All heads", "Dots can be opened; of rings only these two numbers are known."),
    kept: panel(
      "kept", "What is still known",
      "How much of its value each token's key gets back at each later token. Below: the " +
        "probe's share (line), and its cosine (dashed)" +
        (rival ? `; dotted, its share in ${rival}.` : "."),
    ),
    delta: panel(
      "delta", "Where the output comes from",
      "Each token's share of the output's weights. Below: the probe's.",
      node("div", { class: "bar kinds", role: "radiogroup", "aria-label": "Shares of" },
        kinds.map((input) => node("label", {}, input, KINDS[input.value])))),
  };
  const other = node("select", { "aria-label": "Head of true attention" });
  const compared = "The weights of a full layer's head over the same tokens.";
  if (attention) panels.attention = panel("attention", "True attention, for comparison", compared, other);
  const group = { class: "bar", role: "group", "aria-label": "Steps of the rule" };
  const all = [
    node("div", { class: "bar heads" },
      node("h2", {}, "A memory as it is written"), node("label", {}, "head", select)),
    node("div", { class: "top" },
      node("div", group, steps, playSteps, playTokens),
      node("div", { class: "sliders" }, token.label, probe.label), text, say),
    node("div", { class: "panels" }, Object.values(panels).map(({ figure }) => figure)),
    node("p", { class: "muted" }, HELP),
  ];
  return { all, select, other, steps, kinds, playSteps, playTokens, token, probe, text, say, panels };
}
