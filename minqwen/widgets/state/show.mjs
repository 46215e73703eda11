// One picture of StateExplorer: every canvas, the tokens and the text line.

import { retention, softmaxWeights } from "./delta.mjs";
import { node, rgb, visible } from "../shared/look.mjs";
import { textParts } from "../shared/picture.mjs";
import { STEPS, deltaShares, memoryDuring, peak, stepMatrix } from "./data.mjs";
import { brief, drawCompare, drawMemory, drawStepMatrix, memoryLayout } from "./draw.mjs";
import { drawHeads, drawSquare } from "./squares.mjs";
import {
  FORMULAS, headWords, named, placeWords, probeWords, rivalWords, sharesWords, stepWords,
} from "./words.mjs";

/** Draws the view as it stands; returns where its canvases put things. */
export function show(view) {
  const { ui, token, probe, replay, window } = view;
  const { tokens } = view.trace;
  const parts = replay.step(token);
  const kept = keptOf(view, replay, probe, window[1]);
  const theirs = theirsOf(view);
  const shares = deltaShares(replay, token, view.kind);
  const seen = view.attention && softmaxWeights(view.attention, token);
  view.limits.memory = Math.max(replay.peak, peak(parts.before));
  const now = { ...view, tokens, parts, kept, theirs, shares, seen };
  showControls(view);
  tint(view);
  say(view, now);
  view.shown = {}; // the numbers of the two matrices, for the pointer
  const places = { ...showMemory(view, now), ...showSquares(view, now) };
  for (const [name, place] of Object.entries(places)) {
    // For tests, and for whoever writes a style or a script of their own.
    ui.panels[name].canvas.dataset.place = JSON.stringify(place);
  }
  return places;
}

/** The probe's retention, computed anew only when it or the window has moved. */
function keptOf(view, replay, probe, to, name = "kept") {
  const { of, at, until } = view[name] ?? {};
  if (of !== replay || at !== probe || until !== to)
    view[name] = { of: replay, at: probe, until: to, curves: retention(replay, probe, to) };
  return view[name].curves;
}

/** The same in the second trace, by tokens of the first: NaN at those it does not have. */
function theirsOf(view) {
  const { rival, second, probe, window } = view;
  const [start, until] = [second.at(probe), second.until(window[1])];
  if (!(rival?.done >= until) || start < 0) return null;
  const { share } = keptOf(view, rival, start, until, "theirs");
  const length = Math.max(0, window[1] - probe);
  const there = (_, n) => (second.at(probe + n) < 0 ? NaN : share[second.at(probe + n) - start]);
  return { share: Float32Array.from({ length }, there) };
}

function showControls({ ui, trace, token, probe, step, opened, playing, kind }) {
  ui.select.value = opened;
  for (const [control, at] of [[ui.token, token], [ui.probe, probe]]) {
    control.input.value = at;
    control.input.setAttribute("aria-valuetext", named(trace.tokens, at));
    control.value.textContent = `${at} of ${trace.T}`;
  }
  ui.steps.forEach((button, n) => button.setAttribute("aria-pressed", STEPS[n] === step));
  for (const [what, button] of [["steps", ui.playSteps], ["tokens", ui.playTokens]]) {
    button.setAttribute("aria-pressed", playing === what);
    button.textContent = playing === what ? `❚❚ ${what}` : `▶ ${what}`;
  }
  ui.kinds.forEach((input) => (input.checked = input.value === kind));
  ui.say.setAttribute("aria-live", playing ? "off" : "polite"); // not a sentence a frame
}

function say({ ui }, now) {
  const lines = [`${placeWords(now)} ${stepWords(now)}`, probeWords(now)];
  if (now.second.other) lines.push(rivalWords(now));
  if (now.seen) {
    const { layer, head } = now.attention;
    const of = `of true attention in layer ${layer}, head ${head}`;
    lines.push(sharesWords(now.seen, now.tokens, now.token, of));
  }
  ui.say.replaceChildren(...lines.map((line) => node("p", {}, line)));
}

function showMemory({ ui, heads, recorded, opened, limits, held, shown }, now) {
  const { parts, step, head } = now;
  const { K, V } = head;
  const colours = held.colours();
  const wide = (panel) => panel.figure.clientWidth;
  const { memory, step: own, heads: all } = ui.panels;
  const data = { parts, memory: memoryDuring(parts, step), step, limits, K, V };
  const selected = heads.indexOf(recorded[opened]);
  all.canvas.setAttribute("aria-label", `All heads. Open: ${headWords(recorded[opened])}`);
  memory.canvas.setAttribute("aria-label", `The memory, ${K} by ${V} numbers, during: ${step}`);
  own.canvas.setAttribute("aria-label", `This step: ${ABOUT[step]}`);
  own.figure.querySelector("h3").textContent = `This step: ${FORMULAS[step]}`;
  own.figure.querySelector("p").textContent = ABOUT[step];
  const values = stepMatrix(parts, step, K, V);
  const matrix = { values, limit: peak(values) };
  Object.assign(shown, { memory: data.memory, step: step === "compare" ? null : values });
  matrix.sums = {
    ask: { name: "gets back", values: parts.known, limit: limits.value },
    answer: { name: "output", values: parts.output, limit: peak(parts.output) },
  }[step];
  const height = Math.max(240, memoryLayout(wide(all), K, V).height); // as its neighbours
  return {
    heads: drawHeads(all.canvas, wide(all), { heads, selected, height }, colours),
    memory: drawMemory(memory.canvas, wide(memory), data, colours),
    step: step === "compare"
      ? drawCompare(own.canvas, wide(own), { parts, K, V }, colours)
      : drawStepMatrix(own.canvas, wide(own), { ...matrix, K, V }, colours),
  };
}

const ABOUT = {
  forget: "What fades away.",
  ask: "Each row times the key's number; a column's sum is what the key gets back.",
  compare: "The value, what the key gets back, and beta times the difference.",
  write: "What is added: the key's number for the row, times the error's for the column.",
  answer: "Each row times the query's number; a column's sum is the output.",
};

function showSquares({ ui, squares, held, window }, now) {
  const { token, probe, kept, theirs, shares, seen } = now;
  const draw = (name, data) => {
    const { canvas, figure } = ui.panels[name];
    const place = { token, probe, square: squares[name], ...data };
    return drawSquare(canvas, figure.clientWidth, place, held.colours());
  };
  const { side } = squares.kept;
  const inside = probe >= window[0] && probe < window[1];
  const weights = (square, all) => {
    const values = Array.from({ length: window[1] - probe }, (_, n) => square.at(probe, probe + n));
    const top = Math.max(0.05, peak(all));
    return { column: Array.from(all.slice(window[0])), rows: inside ? [{ values }] : [], top };
  };
  const places = {
    kept: draw("kept", {
      column: Array.from({ length: side }, (_, n) => squares.kept.at(window[0] + n, token)), top: 1,
      rows: [
        { values: kept.share }, { values: kept.cosine, dash: [4, 3], colour: "muted" },
        ...(theirs ? [{ values: theirs.share, dash: [2, 3], colour: "ink" }] : []),
      ],
    }),
    delta: draw("delta", weights(squares.delta, shares)),
  };
  if (seen) places.attention = draw("attention", weights(squares.attention, seen));
  return places;
}

/** The tokens of the window, as text with its pictures; line breaks are kept and marked. */
export function showText(view) {
  const { ui, trace, window: [from, to] } = view;
  const words = (t) => visible(trace.tokens[t]).replaceAll("\n", "⏎\n") || "·";
  const token = (t, shown = words(t)) => {
    const patch = shown === "" ? " patch" : "";
    return (view.spans[t - from] = node("span", { class: `token${patch}`, "data-token": t }, shown));
  };
  view.spans = [];
  ui.text.replaceChildren(...textParts(trace, from, to, (t) => token(t), (t) => token(t, "")));
}

/** Colours each token by how much of its value it would get back now. */
function tint({ ui, spans, squares, token, probe, window, held }) {
  const full = rgb(held.colours().tint).join(" ");
  spans.forEach((span, n) => {
    const part = Math.max(0, Math.min(1, squares.kept.at(window[0] + n, token) || 0));
    span.style.backgroundColor = `rgb(${full} / ${span.matches(".patch") ? 0.7 * part : part})`;
    span.classList.toggle("now", window[0] + n === token);
    span.classList.toggle("probe", window[0] + n === probe);
  });
  const now = spans[token - window[0]];
  const top = now.offsetTop + (now.offsetParent.matches(".picture") ? now.offsetParent.offsetTop : 0);
  ui.text.scrollTop = top - ui.text.offsetTop - ui.text.clientHeight / 2;
}

/** What the canvas of a panel has at (x, y), in words; null where it has nothing to say. */
export function pointedAt(view, name, x, y) {
  const { heat, cell, from, side, dots, matrix } = view.places?.[name] ?? {};
  const { tokens } = view.trace;
  if (dots) {
    const n = nearest(dots, x, y);
    return n < 0 ? null : `${headWords(view.heads[n])}${view.heads[n].recorded ? "; click to open" : "; not recorded"}`;
  }
  if (heat) {
    const [t, j] = [(x - heat.x) / cell, (y - heat.y) / cell].map((n) => from + Math.floor(n));
    if (t < from || j < from || t >= from + side || j >= from + side) return null;
    if (j > t) return `${named(tokens, j)}: not written yet at token ${t}`;
    return `${named(tokens, j)}, at ${named(tokens, t)}: ${brief(view.squares[name].at(j, t))}${UNITS[name]}`;
  }
  const values = view.shown?.[name];
  const { K, V } = view.head;
  const [i, j] = matrix ? [Math.floor(((y - matrix.y) / matrix.h) * K), Math.floor(((x - matrix.x) / matrix.w) * V)] : [-1, -1];
  if (!values || i < 0 || j < 0 || i >= K || j >= V) return null;
  return `row ${i} of the key, column ${j} of the value: ${brief(values[i * V + j])}`;
}

const UNITS = {
  kept: " of its value", delta: " of the output's weights", attention: " of attention",
};

/** Which of the dots is nearest, within reach; else -1. */
export function nearest(dots, x, y, allowed = () => true) {
  let [best, least] = [-1, 20];
  dots.forEach(([left, top], n) => {
    const away = Math.hypot(x - left, y - top);
    if (allowed(n) && away < least) [best, least] = [n, away];
  });
  return best;
}
