// The panel beside the map: what there is to know about what is selected.
import { node } from "../shared/look.mjs";
import { choices, largest, overlap } from "./data.mjs";
import { expertView } from "./expert.mjs";
import { layerView, textView } from "./layer.mjs";
import {
  bar, expertButton, facts, heading, layerButton, note, number, subheading, table, tokenButton,
} from "./parts.mjs";
import { CLOSE, weightTop } from "./reading.mjs";
import { kindName, listed } from "./say.mjs";
import { percent, whole } from "./words.mjs";

const VIEWS = { token: tokenView, expert: expertView, layer: layerView, all: textView, tokens: textView };

/** `tools`: { reading, store, look }. Returns { element, update(), settle() }. */
export function createPanel(tools) {
  const element = node("section", { class: "panel", "aria-label": "Details" });
  return {
    element,
    update() {
      const parts = VIEWS[tools.store.kind()](tools);
      element.replaceChildren(...parts.flat(Infinity).filter(Boolean));
    },
    /** What takes too long while scrubbing: added once the selection has come to rest. */
    settle() {
      const slot = element.querySelector(".later");
      if (slot && !slot.childElementCount) slot.append(...likeIt(tools));
    },
  };
}

function tokenView(tools) {
  const { reading, store } = tools;
  const { trace, other, names, name, kinds, K, L, E } = reading;
  const { token, layer } = store.state;
  const at = token * L + layer;
  const rows = ranked(tools, token, layer);
  if (trace.runnerUp) {
    const next = node("span", { class: "muted" }, "the next, not chosen");
    rows.push([K + 1, expertButton(tools, layer, trace.runnerUp[at]), next, ...(other ? [""] : [])]);
  }
  const said = [];
  const say = (what, value, why) =>
    said.push([what, [node("b", {}, value), " ", node("span", { class: "muted" }, why)]]);
  if (trace.routerMargin) say("Margin to the next", ...marginSays(trace.routerMargin[at]));
  if (trace.routerEntropy) {
    const [bits, most] = [trace.routerEntropy[at], Math.log2(E).toFixed(2)];
    say("Entropy of the router", bits.toFixed(2), `of ${most} bits: as ${(2 ** bits).toFixed(1)} experts alike`);
  }
  if (trace.sharedGate)
    say("Gate of the shared expert", trace.sharedGate[at].toFixed(2), "of 1; every token uses it");
  return [
    heading(`Token ${whole(token)}: `, name.part(token)),
    kinds && note(reading.kindNames[kinds[token]]),
    node("p", {}, "In ", layerButton(tools, layer), kindName(trace, layer)),
    table(
      [number("rank"), number("expert"), trace.expertWeights ? "weight" : "note",
        ...(other ? [{ title: node("bdi", {}, plain(names[1])) }] : [])], rows),
    facts(said),
    other && note(`${whole(reading.differIn([token]).total)} of this token's ${whole(K * L)} choices differ.`),
    node("div", { class: "later" }),
    everyLayer(tools, token),
  ];
}

/** A margin, and what it means for the next expert: its share of the last one's weight. */
function marginSays(margin) {
  const part = `${(100 * Math.exp(-margin)).toFixed(0)} %`;
  const close = `a close choice, under ${CLOSE}: `;
  return [margin.toFixed(3), `logits; ${margin < CLOSE ? close : ""}the next would weigh ${part} as much`];
}

/** A trace's name outside a sentence. */
const plain = (name) => name.text ?? name.replace("the ", "");

function ranked(tools, token, layer) {
  const { trace, other, K } = tools.reading;
  const mine = choices(trace, token, layer);
  const theirs = other && choices(other, token, layer);
  const rows = mine.map(({ expert, weight }, k) => {
    const rank = theirs?.findIndex((c) => c.expert === expert);
    const shown = weight === null ? "" : [bar(weight / weightTop(K), rank < 0 ? "first" : ""), weight.toFixed(2)];
    const match = rank < 0 ? node("span", { class: "first" }, "not chosen") : theirs && ranking(theirs[rank], rank);
    return [k + 1, expertButton(tools, layer, expert), shown, ...(theirs ? [match] : [])];
  });
  theirs?.forEach((choice, k) => {
    if (mine.some((c) => c.expert === choice.expert)) return;
    const match = node("span", { class: "second" }, `only here, ${ranking(choice, k)}`);
    rows.push(["–", expertButton(tools, layer, choice.expert), "", match]);
  });
  return rows;
}

const ranking = ({ weight }, k) => `rank ${k + 1}${weight === null ? "" : `, ${weight.toFixed(2)}`}`;

/** All of a token's choices as text; filled when it is opened. */
function everyLayer(tools, token) {
  const { reading } = tools;
  const { trace, L } = reading;
  const details = node("details", {}, node("summary", {}, `All ${L} layers as a table`));
  details.addEventListener("toggle", () => {
    if (!details.open || details.childElementCount > 1) return;
    const margins = trace.routerMargin;
    const rows = Array.from({ length: L }, (_, l) => [
      layerButton(tools, l),
      reading.choices(token, l).map(listed).join(", "),
      ...(margins ? [margins[token * L + l].toFixed(2)] : []),
    ]);
    details.append(table(["layer", "experts, best first", ...(margins ? [number("margin")] : [])], rows));
  });
  return details;
}

function likeIt(tools) {
  const { reading, store } = tools;
  const { token } = store.state;
  const shares = overlap(reading.trace, token, 0, reading.T);
  const nearest = largest(shares, 6).filter((t) => t !== token).slice(0, 5);
  if (!nearest.length) return [];
  return [
    subheading("Tokens with the most similar choices"),
    table(
      ["token", number("place"), number("same experts")],
      nearest.map((t) => [tokenButton(tools, t), whole(t), percent(shares[t])]),
    ),
  ];
}
