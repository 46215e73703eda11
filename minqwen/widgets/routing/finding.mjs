// The first view: where it opens, and one finding about this trace.
import { largest } from "./data.mjs";
import { kindOf } from "./reading.mjs";
import { CONTENT, KINDS, kindsOf, percent, whole } from "./words.mjs";

const [PICTURE] = KINDS.keys();

const TRIED = 400; // of the most particular experts: the others are tested for nothing
const CLEAR = 0.05; // chance that any expert of the trace stands out so by accident
const PERHAPS = 0.001; // chance that a given one does: among so many this proves nothing
const LEANS = 3; // times the even share: below that, a busy expert is not worth a word

// What an expert does with its tokens, and what they are, by kind.
const READS = [
  ["the picture", "patches"], ["the chat's markers", "special markers"],
  ["spaces and line ends", "spaces or line ends"], ["numbers", "numbers"],
  ["the beginnings of words", "words or their beginnings"],
  ["words' later parts", "later parts of words"], ["punctuation", "punctuation"],
  ["parts of characters", "parts of characters"],
];

/** The answer's last word or number, or the text's; the last token where no text is known. */
export function contentToken({ trace, tokens, pictures, T }) {
  const kinds = trace.meta.tokens && kindsOf(tokens, pictures);
  const says = (t) => kinds && CONTENT.includes(kinds[t]);
  for (const from of [trace.meta.prompt_length ?? 0, 0])
    for (let t = T - 1; t >= from; t--) if (says(t)) return t;
  return T - 1;
}

/** What stands out most: { parts: a sentence, selected }, or null if nothing does. */
export function finding(reading) {
  if (reading.other) return betweenTraces(reading);
  return (reading.kinds && ofKinds(reading)) ?? ofLoad(reading);
}

/** An expert most of whose tokens are of one kind, far more than by chance. */
function ofKinds(reading) {
  const { L, E, T } = reading;
  const { bits, leading, byKind, overall } = reading.special();
  const counts = reading.counts();
  const cells = [...bits.keys()].sort((a, b) => bits[b] - bits[a]).slice(0, TRIED);
  const tail = hypergeometric(T);
  const chance = cells.map((cell) => {
    const [kind, n] = [leading[cell], counts[cell]];
    const k = byKind[cell * KINDS.length + kind];
    return 2 * k > n ? tail(k, n, Math.round(overall[kind] * T)) : 1;
  });
  const clear = cells.filter((_, i) => chance[i] * L * E * KINDS.length < CLEAR);
  const found = clear.length ? clear : cells.filter((_, i) => chance[i] < PERHAPS);
  if (!found.length) return null;
  // Pictures first: that an expert sees is more of a surprise than that it counts commas.
  const seen = !reading.labels && found.find((each) => leading[each] === PICTURE);
  const cell = seen || found[0];
  const [{ layer, expert }, kind] = [reading.place(cell), leading[cell]];
  const share = byKind[cell * KINDS.length + kind] / counts[cell];
  const name = { text: reading.kindNames[kind] };
  const [what, are] = reading.labels ? [name, name] : READS[kind];
  return {
    selected: { layer, expert },
    parts: [
      `Expert ${expert} of layer ${layer} ${clear.length ? "reads" : "may read"} `, what,
      `: ${percent(share)} of its ${whole(counts[cell])} tokens are `, are, ", of all tokens ",
      `${percent(overall[kind])}.${clear.length ? "" : " Among so many experts that can be chance."}`,
    ],
  };
}

/** The most chosen expert of all, if it has far more than an even share. */
function ofLoad({ L, E, T, counts, place, timesEven }) {
  const all = counts();
  const [best] = largest(all, 1);
  const lift = timesEven(all[best]);
  if (lift < LEANS || all[best] < 8 || L * E < 2) return null;
  const { layer, expert } = place(best);
  const share = `${percent(all[best] / T)} of tokens, ${lift.toFixed(1)} times the even share`;
  return { selected: { layer, expert }, parts: [`Layer ${layer} leans on expert ${expert}: chosen by ${share}.`] };
}

function betweenTraces({ differ, L, K, T }) {
  const { perLayer, share } = differ();
  const most = perLayer.indexOf(Math.max(...perLayer));
  if (!share) return { selected: {}, parts: ["The two traces choose the same experts everywhere."] };
  return {
    selected: { layer: most },
    parts: [
      `The two traces differ in ${percent(share)} of their choices`,
      L > 1 ? `, most in layer ${most}, ${percent(perLayer[most] / (T * K))}.` : ".",
    ],
  };
}

/** (k, n, all) -> P(at least k of n tokens drawn from T are among `all` given ones). */
function hypergeometric(T) {
  const logs = new Float64Array(T + 1); // of factorials
  for (let i = 1; i <= T; i++) logs[i] = logs[i - 1] + Math.log(i);
  const choose = (n, k) => (k < 0 || k > n ? -Infinity : logs[n] - logs[k] - logs[n - k]);
  return (k, n, all) => {
    let sum = 0;
    for (let i = k; i <= Math.min(n, all); i++)
      sum += Math.exp(choose(all, i) + choose(T - all, n - i) - choose(T, n));
    return sum;
  };
}

/** Whether a finding's subject is selected now. */
export const isShown = ({ selected }, now) =>
  kindOf(selected) === kindOf(now) && selected.layer === now.layer && selected.expert === now.expert;
