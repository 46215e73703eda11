// What StateExplorer's canvases show, in sentences. No DOM in here.

import { dot, norm, recall, row } from "./delta.mjs";
import { quoted } from "../shared/look.mjs";
import { STEPS, cosine, largest } from "./data.mjs";
import { brief } from "./draw.mjs";

export const FORMULAS = {
  forget: "S ← exp(g) S",
  ask: "Sᵀk",
  compare: "e = β (v − Sᵀk)",
  write: "S ← S + k eᵀ",
  answer: "o = Sᵀq",
};

/** A token by number and text, as sentences name it. */
export const named = (tokens, t) => `token ${t} “${quoted(tokens[t])}”`;

const percent = (x) => `${brief(100 * x)} %`;

/** Where we are: the first sentence of the text line. */
export function placeWords({ head, tokens, token, step }) {
  const place = `Layer ${head.layer}, head ${head.head}, ${named(tokens, token)}`;
  return `${place}, step ${STEPS.indexOf(step) + 1} of ${STEPS.length}.`;
}

/** What the step does, with its numbers; shares: the weights of the output by token. */
export function stepWords({ parts, step, tokens, token, shares, head }) {
  const { before, faded, after, kept, beta, key, value, known, error, output } = parts;
  const part = (read) => brief(dot(read, value) / (dot(value, value) || 1));
  switch (step) {
    case "forget":
      return (
        `Forget: all numbers are multiplied by exp(g) = ${brief(kept)}; ` +
        `the memory's length goes from ${brief(norm(before))} to ${brief(norm(faded))}.`
      );
    case "ask":
      return (
        `Ask: the token's key gets back a vector of length ${brief(norm(known))}, ` +
        `which is ${part(known)} of the value along it (cosine ${brief(cosine(known, value))}).`
      );
    case "compare":
      return (
        `Compare: the value is ${brief(norm(value))} long; beta = ${brief(beta)} times ` +
        `what is missing is the error, ${brief(norm(error))} long.`
      );
    case "write":
      return (
        `Write: key times error is added; the memory's length goes from ` +
        `${brief(norm(faded))} to ${brief(norm(after))}, and the key now gets back ` +
        `${part(recall(after, key, value.length))} of the value.`
      );
    default:
      return (
        `Answer: the query reads an output ${brief(norm(output))} long. ` +
        sharesWords(shares, tokens, token, "of its weights") + startWords(head)
      );
  }
}

const startWords = (head) =>
  head.start ? " What was in the memory before token 0 adds its part." : "";

/** The largest of the weights that add up to an output. */
export function sharesWords(shares, tokens, token, of) {
  const [best, share] = largest(shares);
  const self = best === token ? " itself" : "";
  return `The largest share ${of}, ${percent(share)}, is that of ${named(tokens, best)}${self}.`;
}

/** What the probe's key would return now. */
export function probeWords({ kept, head, tokens, token, probe }) {
  const name = named(tokens, probe);
  if (probe > token) return `Probe: ${name} is not written yet.`;
  const [share, likeness] = [kept.share[token - probe], kept.cosine[token - probe]];
  const value = norm(row(head.v, probe, head.V));
  const first = brief(kept.share[0]);
  const age = token - probe;
  return (
    `Probe: the key of ${name}, written ${age === 1 ? "1 token" : `${age} tokens`} ago, ` +
    `would now get back ${brief(share)} of its value (cosine ${brief(likeness)}, value ` +
    `${brief(value)} long); right after its write it was ${first}.`
  );
}

/** A trace's name, as shared/pair.mjs has it. */
export const traceName = (name) => (name.text ? `“${name.text}”` : name);

/** The same head in the second trace; rival: its Replay, or null, kept: its probe's. */
export function rivalWords({ second: { at, names }, rival, theirs, token, probe, parts }) {
  const name = traceName(names[1]);
  if (!rival) return `In ${name}: this head was not recorded.`;
  if (at(token) < 0) return `In ${name}: nothing to compare, its text does not have token ${token}.`;
  if (rival.done <= at(token)) return `In ${name}: still being replayed.`;
  const after = rival.seek(at(token));
  const alike = `${brief(norm(after))} long, cosine ${brief(cosine(after, parts.after))} with this one`;
  const asked = probe > token || !theirs ? "" : `; the probe gets back ${brief(theirs.share[token - probe])}`;
  return `In ${name}: after this token the memory is ${alike}${asked}.`;
}

/** A head of the overview, in one line of a list. */
export function headWords({ layer, head, norm: length, halfLife }) {
  const life = halfLife >= 1e6 ? "forgets nothing" : `half-life ${brief(halfLife)}`;
  return `layer ${layer}, head ${head}: ${life}, norm ${brief(length)}`;
}
