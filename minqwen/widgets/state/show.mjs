// One picture of StateExplorer: every canvas, the tokens and the text line.

import { retention, softmaxWeights } from "./delta.mjs";
import { node, rgb, visible } from "../shared/look.mjs";
import { STEPS, deltaShares, memoryDuring, peak, stepMatrix } from "./data.mjs";
import { drawCompare, drawMemory, drawStepMatrix, memoryLayout } from "./draw.mjs";
import { drawHeads, drawSquare } from "./squares.mjs";
import {
  FORMULAS, headWords, named, placeWords, probeWords, rivalWords, sharesWords, stepWords,
} from "./words.mjs";

/** Draws the view as it stands; returns where its canvases put things. */
export function show(view) {
  const { ui, head, token, probe, step, replay, window } = view;
  const { tokens } = view.trace;
  const parts = replay.step(token);
  const kept = keptOf(view, replay, window[1]);
  const until = Math.min(window[1], view.second.T);
  const ready = view.rival?.done >= until && probe < until;
  const theirs = ready ? keptOf(view, view.rival, until, "theirs") : null;
  const shares = deltaShares(replay, token, view.kind);
  const seen = view.attention && softmaxWeights(view.attention, token);
  view.limits.memory = Math.max(replay.peak, peak(parts.before));
  const now = { ...view, head, tokens, token, probe, step, parts, kept, theirs, shares, seen };
  showControls(view);
  tint(view);
  say(view, now);
  const places = { ...showMemory(view, now), ...showSquares(view, now) };
  for (const [name, place] of Object.entries(places)) {
    // For tests, and for whoever writes a style or a script of their own.
    ui.panels[name].canvas.dataset.place = JSON.stringify(place);
  }
  return places;
}

/** The probe's retention, computed anew only when it or the window has moved. */
function keptOf(view, replay, to, name = "kept") {
  const { probe } = view;
  const { of, at, until } = view[name] ?? {};
  if (of !== replay || at !== probe || until !== to) {
    view[name] = { of: replay, at: probe, until: to, curves: retention(replay, probe, to) };
  }
  return view[name].curves;
}

function showControls({ ui, trace, token, probe, step, opened, playing, kind }) {
  ui.select.value = opened;
  for (const [control, at] of [[ui.token, token], [ui.probe, probe]]) {
    control.input.value = at;
    control.input.setAttribute("aria-valuetext", named(trace.tokens, at));
    control.value.textContent = `${at} of ${trace.T - 1}`;
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

function showMemory({ ui, heads, recorded, opened, limits, held }, now) {
  const { parts, step, head } = now;
  const { K, V } = head;
  const colours = held.colours();
  const wide = (panel) => panel.figure.clientWidth;
  const { memory, step: own, heads: all } = ui.panels;
  const data = { parts, memory: memoryDuring(parts, step), step, limits, K, V };
  const place = recorded[opened];
  const selected = heads.findIndex((h) => h.layer === place.layer && h.head === place.head);
  all.canvas.setAttribute("aria-label", `All heads. Open: ${headWords(heads[selected])}`);
  memory.canvas.setAttribute("aria-label", `The memory, ${K} by ${V} numbers, during: ${step}`);
  own.canvas.setAttribute("aria-label", `This step: ${ABOUT[step]}`);
  own.figure.querySelector("h3").textContent = `This step: ${FORMULAS[step]}`;
  own.figure.querySelector("p").textContent = ABOUT[step];
  const values = stepMatrix(parts, step, K, V);
  const matrix = { values, limit: peak(values) };
  matrix.sums = {
    ask: { name: "gets back", values: parts.known, limit: limits.value },
    answer: { name: "output", values: parts.output, limit: peak(parts.output) },
  }[step];
  const height = Math.max(240, memoryLayout(wide(all), K, V).height); // as its neighbours
  return {
    heads: drawHeads(all.canvas, wide(all), { heads, selected, height }, colours),
    memory: drawMemory(memory.canvas, wide(memory), data, colours),
    step:
      step === "compare"
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
  const column = (square) => ({
    column: Array.from({ length: square.side }, (_, n) => square.at(window[0] + n, token)),
  });
  const rowOf = (square) =>
    Array.from({ length: window[1] - probe }, (_, n) => square.at(probe, probe + n));
  const inside = probe >= window[0] && probe < window[1];
  const weights = (square, all) => {
    const top = Math.max(0.05, peak(all));
    const rows = inside ? [{ values: rowOf(square) }] : [];
    return { column: Array.from(all.slice(window[0])), rows, top };
  };
  const places = {
    kept: draw("kept", {
      ...column(squares.kept), top: 1,
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

/** The tokens of the window, as text; line breaks are kept and marked. */
export function showText({ ui, trace, window: [from, to] }) {
  const words = (t) => visible(trace.tokens[t]).replaceAll("\n", "⏎\n") || "·";
  const tokens = Array.from({ length: to - from }, (_, n) =>
    node("span", { class: "token", "data-token": from + n }, words(from + n)),
  );
  ui.text.replaceChildren(...tokens);
}

/** Colours each token by how much of its value it would get back now. */
function tint({ ui, squares, token, probe, window, held }) {
  const { paper, tint: full } = held.colours();
  const [low, high] = [rgb(paper), rgb(full)];
  for (const span of ui.text.children) {
    const t = +span.dataset.token;
    const share = squares.kept.at(t, token);
    const part = Math.max(0, Math.min(1, share || 0));
    const mixed = low.map((x, i) => Math.round(x + part * (high[i] - x)));
    span.style.backgroundColor = `rgb(${mixed.join(", ")})`;
    span.classList.toggle("now", t === token);
    span.classList.toggle("probe", t === probe);
  }
  const now = ui.text.children[token - window[0]];
  ui.text.scrollTop = now.offsetTop - ui.text.offsetTop - ui.text.clientHeight / 2;
}
