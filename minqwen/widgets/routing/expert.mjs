// The panel of an expert: who chose it, and what they have in common.
import { node, quoted } from "../shared/look.mjs";
import {
  bar, expertButton, heading, note, number, subheading, table, tokenButton,
} from "./parts.mjs";
import { mean } from "./reading.mjs";
import { alsoBy } from "./say.mjs";
import { commonTexts, context, mixOfKinds, percent, whole } from "./words.mjs";

export function expertView(tools) {
  const { reading, store } = tools;
  const { T, second, names } = reading;
  const { layer, expert } = store.state.selected;
  const { tokens, weights } = reading.chosenBy(layer, expert);
  const lift = reading.timesEven(tokens.length);
  const head = [
    heading(`Layer ${layer}, expert ${expert}`),
    node("p", {}, "Chosen by ", node("b", {}, whole(tokens.length)),
      ` of ${whole(T)} tokens, ${lift.toFixed(1)} times the even share`,
      weights?.length ? `; mean weight ${mean(weights).toFixed(2)}.` : "."),
    second && note("In ", names[1], `: ${alsoBy(tokens, second.chosenBy(layer, expert).tokens)}.`),
  ];
  if (!tokens.length) return [...head, note("No token of this text chose it.")];
  return [...head, inCommon(reading, tokens), inContext(tools, tokens, weights), partners(tools, layer, expert)];
}

function inCommon(reading, chosen) {
  const { tokens, kinds, name, trace } = reading;
  if (!kinds && !trace.tokenIds) return null; // numbers of places have nothing in common
  const mix = kinds && mixOfKinds(reading, chosen).filter((row) => row.share > 0).slice(0, 4);
  const texts = commonTexts(tokens, chosen, name.isPatch, 5);
  return [
    subheading("What its tokens have in common"),
    mix && table(
      ["kind", "share of them", number("of all")],
      mix.map(({ kind, share, overall }) => [kind, [bar(share), percent(share)], percent(overall)])),
    texts.length > 0 && table(
      ["text", number("times"), number("of")],
      texts.map(({ text, times, of }) =>
        [node("bdi", { class: "token code" }, quoted(text) || "∅"), whole(times), whole(of)])),
  ];
}

/** The tokens it weighs most, each in its line of text. */
function inContext(tools, tokens, weights) {
  const { reading } = tools;
  const order = [...tokens.keys()];
  if (weights) order.sort((a, b) => weights[b] - weights[a]);
  const line = (i) => {
    const { before, token, after } = context(reading.tokens, tokens[i], reading.name.short);
    return node("li", {},
      node("span", { class: "before" }, node("bdi", {}, before)),
      tokenButton(tools, tokens[i], token), node("bdi", { class: "after" }, after),
      weights && node("span", { class: "muted" }, weights[i].toFixed(2)));
  };
  return [
    subheading(weights ? "Where its weight is largest" : "Where it was chosen"),
    node("ul", { class: "lines code" }, order.slice(0, 8).map(line)),
  ];
}

function partners(tools, layer, expert) {
  const pairs = tools.reading.pairs(layer, 4, expert);
  if (!pairs.length) return null;
  const rows = pairs.map(({ a, b, times, lift }) => [
    expertButton(tools, layer, a === expert ? b : a), whole(times), `${lift.toFixed(1)}×`,
  ]);
  return [
    subheading("Chosen together with, in its layer"),
    table([number("expert"), number("times"), number("as chance")], rows),
  ];
}
