// What the canvas shows, in words. A sentence is a list of strings and { text: token };
// `sentence` makes it nodes in which each token's text is isolated and stays text.
import { node } from "../shared/look.mjs";
import { fitting } from "./colour.mjs";
import { kindOf, mean } from "./reading.mjs";
import { percent, whole } from "./words.mjs";

export const LAYER_KINDS = { linear_attention: "delta rule", full_attention: "full attention", unknown: "" };

export const sentence = (parts) =>
  parts.flat().flatMap((part) =>
    part.text === undefined ? part : ["“", node("bdi", { class: "token" }, part.text), "”"]);

/** What rows, columns and lit cells are at this moment: the line above the map. */
export function caption(reading, selected, colour) {
  const { E, K, name, other, names, said } = reading;
  const grey = colour === "differ" ? " Grey is chosen in both, colour in one alone." : "";
  const halves = other
    ? [" Upper half of a row: ", names[0], "; lower half: ", names[1],
      `.${grey}${said && ` ${said}`}`]
    : [];
  const best = K === 1 ? "the expert" : `one of the ${K} experts`;
  const who = {
    token: () => [`A lit cell is ${best} that the layer chose for `, name.part(selected.token)],
    tokens: ([start, end] = selected.tokens) =>
      [`A lit cell is an expert that the ${whole(end - start)} selected tokens chose`],
    expert: () => [
      `A lit cell is an expert that was chosen for the tokens of expert ${selected.expert}`,
      ` in layer ${selected.layer}`, ...(other ? [", as in ", names[0]] : []),
    ],
  }[kindOf(selected)] ?? (() => ["A lit cell is an expert that was chosen, over the whole text"]);
  return [
    `Each row is a layer, each column one of its ${whole(E)} experts. `, ...who(),
    `. ${MEASURES[colour === "differ" ? fitting(reading, selected) : colour]}.`, ...halves,
  ];
}

const MEASURES = {
  weight: "The stronger its colour, the larger its weight",
  rank: "The stronger its colour, the higher its rank",
  load: "The stronger its colour, the more tokens chose it",
  lift: "The stronger its colour, the more often it was chosen",
  kind: "Its colour is the kind of token that it reads most, beyond what all read; faint are the others",
  margin: "The stronger its colour, the closer the choice was",
};

/** What is selected, with the layer in focus: the text line. `columns`: sideColumns(). */
export function status(reading, state, columns) {
  const { selected, layer, expert } = state;
  switch (kindOf(selected)) {
    case "token": return ofToken(reading, selected.token, layer, expert, columns);
    case "expert": return ofExpert(reading, state);
    case "layer": return ofLayer(reading, layer, columns);
    default: return ofTokens(reading, selected, layer, expert, columns);
  }
}

function ofToken(reading, token, layer, expert, columns) {
  const { T, name, trace, other, names } = reading;
  const list = reading.choices(token, layer).map(listed).join(", ");
  const parts = [`Token ${whole(token)} of ${whole(T)}, `, name.part(token)];
  const experts = reading.K === 1 ? "expert" : "experts";
  parts.push(`: layer ${layer}${kindName(trace, layer)} chose ${experts} ${list}`);
  if (trace.runnerUp) parts.push(`, before ${trace.runnerUp[token * reading.L + layer]}`);
  parts.push(...beside(columns, layer), ".");
  if (expert !== null) parts.push(` At expert ${expert}.`);
  if (other) {
    const theirs = reading.second.choices(token, layer).map(listed).join(", ");
    parts.push(" In ", names[1], `: ${theirs}.`);
  }
  return parts;
}

/** A choice as sentences and tables list it. */
export const listed = ({ expert, weight }) => (weight === null ? `${expert}` : `${expert} (${weight.toFixed(2)})`);

/** A layer's kind in brackets, if it is known. */
export const kindName = (trace, layer) => {
  const kind = LAYER_KINDS[trace.layerTypes[layer]];
  return kind ? ` (${kind})` : "";
};

const SPOKEN = {
  differ: "choices that differ", bits: "entropy", router: "the router's own entropy", margin: "margin",
  shared: "shared expert",
};
const beside = (columns, layer) => columns.map(({ key, says }) => `; ${SPOKEN[key]} ${says(layer)}`);

function ofExpert(reading, { selected, token }) {
  const { T, name, second, names } = reading;
  const { layer, expert } = selected;
  const { tokens, weights } = reading.chosenBy(layer, expert);
  const parts = [
    `Layer ${layer}, expert ${expert}: chosen by ${whole(tokens.length)} of ${whole(T)} tokens `,
    `(${percent(tokens.length / T)}, ${reading.timesEven(tokens.length).toFixed(1)} times the even share)`,
  ];
  if (weights?.length) parts.push(`, mean weight ${mean(weights).toFixed(2)}`);
  const at = tokens.indexOf(token);
  parts.push(at < 0 ? "; not by " : "; also by ", `token ${whole(token)}, `, name.part(token));
  if (at >= 0 && weights) parts.push(`, with ${weights[at].toFixed(2)}`);
  parts.push(".");
  if (second) parts.push(" In ", names[1], `: ${alsoBy(tokens, second.chosenBy(layer, expert).tokens)}.`);
  return parts;
}

/** Of two lists of tokens, the second beside the first, in words. */
export function alsoBy(tokens, theirs) {
  const mine = new Set(tokens);
  const both = theirs.filter((t) => mine.has(t)).length;
  return `by ${whole(theirs.length)}, ${whole(both)} of them the same`;
}

function ofLayer(reading, layer, columns) {
  const { E, T, trace, second, names } = reading;
  const { used, effective, busiest, peak } = reading.spread(layer);
  const theirs = second?.spread(layer);
  return [
    `Layer ${layer}${kindName(trace, layer)}, ${whole(T)} tokens: ${whole(used)} of ${whole(E)} `,
    `experts chosen, spread as over ${effective.toFixed(0)} used evenly; most often `,
    `expert ${busiest}, ${peak.toFixed(1)} times the even share`,
    ...beside(columns, layer), ".",
    ...(theirs ? [" In ", names[1], `: as over ${theirs.effective.toFixed(0)}, expert ${theirs.busiest}.`] : []),
  ];
}

function ofTokens(reading, selected, layer, expert, columns) {
  const { T, trace } = reading;
  const positions = reading.selectedTokens(selected);
  const who = selected.tokens
    ? `Tokens ${whole(selected.tokens[0])} to ${whole(selected.tokens[1] - 1)}`
    : `The whole text, ${whole(T)} tokens`;
  const parts = [`${who}; layer ${layer}${kindName(trace, layer)}`, ...beside(columns, layer)];
  if (expert !== null)
    parts.push(`; expert ${expert} chosen by ${whole(reading.times(selected, layer, expert).length)}`);
  if (reading.other)
    parts.push(`; in all ${percent(reading.differIn(positions).share)} of their choices differ`);
  return [...parts, "."];
}

/** What lies under the pointer, while it is there; of the selected tokens alone. */
export function pointedAt(reading, { selected, token }, { layer, expert }, columns) {
  const { second, names, trace } = reading;
  if (expert === null)
    return [`Layer ${layer}${kindName(trace, layer)}`, ...beside(columns, layer), ". Click to select it."];
  const parts = [`Layer ${layer}, expert ${expert}`];
  if (kindOf(selected) !== "token") {
    const all = whole(reading.selectedTokens(selected).length);
    const own = reading.times(selected, layer, expert);
    parts.push(`: chosen by ${whole(own.length)} of ${all} tokens`);
    if (second) parts.push("; in ", names[1], ` ${alsoBy(own, reading.times(selected, layer, expert, second))}`);
    return [...parts, "."];
  }
  const says = (list, who) => {
    const rank = list.findIndex((c) => c.expert === expert);
    if (rank < 0) return parts.push(": not chosen", ...who);
    parts.push(`: rank ${rank + 1} of ${list.length}`, ...who);
    if (list[rank].weight !== null) parts.push(`, weight ${list[rank].weight.toFixed(2)}`);
  };
  says(reading.choices(token, layer), second ? [" in ", names[0]] : []);
  if (second) says(second.choices(token, layer), [" in ", names[1]]);
  return [...parts, "."];
}
