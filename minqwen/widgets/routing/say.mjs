// What the canvas shows, in words. A sentence is a list of strings and { text: token };
// `sentence` makes it nodes in which each token's text is isolated and stays text.
import { node } from "../shared/look.mjs";
import { chosenBy } from "./data.mjs";
import { kindOf } from "./reading.mjs";
import { percent, whole } from "./words.mjs";

export const LAYER_KINDS = {
  linear_attention: "delta rule",
  full_attention: "full attention",
  unknown: "",
};

export function sentence(parts) {
  return parts
    .flat()
    .map((part) =>
      part.text === undefined ? part : ["“", node("bdi", { class: "token" }, part.text), "”"],
    );
}

/** What rows, columns and lit cells are at this moment: the line above the map. */
export function caption(reading, selected) {
  const { E, K, name, other } = reading;
  const grid = `Each row is a layer, each column one of its ${whole(E)} experts. `;
  const halves = other ? " Upper half of a row: the first trace; lower half: the second." : "";
  const best = K === 1 ? "the expert" : `one of the ${K} experts`;
  const who = {
    token: () => [`A lit cell is ${best} that the layer chose for `, name.part(selected.token)],
    tokens: () => [`A lit cell is an expert that the ${count(selected)} selected tokens chose`],
    expert: () => [
      `A lit cell is an expert that was chosen for the tokens of expert ${selected.expert}`,
      ` in layer ${selected.layer}`,
    ],
    layer: () => ["A lit cell is an expert that was chosen, over the whole text"],
    all: () => ["A lit cell is an expert that was chosen, over the whole text"],
  }[kindOf(selected)]();
  return [
    grid,
    ...who,
    `. The stronger its colour, the ${measure(reading, selected)}.${halves}`,
  ];
}

const count = ({ tokens: [start, end] }) => whole(end - start);

function measure(reading, selected) {
  if (kindOf(selected) !== "token") return "more often";
  return reading.trace.expertWeights ? "larger its weight" : "higher its rank";
}

/** What is selected, with the layer in focus: the text line. `columns`: sideColumns(). */
export function status(reading, state, columns) {
  const { selected, layer, expert } = state;
  switch (kindOf(selected)) {
    case "token":
      return ofToken(reading, selected.token, layer, expert, columns);
    case "expert":
      return ofExpert(reading, state);
    case "layer":
      return ofLayer(reading, layer, columns);
    default:
      return ofTokens(reading, selected, layer, expert, columns);
  }
}

function ofToken(reading, token, layer, expert, columns) {
  const { T, name, trace, other } = reading;
  const list = reading.choices(token, layer).map(listed(trace)).join(", ");
  const parts = [`Token ${whole(token)} of ${whole(T)}, `, name.part(token)];
  parts.push(
    `: layer ${layer}${kindName(trace, layer)} chose ${plural(reading.K, "expert")} ${list}`,
  );
  if (trace.runnerUp) parts.push(`, before ${trace.runnerUp[token * reading.L + layer]}`);
  parts.push(...beside(columns, layer), ".");
  if (expert !== null) parts.push(` At expert ${expert}.`);
  if (other) {
    const theirs = reading.choicesOfOther(token, layer).map(listed(other)).join(", ");
    parts.push(` The second trace chose ${theirs}.`);
  }
  return parts;
}

const listed =
  (trace) =>
  ({ expert, weight }) =>
    trace.expertWeights ? `${expert} (${weight.toFixed(2)})` : `${expert}`;

const kindName = (trace, layer) => {
  const kind = LAYER_KINDS[trace.layerTypes[layer]];
  return kind ? ` (${kind})` : "";
};

const plural = (n, word) => (n === 1 ? word : `${word}s`);

const SPOKEN = {
  differ: "choices that differ",
  bits: "entropy",
  margin: "margin",
  shared: "shared expert",
};
const beside = (columns, layer) =>
  columns.map(({ key, says }) => `; ${SPOKEN[key]} ${says(layer)}`);

function ofExpert(reading, { selected, token }) {
  const { T, K, E, name, other } = reading;
  const { layer, expert } = selected;
  const { tokens, weights } = reading.chosenBy(layer, expert);
  const share = tokens.length / T;
  const parts = [
    `Layer ${layer}, expert ${expert}: chosen by ${whole(tokens.length)} of ${whole(T)} tokens `,
    `(${percent(share)}, ${((share * E) / K).toFixed(1)} times the even share)`,
  ];
  if (weights?.length) parts.push(`, mean weight ${mean(weights).toFixed(2)}`);
  const at = tokens.indexOf(token);
  parts.push(at < 0 ? "; not by " : "; also by ", `token ${whole(token)}, `, name.part(token));
  if (at >= 0 && weights) parts.push(`, with ${weights[at].toFixed(2)}`);
  parts.push(".");
  if (other) {
    const theirs = chosenBy(other, layer, expert).tokens;
    const both = theirs.filter((t) => tokens.includes(t)).length;
    parts.push(
      ` In the second trace by ${whole(theirs.length)}, ${whole(both)} of them the same.`,
    );
  }
  return parts;
}

export const mean = (values) => values.reduce((a, b) => a + b, 0) / values.length;

function ofLayer(reading, layer, columns) {
  const { E, T, trace } = reading;
  const { used, effective, busiest, peak } = reading.spread(layer);
  return [
    `Layer ${layer}${kindName(trace, layer)}, ${whole(T)} tokens: ${whole(used)} of ${whole(E)} `,
    `experts chosen, spread as over ${effective.toFixed(0)} used evenly; most often `,
    `expert ${busiest}, ${peak.toFixed(1)} times the even share`,
    ...beside(columns, layer),
    ".",
  ];
}

function ofTokens(reading, selected, layer, expert, columns) {
  const { T, trace, counts } = reading;
  const positions = reading.selectedTokens(selected);
  const who = selected.tokens
    ? `Tokens ${whole(selected.tokens[0])} to ${whole(selected.tokens[1] - 1)}`
    : `The whole text, ${whole(T)} tokens`;
  const parts = [`${who}; layer ${layer}${kindName(trace, layer)}`, ...beside(columns, layer)];
  if (expert !== null) {
    const chosen = selected.tokens
      ? reading
          .chosenBy(layer, expert)
          .tokens.filter((t) => t >= positions[0] && t <= positions.at(-1)).length
      : counts()[layer * reading.E + expert];
    parts.push(`; expert ${expert} chosen by ${whole(chosen)}`);
  }
  if (reading.other)
    parts.push(`; in all ${percent(reading.differ().share)} of choices differ`);
  return [...parts, "."];
}

/** What lies under the pointer, while it is there. */
export function pointedAt(reading, state, { layer, expert }) {
  if (expert === null)
    return [`Layer ${layer}${kindName(reading.trace, layer)}: click to select it.`];
  const parts = [`Layer ${layer}, expert ${expert}`];
  if (kindOf(state.selected) !== "token") {
    const { length } = reading.chosenBy(layer, expert).tokens;
    return [...parts, `: chosen by ${whole(length)} of ${whole(reading.T)} tokens.`];
  }
  const says = (list, who) => {
    const rank = list.findIndex((c) => c.expert === expert);
    if (rank < 0) parts.push(`: not chosen${who}`);
    else {
      const weight = list[rank].weight;
      parts.push(`: rank ${rank + 1} of ${list.length}${who}`);
      if (weight !== null) parts.push(`, weight ${weight.toFixed(2)}`);
    }
  };
  says(reading.choices(state.token, layer), reading.other ? " in the first trace" : "");
  if (reading.other) says(reading.choicesOfOther(state.token, layer), " in the second");
  return [...parts, "."];
}
